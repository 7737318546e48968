package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// Two of three are lost for good. The third begins a new cluster with what it has,
// and takes in others; the lost ones, found after all, stay out.
func TestASurvivorBeginsANewCluster(t *testing.T) {
	for _, log := range []string{"whole", "compacted"} {
		t.Run(log, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := kvrafttest.NewNetwork()
				all := seeds(t, network, 3)
				for _, s := range all {
					s.up(t)
				}
				wantOneCluster(t, all)
				for n := range 20 {
					mustSet(t, all[0].store, fmt.Sprint("key-", n), fmt.Sprint(n))
				}
				time.Sleep(time.Second)
				survivor := all[1]
				if log == "compacted" {
					if err := survivor.store.CompactAll(); err != nil {
						t.Fatal(err)
					}
					mustSet(t, all[0].store, "key-20", "20")
					time.Sleep(time.Second)
				}
				before := survivor.store.Status()
				for _, s := range all {
					s.crash(t)
				}

				here := []kvraft.Option{kvraft.WithLogStore(survivor.disk.Open())}
				seen, err := kvraft.Examine(survivor.dir, here...)
				if err != nil {
					t.Fatal(err)
				}
				if seen.ID != "n2" || seen.Addr != "n2:7000" || seen.Old != before.Cluster || seen.Cluster != "" || len(seen.Members) != 3 ||
					seen.Version != before.Version || seen.Keys != before.Keys || seen.Index < before.AppliedIndex || seen.Term < before.Term {
					t.Errorf("examined %+v, was %+v", seen, before)
				}
				for _, word := range []string{"Node n2", before.Cluster, "n1 (n1:7000), n3 (n3:7000)", "is lost", "empty their directories"} {
					if !strings.Contains(seen.String(), word) {
						t.Errorf("it does not say %q:\n%v", word, seen)
					}
				}
				did, err := kvraft.Recover(survivor.dir, kvraft.WithLogStore(survivor.disk.Open()))
				if err != nil {
					t.Fatal(err)
				}
				if did.Cluster == "" || did.Cluster == before.Cluster || did.Keys != before.Keys {
					t.Errorf("recovered %+v", did)
				}

				survivor.up(t)
				wantOneCluster(t, all[1:2])
				for n := range 20 {
					wantValue(t, survivor.store, fmt.Sprint("key-", n), fmt.Sprint(n))
				}
				if now := survivor.store.Status(); now.Cluster != did.Cluster {
					t.Errorf("cluster %s, want %s", now.Cluster, did.Cluster)
				}
				// The lost ones come back, and are a majority of the old cluster.
				for _, i := range []int{0, 2} {
					all[i].up(t)
				}
				mustSet(t, all[0].store, "key", "old")
				mustSet(t, survivor.store, "key", "new")
				time.Sleep(time.Minute)
				wantValue(t, all[2].store, "key", "old")
				wantValue(t, survivor.store, "key", "new")
				for _, i := range []int{0, 2} { // emptied, they join
					all[i].crash(t)
					all[i].machine = newMachine(t, network)
					all[i].up(t)
				}
				wantOneCluster(t, all)
				wantValue(t, all[0].store, "key", "new")
			})
		})
	}
}

// n1 and n2 have acknowledged writes that n3 never had, and are lost. Whoever holds a
// version of those must not take a write of the new cluster for one of them; nor
// one of another cluster that was begun from the same data.
func TestARecoveryGivesNoVersionOfALostWriteAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		all := seeds(t, network, 3)
		for _, s := range all {
			s.up(t)
		}
		wantOneCluster(t, all)
		kept := mustSet(t, all[0].store, "key", "kept")
		time.Sleep(time.Second)
		network.Isolate("n3")
		time.Sleep(5 * time.Second)
		var lost []uint64
		for n := range 5 {
			lost = append(lost, mustSet(t, all[0].store, "key", fmt.Sprint("lost ", n)))
		}
		for _, s := range all {
			s.crash(t)
		}
		network.Heal()

		survivor := all[2]
		seen, err := kvraft.Examine(survivor.dir, kvraft.WithLogStore(survivor.disk.Open()))
		if err != nil || seen.NewVersion != 0 || !strings.Contains(seen.String(), "leaves out more than 1099511627776 versions") {
			t.Errorf("%v, %v", seen, err)
		}
		did, err := kvraft.Recover(survivor.dir, kvraft.WithLogStore(survivor.disk.Open()))
		if err != nil || did.NewVersion < did.Version+1<<40 || !strings.Contains(did.String(), fmt.Sprint("Versions go on after ", did.NewVersion)) {
			t.Fatalf("%v, %v", did, err)
		}
		survivor.up(t)
		s := survivor.store
		wantOneCluster(t, all[2:])
		for range 2 { // the second time after a restart
			if e, err := s.Get(within(t, time.Minute), "key"); err != nil || e.Version != kept {
				t.Fatalf("%+v, %v", e, err)
			}
			for n := range 10 {
				if v := mustSet(t, s, "other", fmt.Sprint(n)); v <= did.NewVersion {
					t.Errorf("version %d, want one after %d", v, did.NewVersion)
				}
			}
			for _, version := range lost {
				wantLost(t, s, version)
			}
			if _, err := s.Get(within(t, time.Minute), "key", kvraft.AtLeast(did.NewVersion+1)); err != nil {
				t.Error(err)
			}
			survivor.crash(t)
			survivor.up(t)
			s = survivor.store
			wantOneCluster(t, all[2:])
		}
		if _, err := s.Set(within(t, time.Minute), "key", nil, kvraft.IfVersion(kept)); err != nil {
			t.Error(err)
		}

		again, err := kvraft.Recover(all[0].dir, kvraft.WithLogStore(all[0].disk.Open()))
		if err != nil || again.NewVersion == did.NewVersion {
			t.Errorf("another survivor goes on after version %d, the first after %d: %v", again.NewVersion, did.NewVersion, err)
		}
	})
}

// wantLost wants that nothing in the store passes for a version.
func wantLost(t *testing.T, s *kvraft.Store, version uint64) {
	t.Helper()
	for _, key := range []string{"key", "other"} {
		if _, err := s.Set(within(t, time.Minute), key, nil, kvraft.IfVersion(version)); !errors.Is(err, kvraft.ErrConflict) {
			t.Errorf("IfVersion(%d): %v", version, err)
		}
	}
	if _, err := s.Get(within(t, time.Minute), "key", kvraft.AtLeast(version)); !errors.Is(err, kvraft.ErrStale) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("AtLeast(%d): %v", version, err)
	}
	for e, err := range s.Watch(within(t, time.Minute), "", kvraft.After(version)) {
		if !errors.Is(err, kvraft.ErrCompacted) {
			t.Errorf("a watch after %d: %+v, %v", version, e, err)
		}
		break
	}
}

// Whichever operation on the disk fails, what is there afterwards is the old
// directory or the new, and a second call succeeds, or finds that there is nothing
// left to do.
func TestARecoveryThatIsCutOffCanBeRepeated(t *testing.T) {
	for k := range 12 {
		synctest.Test(t, func(t *testing.T) {
			network := kvrafttest.NewNetwork()
			all := seeds(t, network, 3)
			for _, s := range all {
				s.up(t)
			}
			wantOneCluster(t, all)
			for _, s := range all {
				s.crash(t)
			}
			broken, count := errors.New("input/output error"), 0
			all[0].disk.SetFault(func(op kvrafttest.Operation) error {
				if op.Name == "Set" || op.Name == "DeleteRange" {
					if count++; count > k {
						return broken
					}
				}
				return nil
			})
			_, err := kvraft.Recover(all[0].dir, kvraft.WithLogStore(all[0].disk.Open()))
			if count > k && !errors.Is(err, broken) || count <= k && err != nil {
				t.Errorf("with %d operations that succeed: %v", k, err)
			}
			all[0].disk.SetFault(nil)
			all[0].up(t) // in between it must not lead the old cluster's members
			time.Sleep(10 * time.Second)
			if st := all[0].store.Status(); count > k && st.Ready && len(st.Nodes) > 1 {
				t.Errorf("%+v", st)
			}
			all[0].stop(t)
			if _, err := kvraft.Recover(all[0].dir, kvraft.WithLogStore(all[0].disk.Open())); err != nil && !errors.Is(err, kvraft.ErrInvalid) || count <= k && err == nil {
				t.Fatalf("the second time, after %d operations that succeeded: %v", k, err)
			}
			all[0].up(t)
			wantOneCluster(t, all[:1])
			wantValue(t, all[0].store, "from n2", "value")
		})
	}
}

func TestARecoveryOfWhatCannotBeRecoveredIsRefused(t *testing.T) {
	running := t.TempDir()
	s := open(t, running)
	mustSet(t, s, "key", "value")
	damaged := t.TempDir()
	closeStore(t, open(t, damaged))
	if err := os.WriteFile(filepath.Join(damaged, "raft.db"), []byte("not a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	waiting := t.TempDir()
	closeStore(t, open(t, waiting, kvraft.WithJoin("127.0.0.1:1")))
	absent := filepath.Join(t.TempDir(), "absent")
	for name, c := range map[string]struct {
		dir  string
		opts []kvraft.Option
		want error
	}{
		"running":      {running, nil, kvraft.ErrLocked},
		"damaged":      {damaged, nil, kvraft.ErrDamaged},
		"no cluster":   {waiting, nil, kvraft.ErrInvalid},
		"empty":        {t.TempDir(), nil, kvraft.ErrInvalid},
		"absent":       {absent, nil, kvraft.ErrInvalid},
		"in memory":    {"", []kvraft.Option{kvraft.WithInMemory()}, kvraft.ErrInvalid},
		"no directory": {"", nil, kvraft.ErrInvalid},
	} {
		for what, f := range map[string]func(string, ...kvraft.Option) (kvraft.Recovery, error){"examine": kvraft.Examine, "recover": kvraft.Recover} {
			if _, err := f(c.dir, c.opts...); !errors.Is(err, c.want) {
				t.Errorf("%s: %s: %v, want %v", name, what, err, c.want)
			}
		}
	}
	if _, err := os.Stat(absent); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
	wantValue(t, s, "key", "value")
}

func TestAnExaminationTellsWhatTheNodeHasAndLeavesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, dir := kvrafttest.NewNetwork(), t.TempDir()
		s := open(t, dir, kvraft.WithID("n1"), kvraft.WithAddr("n1:7000"), kvraft.WithNetwork(network.Host("n1")))
		other := on(t, network, "n2", "n2", kvraft.WithJoin("n1:7000"))
		eventually(t, "there are two", ready(other))
		mustSet(t, s, "key", "before")
		if err := s.CompactAll(); err != nil {
			t.Fatal(err)
		}
		mustSet(t, s, "key", "after")
		closeStore(t, other)
		closeStore(t, s)
		if err := errors.Join(os.Remove(filepath.Join(dir, "raft.db.mark")), os.Mkdir(filepath.Join(dir, "snapshots", "2-9-1.tmp"), 0o700)); err != nil {
			t.Fatal(err)
		}
		before := dump(t, dir)
		for range 2 {
			if r, err := kvraft.Examine(dir); err != nil || r.Keys != 1 || len(r.Members) != 2 {
				t.Errorf("%+v, %v", r, err)
			}
			if after := dump(t, dir); after != before {
				t.Errorf("it had\n%s\nand has\n%s", before, after)
			}
		}
		for name, want := range map[string]error{"snapshots/2-9-1.tmp": nil, "raft.db.mark": os.ErrNotExist} {
			if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
	})
}

// dump is all that a stopped node has on disk.
func dump(t *testing.T, dir string) string {
	t.Helper()
	l, err := kvraft.OpenLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Err != nil || len(l.Snapshots) == 0 {
		t.Errorf("%d snapshots, %v", len(l.Snapshots), l.Err)
	}
	text := fmt.Sprintf("%+v\n%+v\n", l.Node, l.Snapshots)
	for e, err := range l.Entries(0, math.MaxUint64) {
		text += fmt.Sprintf("%+v %v\n", e, err)
	}
	return text
}

// What the old cluster had noted of the survivor ends with it: neither its removal,
// begun or done, nor that it had no vote.
func TestWhatTheOldClusterNotedOfASurvivorEnds(t *testing.T) {
	for _, removed := range []string{"noted", "done", "a replica"} {
		t.Run(removed, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := kvrafttest.NewNetwork()
				all := seeds(t, network, 3)
				for _, s := range all {
					s.up(t)
				}
				wantOneCluster(t, all)
				survivor := all[2]
				if err := all[0].store.TransferLeadership(within(t, time.Minute), "n1"); err != nil {
					t.Fatal(err)
				}
				switch removed {
				case "noted":
					release := all[0].store.HoldMembership()
					if err := all[0].store.NoteRetired(survivor.store); err != nil {
						t.Fatal(err)
					}
					time.Sleep(50 * time.Millisecond)
					all[0].crash(t)
					release()
				case "done":
					if err := all[0].store.Remove(within(t, time.Minute), "n3"); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
				case "a replica":
					survivor = &seed{machine: newMachine(t, network), id: "n4", opts: []kvraft.Option{kvraft.WithReplica(), kvraft.WithJoin("n1:7000")}}
					survivor.up(t)
					eventually(t, "the replica is ready", ready(survivor.store))
				}
				for _, s := range append(all, survivor) {
					switch {
					case s.store == nil:
					case s.store.Err() != nil:
						s.stop(t)
					default:
						s.crash(t)
					}
				}
				if _, err := kvraft.Recover(survivor.dir, kvraft.WithLogStore(survivor.disk.Open()), kvraft.WithAdvertise(survivor.id+":7000")); err != nil {
					t.Fatal(err)
				}
				survivor.opts = all[0].opts
				survivor.up(t)
				eventually(t, "it leads", ready(survivor.store))
				fresh := &seed{machine: newMachine(t, network), id: "x", opts: []kvraft.Option{kvraft.WithJoin(survivor.id + ":7000")}}
				fresh.up(t)
				defer fresh.stop(t)
				wantOneCluster(t, []*seed{survivor, fresh})
				time.Sleep(time.Minute)
				wantOneCluster(t, []*seed{survivor, fresh})
				survivor.stop(t)
			})
		})
	}
}
