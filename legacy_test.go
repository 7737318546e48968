package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// What hraftd has applied is there, writes go on, and a restart, which replays old
// entries and new ones, makes the same state of them.
func TestADirectoryOfHraftdIsTakenOver(t *testing.T) {
	for name, compact := range map[string]func(*hraftd){
		"log only":         func(h *hraftd) {},
		"snapshot and log": func(h *hraftd) { h.snapshot(0, 2); h.set("behind", "it") },
		"snapshots only":   func(h *hraftd) { h.snapshot(0, 1); h.set("behind", "one"); h.snapshot(0, 0) },
		"a crash in a snapshot": func(h *hraftd) {
			h.snapshot(0, 2)
			dir := filepath.Join(h.nodes[0].dir, "snapshots", "9-99-1700000000000.tmp")
			if err := os.Mkdir(dir, 0o755); err != nil {
				h.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "state.bin"), []byte(`{"user1":`), 0o600); err != nil {
				h.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := alone(t, kvrafttest.NewNetwork(), "n1")
				large := strings.Repeat("large", 300_000)
				h := startHraftd(t, s)
				h.set("user1", "superman")
				h.set("user1", "batman")
				h.set("user2", "robin")
				h.delete("user2")
				h.delete("user3")
				h.set("empty", "")
				h.set("", "of an empty key")
				h.set(large[:2000], large)
				compact(h)
				h.stop()

				s.up(t)
				eventually(t, "it leads", ready(s.store))
				st := s.store.Status()
				if st.Term <= h.term {
					t.Errorf("term %d after %d", st.Term, h.term)
				}
				if st.ID != "n1" || st.Cluster == "" || st.Founded || len(st.Nodes) != 1 {
					t.Errorf("%+v", st)
				}
				want := map[string]string{"user1": "batman", "empty": "", "": "of an empty key", large[:2000]: large}
				if value, ok := h.value("behind"); ok {
					want["behind"] = value
				}
				view, err := s.store.View(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for entry := range view.All() {
					value, ok := want[entry.Key]
					if !ok || value != string(entry.Value) || entry.Version != 2 {
						t.Errorf("%.20s = %.20s at version %d, want %.20s", entry.Key, entry.Value, entry.Version, value)
					}
				}
				if view.Len() != len(want) || view.Version() != 2 {
					t.Errorf("%d keys at version %d, want %d at 2", view.Len(), view.Version(), len(want))
				}
				if version := mustSet(t, s.store, "user2", "alfred"); version != 3 {
					t.Errorf("the first write has version %d", version)
				}
				index, sum := s.store.Hash()
				for range 2 {
					s.stop(t)
					s.up(t)
					eventually(t, "it leads again", ready(s.store))
					wantValue(t, s.store, "user1", "batman")
					wantValue(t, s.store, "user2", "alfred")
					if now := s.store.Status(); now.Cluster != st.Cluster {
						t.Errorf("cluster %s, then %s", st.Cluster, now.Cluster)
					}
					if again, now := s.store.Hash(); again == index || now != sum {
						t.Errorf("another state at index %d than at %d", again, index)
					}
					if err := s.store.CompactAll(); err != nil {
						t.Fatal(err)
					}
				}
				for _, key := range []string{"", large[:2000]} {
					wantValue(t, s.store, key, want[key])
					if _, err := s.store.Delete(t.Context(), key); err != nil {
						t.Errorf("delete %.20q: %v", key, err)
					}
				}
				if keys := s.store.Status().Keys; keys != len(want)-1 { // and user2 more
					t.Errorf("%d keys", keys)
				}
			})
		})
	}
}

// One node has all of the log, another a snapshot and the rest, the third nothing but
// a snapshot.
func TestAClusterOfHraftdIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := seeds(t, kvrafttest.NewNetwork(), 3)
		h := startHraftd(t, all...)
		for n := range 20 {
			h.set(fmt.Sprint("key-", n%7), fmt.Sprint(n))
			h.delete(fmt.Sprint("key-", n%5))
		}
		h.snapshot(1, 3)
		h.set("user1", "batman")
		h.snapshot(2, 0)
		h.stop()
		for _, s := range all {
			s.up(t)
		}
		wantOneCluster(t, all)
		wantEqualStates(t, all)
		for _, s := range all {
			wantValue(t, s.store, "user1", "batman")
			s.stop(t)
			s.up(t)
			wantOneCluster(t, all)
		}
		wantEqualStates(t, all)
	})
}

func wantEqualStates(t *testing.T, all []*seed) {
	t.Helper()
	eventually(t, "all nodes are at one log index", func() bool {
		for _, s := range all {
			if s.store.Index() != all[0].store.Index() {
				return false
			}
		}
		return true
	})
	index, sum := all[0].store.Hash()
	for _, s := range all {
		if i, now := s.store.Hash(); i != index || now != sum {
			t.Errorf("%s has another state, at index %d, than %s, at %d", s.id, i, all[0].id, index)
		}
	}
}

// The others have gone on when the third is started, with what it had when it was
// stopped, or with entries that never were committed.
func TestAMemberOfHraftdThatIsStartedLaterFollows(t *testing.T) {
	for _, late := range []string{"behind", "far behind", "ahead"} {
		t.Run(late, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := seeds(t, kvrafttest.NewNetwork(), 3)
				h := startHraftd(t, all...)
				h.set("user1", "superman")
				h.settle()
				i := h.leaderIndex()
				last := all[i]
				if late == "ahead" {
					h.cutOff(i)
					for range 5 {
						h.nodes[i].raft.Apply([]byte(`{"op":"set","key":"user1","value":"joker"}`), 0)
					}
				}
				h.stop(i)
				h.set("user1", "batman")
				h.stop()
				rest := slices.DeleteFunc(slices.Clone(all), func(s *seed) bool { return s == last })
				for _, s := range rest {
					s.up(t)
				}
				for _, s := range rest {
					eventually(t, s.id+" is ready", ready(s.store))
				}
				for n := range 10 {
					mustSet(t, rest[0].store, fmt.Sprint("key-", n), "value")
				}
				if late == "far behind" {
					for _, s := range rest {
						if err := s.store.CompactAll(); err != nil {
							t.Fatal(err)
						}
					}
				}
				for _, s := range rest { // the leader's successor knows the cluster's id
					s.stop(t)
					s.up(t)
					eventually(t, s.id+" is ready again", ready(s.store))
				}
				last.up(t)
				wantOneCluster(t, all)
				wantEqualStates(t, all)
				wantValue(t, last.store, "user1", "batman", kvraft.Stale)
				last.stop(t)
				last.up(t)
				wantOneCluster(t, all)
			})
		})
	}
}

func TestAMemberOfHraftdThatLostItsDirectoryIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := seeds(t, kvrafttest.NewNetwork(), 3)
		h := startHraftd(t, all...)
		h.set("user1", "batman")
		h.stop()
		for i, s := range all {
			if i == 1 {
				s.machine = newMachine(t, s.network)
			}
			s.up(t)
		}
		wantOneCluster(t, all)
		wantValue(t, all[1].store, "user1", "batman", kvraft.Stale)
		for _, s := range all { // with a new leader, and old ones
			s.stop(t)
			s.up(t)
			wantOneCluster(t, all)
		}
	})
}

// Neither with the directory that hraftd has left, nor with what kvraft has made of
// it; but empty it is a new one.
func TestARemovedMemberOfHraftdDoesNotComeBack(t *testing.T) {
	for _, started := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			all := seeds(t, kvrafttest.NewNetwork(), 3)
			h := startHraftd(t, all...)
			h.set("user1", "batman")
			h.stop()
			all[0].up(t)
			all[1].up(t)
			if started {
				all[2].up(t)
				wantOneCluster(t, all)
				all[2].stop(t)
			}
			if err := all[0].store.Remove(within(t, time.Minute), "n3"); err != nil {
				t.Fatal(err)
			}
			if err := all[0].store.Remove(within(t, time.Minute), "n3"); err != nil {
				t.Errorf("again: %v", err)
			}
			all[2].up(t)
			<-all[2].store.Done()
			if err := all[2].store.Err(); !errors.Is(err, kvraft.ErrRemoved) {
				t.Error(err)
			}
			all[2].stop(t)
			all[2].machine = newMachine(t, all[2].network)
			all[2].up(t)
			wantOneCluster(t, all)
		})
	}
}

// By mistake n3 is started on the directory of another cluster's n3.
func TestTwoClustersOfHraftdWithTheSameIDsStayApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all, others := seeds(t, kvrafttest.NewNetwork(), 3), seeds(t, kvrafttest.NewNetwork(), 3)
		for name, cluster := range map[string][]*seed{"one": all, "another": others} {
			h := startHraftd(t, cluster...)
			for range 20 {
				h.set("cluster", name)
			}
			h.stop()
		}
		mixed := []*seed{all[0], all[1], {machine: machine{all[2].network, others[2].disk, others[2].dir}, id: "n3", opts: all[2].opts}}
		defer func() { mixed[2].stop(t) }()
		for _, s := range mixed {
			s.up(t)
		}
		for _, s := range mixed[:2] {
			eventually(t, s.id+" is ready", ready(s.store))
		}
		time.Sleep(time.Minute)
		st := mixed[2].store.Status()
		if st.Ready || st.Cluster != "" || !strings.Contains(st.Reason, "two clusters of hraftd") {
			t.Errorf("%+v", st)
		}
		mustSet(t, mixed[0].store, "cluster", "the first")
		mixed[2].stop(t)
		mixed[0].stop(t)
		// The other two of that one get their third back.
		mixed[2] = &seed{machine: machine{others[0].network, others[2].disk, others[2].dir}, id: "n3", opts: others[2].opts}
		for _, s := range []*seed{others[0], mixed[2]} {
			s.up(t)
		}
		eventually(t, "the other cluster has a leader", ready(mixed[2].store))
		wantValue(t, mixed[2].store, "cluster", "another")
		if a, b := all[1].store.Status().Cluster, mixed[2].store.Status().Cluster; a == b {
			t.Errorf("both are cluster %s", a)
		}
	})
}

// logOfHraftd puts a log on the disk, from index 1, of one term.
func logOfHraftd(t *testing.T, s *seed, members raft.Configuration, commands ...string) {
	t.Helper()
	disk := s.disk.Open()
	entries := []*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(members)}}
	for i, c := range commands {
		entries = append(entries, &raft.Log{Index: uint64(i + 2), Term: 1, Type: raft.LogCommand, Data: []byte(c)})
	}
	if err := errors.Join(disk.SetUint64([]byte("CurrentTerm"), 1), disk.StoreLogs(entries)); err != nil {
		t.Fatal(err)
	}
}

func membersOf(ids ...string) (c raft.Configuration) {
	for i, id := range ids {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(fmt.Sprintf("n%d:7000", i+1))})
	}
	return c
}

func (s *seed) open(opts ...kvraft.Option) error {
	opts = append([]kvraft.Option{kvraft.WithAddr("n1:7000"), kvraft.WithNetwork(s.network.Host("n1")), kvraft.WithLogStore(s.disk.Open())}, opts...)
	store, err := kvraft.Open(s.dir, opts...)
	if err == nil {
		err = store.Close()
	}
	return err
}

// wantUntouched makes sure that hraftd can still go on.
func (s *seed) wantUntouched(t *testing.T, what string) {
	t.Helper()
	if record, err := s.disk.Open().Get([]byte("kvraft")); err == nil && len(record) > 0 {
		t.Errorf("%s: there is a record", what)
	}
}

func TestAnEntryOfHraftdThatCannotBeReadStopsTheStart(t *testing.T) {
	set := `{"op":"set","key":"k","value":"v"}`
	for what, bad := range map[string]raft.Log{
		"decode log entry":  {Data: []byte(`{"op":"set","key":"k"`)},
		`operation "touch"`: {Data: []byte(`{"op":"touch","key":"k"}`)},
		"invalid character": {Data: []byte{1, 0}},
		"unexpected end":    {},
		"decode config":     {Type: raft.LogConfiguration, Data: []byte("garbage")},
		"of type":           {Type: 99},
	} {
		s := alone(t, kvrafttest.NewNetwork(), "n1")
		logOfHraftd(t, s, membersOf("n1"), set, set, set, set)
		bad.Index, bad.Term = 3, 1
		disk := s.disk.Open()
		var rest [2]raft.Log
		err := errors.Join(disk.GetLog(4, &rest[0]), disk.GetLog(5, &rest[1]), disk.DeleteRange(3, 5), disk.StoreLogs([]*raft.Log{&bad, &rest[0], &rest[1]}))
		if err != nil {
			t.Fatal(err)
		}
		err = s.open()
		if !errors.Is(err, kvraft.ErrDamaged) || !strings.Contains(err.Error(), "entry 3") || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
		s.wantUntouched(t, what)
	}
}

func TestASnapshotOfHraftdThatCannotBeReadStopsTheStart(t *testing.T) {
	for content, what := range map[string]string{
		``:                   "snapshot",
		`["k"]`:              "snapshot",
		`{"k":"v"`:           "unexpected EOF",
		`{"k":1}`:            "cannot unmarshal number",
		`{"k":"v"} and more`: "bytes behind its end",
	} {
		s := alone(t, kvrafttest.NewNetwork(), "n1")
		logOfHraftd(t, s, membersOf("n1"), `{"op":"set","key":"k","value":"v"}`)
		name := snapshotOfHraftd(t, s, 2, 1, content)
		err := s.open()
		if !errors.Is(err, kvraft.ErrDamaged) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", content, err)
		}
		s.wantUntouched(t, content)
	}
}

// snapshotOfHraftd returns the name of its directory.
func snapshotOfHraftd(t *testing.T, s *seed, index, term uint64, content string) string {
	t.Helper()
	snapshots, err := raft.NewFileSnapshotStore(s.dir, 2, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, pipe := raft.NewInmemTransport("")
	sink, err := snapshots.Create(1, index, term, membersOf("n1"), 1, pipe)
	if err == nil {
		_, err = io.WriteString(sink, content)
	}
	if err := errors.Join(err, sink.Close()); err != nil {
		t.Fatal(err)
	}
	return sink.ID()
}

// The directory does not say which member it is.
func TestADirectoryOfHraftdGoesByTheIDThatHraftdWasTold(t *testing.T) {
	long := strings.Repeat("n", 129)
	for name, c := range map[string]struct {
		members []string
		opts    []kvraft.Option
		id      string // that it gets
		err     string // or part of the error
	}{
		"alone":                       {[]string{"node0"}, nil, "node0", ""},
		"alone and named":             {[]string{"node0"}, []kvraft.Option{kvraft.WithID("node0")}, "node0", ""},
		"named":                       {[]string{"node0", "node1"}, []kvraft.Option{kvraft.WithID("node1")}, "node1", ""},
		"alone and named otherwise":   {[]string{"node0"}, []kvraft.Option{kvraft.WithID("node1")}, "", `no member has the id "node1"; its members are node0`},
		"named otherwise":             {[]string{"node0", "node1"}, []kvraft.Option{kvraft.WithID("n")}, "", "its members are node0, node1"},
		"not named":                   {[]string{"node0", "node1"}, nil, "", "which of the members it is, node0, node1: name its id"},
		"named by its address":        {[]string{"n1:7000", "n2:7000"}, nil, "n1:7000", ""},
		"named by what it advertises": {[]string{"n1:7000", "n2:7000"}, []kvraft.Option{kvraft.WithAdvertise("n2:7000")}, "n2:7000", ""},
		"a space":                     {[]string{"node 0"}, nil, "", `id "node 0": want 1 to 128 bytes`},
		"a number sign":               {[]string{"node#0"}, nil, "", "without spaces and '#'"},
		"a number sign elsewhere":     {[]string{"node0", "node#1"}, []kvraft.Option{kvraft.WithID("node0")}, "", "in a new one"},
		"a long id":                   {[]string{long}, nil, "", "cannot be taken over"},
		"no member":                   {nil, nil, "", "it has no configuration"},
	} {
		s := alone(t, kvrafttest.NewNetwork(), "n1")
		logOfHraftd(t, s, membersOf(c.members...), `{"op":"set","key":"k","value":"v"}`)
		err := s.open(c.opts...)
		switch {
		case c.err != "":
			if !errors.Is(err, kvraft.ErrInvalid) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", name, err)
			}
			s.wantUntouched(t, name)
			continue
		case err != nil:
			t.Errorf("%s: %v", name, err)
		}
		if err := s.open(kvraft.WithID(c.id)); err != nil {
			t.Errorf("%s: again: %v", name, err)
		}
		if err := s.open(kvraft.WithID("another")); !errors.Is(err, kvraft.ErrInvalid) {
			t.Errorf("%s: under another id: %v", name, err)
		}
	}
}

// Whichever operation on the disk fails, the directory is hraftd's or kvraft's, and
// the next start takes it over.
func TestATakeOverThatIsCutOffCanBeRepeated(t *testing.T) {
	for k := range 8 {
		synctest.Test(t, func(t *testing.T) {
			s := alone(t, kvrafttest.NewNetwork(), "n1")
			h := startHraftd(t, s)
			h.set("user1", "batman")
			h.snapshot(0, 1)
			h.set("user2", "robin")
			h.stop()
			broken, count := errors.New("input/output error"), 0
			s.disk.SetFault(func(op kvrafttest.Operation) error {
				if op.Name == "Set" || op.Name == "StoreLogs" || op.Name == "DeleteRange" {
					if count++; count > k {
						return broken
					}
				}
				return nil
			})
			if err := s.open(); k == 0 && !errors.Is(err, broken) {
				t.Errorf("at the first operation: %v", err)
			}
			s.disk.SetFault(nil)
			if k == 0 {
				s.wantUntouched(t, "at the first operation")
			}
			s.up(t)
			eventually(t, "it leads", ready(s.store))
			wantValue(t, s.store, "user1", "batman")
			wantValue(t, s.store, "user2", "robin")
			s.stop(t)
		})
	}
}

// raft leaves a gap when it installs a snapshot on a node that has kept a log.
func TestALogOfHraftdWithAGapBehindASnapshotIsTakenOver(t *testing.T) {
	set := func(value string) string { return fmt.Sprintf(`{"op":"set","key":"k","value":%q}`, value) }
	for _, end := range []uint64{20, 18} {
		synctest.Test(t, func(t *testing.T) {
			s := alone(t, kvrafttest.NewNetwork(), "n1")
			logOfHraftd(t, s, membersOf("n1"), set("first"), set("second"))
			snapshotOfHraftd(t, s, end, 1, `{"k":"of the snapshot","l":"of the snapshot"}`)
			disk := s.disk.Open()
			for index := uint64(20); index < 23; index++ {
				if err := disk.StoreLog(&raft.Log{Index: index, Term: 1, Data: []byte(set(fmt.Sprint("entry ", index)))}); err != nil {
					t.Fatal(err)
				}
			}
			if end < 19 { // and the log does not begin behind it
				if err := s.open(); !errors.Is(err, kvraft.ErrDamaged) || !strings.Contains(err.Error(), "starts at entry 20") {
					t.Error(err)
				}
				return
			}
			for range 2 {
				s.up(t)
				eventually(t, "it leads", ready(s.store))
				wantValue(t, s.store, "k", "entry 22")
				wantValue(t, s.store, "l", "of the snapshot")
				s.stop(t)
			}
			if first, err := s.disk.Open().FirstIndex(); first != 20 {
				t.Errorf("the log begins at %d, %v", first, err)
			}
		})
	}
}

// n2 takes n1 for a member of its cluster, whatever its log says.
func TestANodeOfHraftdHearsItsMembersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		n1, n2 := alone(t, network, "n1"), alone(t, network, "n2")
		var log syncBuffer
		n1.opts = append(n1.opts, kvraft.WithLogger(log.logger()))
		logOfHraftd(t, n1, membersOf("n1"), `{"op":"set","key":"k","value":"v"}`)
		logOfHraftd(t, n2, membersOf("n1", "n2"))
		n1.up(t)
		n2.up(t)
		eventually(t, "n1 leads", ready(n1.store))
		time.Sleep(time.Minute)
		if st := n2.store.Status(); st.Ready || st.Cluster != "" || !strings.Contains(st.Reason, "empty its data directory") {
			t.Errorf("%+v", st)
		}
		if !strings.Contains(log.String(), "has no member n2") {
			t.Errorf("n1 has heard it:\n%s", &log)
		}
	})
}

func TestANodeTakenOverFromHraftdIsRecovered(t *testing.T) {
	for _, named := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			all := seeds(t, kvrafttest.NewNetwork(), 3)
			h := startHraftd(t, all...)
			h.set("user1", "batman")
			h.snapshot(0, 0)
			h.set("user2", "robin")
			h.stop()
			if _, err := kvraft.Examine(all[0].dir, kvraft.WithLogStore(all[0].disk.Open())); !errors.Is(err, kvraft.ErrInvalid) || !strings.Contains(err.Error(), "started") {
				t.Errorf("before it is taken over: %v", err)
			}
			all[0].wantUntouched(t, "examined")
			all[0].up(t)
			if named {
				all[1].up(t)
				eventually(t, "it is ready", ready(all[0].store))
				all[1].stop(t)
			}
			all[0].stop(t)
			seen, err := kvraft.Examine(all[0].dir, kvraft.WithLogStore(all[0].disk.Open()))
			if err != nil || seen.ID != "n1" || len(seen.Members) != 3 || seen.Keys != 2 || (seen.Old != "") != named {
				t.Errorf("%+v, %v", seen, err)
			}
			did, err := kvraft.Recover(all[0].dir, kvraft.WithLogStore(all[0].disk.Open()))
			if err != nil {
				t.Fatal(err)
			}
			all[0].up(t)
			wantOneCluster(t, all[:1])
			wantValue(t, all[0].store, "user1", "batman")
			wantValue(t, all[0].store, "user2", "robin")
			if st := all[0].store.Status(); st.Cluster != did.Cluster || did.Cluster == seen.Old {
				t.Errorf("cluster %s, was to be %s", st.Cluster, did.Cluster)
			}
			all[2].up(t) // it was lost, and still has what hraftd left
			time.Sleep(time.Minute)
			if st := all[2].store.Status(); st.Ready || st.Cluster != "" {
				t.Errorf("%+v", st)
			}
			for _, s := range all[1:] {
				s.stop(t)
				s.machine = newMachine(t, s.network)
				s.up(t)
			}
			wantOneCluster(t, all)
			wantValue(t, all[2].store, "user2", "robin")
		})
	}
}

// aliased is a network on which alias-n1 is another name of n1, and so on.
type aliased struct{ kvraft.Network }

func (a aliased) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return a.Network.Dial(ctx, strings.TrimPrefix(addr, "alias-"))
}

// hraftd's first node is known by the address that its name has, and the others by
// their names.
func TestAMemberOfHraftdIsReplacedUnderAnotherNameOfItsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := seeds(t, kvrafttest.NewNetwork(), 3)
		for _, s := range all {
			s.opts = append(slices.Clone(s.opts), kvraft.WithNetwork(aliased{s.network.Host(s.id)}))
		}
		h := startHraftd(t, all...)
		h.set("user1", "batman")
		h.stop()
		all[0].machine = newMachine(t, all[0].network)
		all[0].opts = append(all[0].opts, kvraft.WithAdvertise("alias-n1:7000"))
		for _, s := range all {
			s.up(t)
		}
		wantOneCluster(t, all)
		wantValue(t, all[0].store, "user1", "batman", kvraft.Stale)
		if st := all[1].store.Status(); st.Nodes[0].Addr != "alias-n1:7000" {
			t.Errorf("%+v", st)
		}
	})
}
