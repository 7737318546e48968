package kvraft_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// seed is a machine of a cluster that assembles itself.
type seed struct {
	machine
	id    string
	opts  []kvraft.Option
	store *kvraft.Store // nil: down
}

// seeds are n machines with the same options, those of a command line that is the
// same on all of them.
func seeds(t *testing.T, network *kvrafttest.Network, n int, opts ...kvraft.Option) (all []*seed) {
	t.Helper()
	var addrs []string
	for i := range n {
		addrs = append(addrs, fmt.Sprintf("n%d:7000", i+1))
	}
	opts = append([]kvraft.Option{kvraft.WithBootstrapExpect(n), kvraft.WithJoin(addrs...)}, opts...)
	for i := range n {
		s := &seed{machine: newMachine(t, network), id: fmt.Sprint("n", i+1), opts: opts}
		t.Cleanup(func() { s.stop(t) })
		all = append(all, s)
	}
	return all
}

func (s *seed) up(t *testing.T) {
	t.Helper()
	s.store = s.start(t, s.id, s.id, s.opts...)
}

func (s *seed) stop(t *testing.T) {
	t.Helper()
	if s.store != nil {
		closeStore(t, s.store)
		s.store = nil
	}
}

// crash is kill -9.
func (s *seed) crash(t *testing.T) {
	t.Helper()
	s.disk.Crash()
	s.network.Reset(s.id)
	if err := s.store.Close(); err != nil && !errors.Is(err, kvrafttest.ErrCrashed) {
		t.Errorf("clear %s away: %v", s.id, err)
	}
	s.store = nil
}

// wantOneCluster waits until all nodes are ready voters of the same one.
func wantOneCluster(t *testing.T, all []*seed) {
	t.Helper()
	for _, s := range all {
		eventually(t, s.id+" is ready", func() bool { return s.store.Status().Ready && s.store.Status().Voter })
	}
	for _, s := range all {
		st := s.store.Status()
		if st.Cluster != all[0].store.Status().Cluster || len(st.Nodes) != len(all) {
			t.Errorf("%s is in cluster %s of %v", s.id, st.Cluster, st.Nodes)
		}
	}
	for i, s := range all {
		key := fmt.Sprint("from ", s.id)
		mustSet(t, s.store, key, "value")
		wantValue(t, all[(i+1)%len(all)].store, key, "value")
	}
}

func TestEmptyNodesFoundOneClusterInWhateverOrderTheyStart(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		for _, apart := range []time.Duration{0, time.Millisecond, 10 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				all := seeds(t, kvrafttest.NewNetwork(), 3)
				for _, i := range order {
					all[i].up(t)
					time.Sleep(apart)
				}
				wantOneCluster(t, all)
				if st := all[0].store.Status(); !st.Founded {
					t.Error("it does not say that it was founded by this start")
				}
			})
		}
	}
}

// It takes all of them, and says so.
func TestNodesThatAreTooFewWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := seeds(t, kvrafttest.NewNetwork(), 3)
		all[0].up(t)
		all[1].up(t)
		time.Sleep(time.Minute)
		for _, s := range all[:2] {
			st := s.store.Status()
			if st.State != kvraft.Joining || st.Cluster != "" || st.Term != 0 {
				t.Errorf("%s: %+v", s.id, st)
			}
			for _, word := range []string{"waiting to form a cluster", "found 2 of 3 nodes", "n3:7000", "connection refused"} {
				if !strings.Contains(st.Reason, word) {
					t.Errorf("%s: the reason lacks %q: %s", s.id, word, st.Reason)
				}
			}
		}
		all[2].up(t)
		wantOneCluster(t, all)
	})
}

// Nodes are killed and started again at any moment of the founding, their own
// addresses are among those they are given, and the network is cut: there is one
// cluster, as soon as all are up and connected.
func TestAFoundingSurvivesCrashesAndCuts(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range scale(t, 200) {
		synctest.Test(t, func(t *testing.T) {
			network := kvrafttest.NewNetwork()
			all := seeds(t, network, 3+2*random.IntN(2))
			clusters := map[string]bool{}
			for range 3 * len(all) {
				s := all[random.IntN(len(all))]
				switch {
				case s.store == nil:
					s.up(t)
				case random.IntN(2) == 0:
					s.crash(t)
				case random.IntN(2) == 0:
					s.stop(t)
				default:
					network.Isolate(s.id)
				}
				time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
				for _, s := range all {
					if s.store != nil && s.store.Status().Cluster != "" {
						clusters[s.store.Status().Cluster] = true
					}
				}
			}
			network.Heal()
			for _, s := range all {
				if s.store == nil {
					s.up(t)
				}
			}
			wantOneCluster(t, all)
			clusters[all[0].store.Status().Cluster] = true
			if len(clusters) != 1 {
				t.Errorf("there were clusters %v", clusters)
			}
		})
	}
}

// A storage error at each step of the founding of one of them: when its disk is
// well again and it starts anew, the founding goes on.
func TestAFoundingSurvivesADiskThatFails(t *testing.T) {
	t.Parallel()
	for k := range few(40) {
		synctest.Test(t, func(t *testing.T) {
			all := seeds(t, kvrafttest.NewNetwork(), 3)
			all[0].up(t)
			all[1].up(t)
			broken, count := errors.New("input/output error"), 0
			all[2].disk.SetFault(func(op kvrafttest.Operation) error {
				if op.Name == "Set" || op.Name == "StoreLogs" {
					if count++; count > k {
						return broken
					}
				}
				return nil
			})
			store, err := kvraft.Open(all[2].dir, append([]kvraft.Option{kvraft.WithID("n3"), kvraft.WithAddr("n3:7000"),
				kvraft.WithNetwork(all[2].network.Host("n3")), kvraft.WithLogStore(all[2].disk.Open())}, all[2].opts...)...)
			if err == nil {
				time.Sleep(10 * time.Second)
				if err := store.Close(); err != nil && !errors.Is(err, broken) {
					t.Error(err)
				}
			}
			all[2].disk.SetFault(nil)
			all[2].up(t)
			wantOneCluster(t, all)
		})
	}
}

func TestAnEmptyNodeJoinsTheClusterThatIsThereAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		all := seeds(t, network, 3)
		for _, s := range all {
			s.up(t)
		}
		wantOneCluster(t, all)
		cluster := all[0].store.Status().Cluster
		for i, s := range all { // each comes back without its data, by the same command line
			s.crash(t)
			s.machine = newMachine(t, network)
			s.up(t)
			wantOneCluster(t, all)
			if now := s.store.Status().Cluster; now != cluster {
				t.Errorf("node %d is in cluster %s, was in %s", i, now, cluster)
			}
		}
		late := &seed{machine: newMachine(t, network), id: "late", opts: all[0].opts}
		late.up(t)
		wantOneCluster(t, append(all, late))
		late.stop(t)
	})
}

// Two of three without their data are enough to be expected by each other, and
// must not take the third for lost.
func TestAWipedMajorityDoesNotFoundAnew(t *testing.T) {
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
		for _, s := range all[1:] {
			s.machine = newMachine(t, network)
			s.up(t)
		}
		time.Sleep(time.Minute)
		all[0].up(t)
		time.Sleep(time.Minute)
		for _, s := range all[1:] {
			if st := s.store.Status(); st.Cluster != "" || st.State != kvraft.Joining {
				t.Errorf("%s: %+v", s.id, st)
			}
		}
	})
}

func TestMoreNodesThanAreExpectedMakeOneClusterToo(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	for range scale(t, 50) {
		synctest.Test(t, func(t *testing.T) {
			network := kvrafttest.NewNetwork()
			all := seeds(t, network, 5, kvraft.WithBootstrapExpect(3))
			for _, i := range random.Perm(5) {
				all[i].up(t)
				time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
			}
			wantOneCluster(t, all)
		})
	}
}

// Each knows one other only.
func TestNodesFindEachOtherThroughOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		var all []*seed
		for i := range 5 {
			next := fmt.Sprintf("n%d:7000", (i+1)%5+1)
			s := &seed{machine: newMachine(t, network), id: fmt.Sprint("n", i+1), opts: []kvraft.Option{kvraft.WithBootstrapExpect(5), kvraft.WithJoin(next)}}
			s.up(t)
			defer s.stop(t)
			all = append(all, s)
		}
		wantOneCluster(t, all)
	})
}

func TestNodesThatCannotFoundTogetherSayWhy(t *testing.T) {
	join := kvraft.WithJoin("a:7000", "b:7000")
	for name, c := range map[string]struct {
		a, b []kvraft.Option
		want string
	}{
		"one id twice":      {[]kvraft.Option{kvraft.WithID("n"), kvraft.WithBootstrapExpect(2)}, []kvraft.Option{kvraft.WithID("n"), kvraft.WithBootstrapExpect(2)}, "are both called n"},
		"different numbers": {[]kvraft.Option{kvraft.WithID("a"), kvraft.WithBootstrapExpect(2)}, []kvraft.Option{kvraft.WithID("b"), kvraft.WithBootstrapExpect(3)}, "start all with the same WithBootstrapExpect"},
		"one address twice": {[]kvraft.Option{kvraft.WithID("a"), kvraft.WithBootstrapExpect(2), kvraft.WithAdvertise("a:7000")}, []kvraft.Option{kvraft.WithID("b"), kvraft.WithBootstrapExpect(2), kvraft.WithAdvertise("a:7000")}, "says that it is reached at a:7000, where"},
		"unreachable":       {[]kvraft.Option{kvraft.WithID("a"), kvraft.WithBootstrapExpect(2)}, []kvraft.Option{kvraft.WithID("b"), kvraft.WithBootstrapExpect(2), kvraft.WithAdvertise("nowhere:7000")}, "says that it is reached at nowhere:7000"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := kvrafttest.NewNetwork()
				a := on(t, network, "", "a", append(c.a, join)...)
				b := on(t, network, "", "b", append(c.b, join)...)
				time.Sleep(10 * time.Second)
				if reason := a.Status().Reason; !strings.Contains(reason, c.want) {
					t.Errorf("a: %s\nwant %q", reason, c.want)
				}
				for _, s := range []*kvraft.Store{a, b} {
					if st := s.Status(); st.Cluster != "" {
						t.Errorf("%+v", st)
					}
				}
			})
		})
	}
}

// One of those that promised lost its directory before the cluster was there.
func TestAFoundingWithoutOneOfItsNodesSaysWhatToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		all := seeds(t, network, 3)
		for _, s := range all {
			s.up(t)
		}
		eventually(t, "one has promised", func() bool { return slices.ContainsFunc(all, func(s *seed) bool { return s.store.Promised() }) })
		if slices.ContainsFunc(all, func(s *seed) bool { return s.store.Status().Cluster != "" }) {
			t.Fatal("the founding was over in the same step: the test shows nothing")
		}
		all[0].crash(t)
		all[0].machine = newMachine(t, network)
		all[0].up(t)
		time.Sleep(time.Minute)
		for _, s := range all[1:] {
			if s.store.Promised() && !strings.Contains(s.store.Status().Reason, "if it has lost its data directory") {
				t.Errorf("%s: %s", s.id, s.store.Status().Reason)
			}
			s.crash(t)
			s.machine = newMachine(t, network)
			s.up(t)
		}
		wantOneCluster(t, all)
	})
}

func TestOptionsForFoundingTogetherAreChecked(t *testing.T) {
	for name, opts := range map[string][]kvraft.Option{
		"a negative number":       {kvraft.WithBootstrapExpect(-1), kvraft.WithJoin("a:1")},
		"too many":                {kvraft.WithBootstrapExpect(33), kvraft.WithJoin("a:1")},
		"nobody to found with":    {kvraft.WithBootstrapExpect(3)},
		"a replica that founds":   {kvraft.WithBootstrapExpect(3), kvraft.WithJoin("a:1"), kvraft.WithReplica()},
		"a replica without a way": {kvraft.WithReplica()},
		"a name without a port":   {kvraft.WithJoin("dns://name")},
	} {
		if _, err := kvraft.Open(t.TempDir(), opts...); !errors.Is(err, kvraft.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A node is admitted to a cluster, by an operator, while it looks for others to found
// one with. It belongs to the one that admitted it, also when it starts again.
func TestANodeThatIsAdmittedInTheMiddleOfAFoundingFoundsNoOther(t *testing.T) {
	for _, at := range []time.Duration{time.Second, 4700 * time.Millisecond, 4900 * time.Millisecond, 4950 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			network := kvrafttest.NewNetwork()
			x := on(t, network, "x", "x")
			mustSet(t, x, "key", "before")
			all := seeds(t, network, 3)
			network.Isolate("hang") // it makes each round take 5 s
			all[2].opts = append(all[2].opts[:len(all[2].opts):len(all[2].opts)], kvraft.WithJoin("hang:7000"))
			for _, s := range all {
				s.up(t)
			}
			eventually(t, "the others have promised", func() bool { return all[0].store.Promised() && all[1].store.Promised() })
			if all[2].store.Promised() {
				t.Fatal("the third has promised as well: the test shows nothing")
			}
			all[2].crash(t)
			time.Sleep(10 * time.Second)
			all[2].up(t)
			time.Sleep(at)
			if err := x.Join(within(t, 10*time.Second), "n3", "n3:7000"); err != nil {
				t.Fatal("it had promised before it was asked: ", err)
			}
			mustSet(t, x, "key", "with n3")
			for range 2 {
				time.Sleep(time.Minute)
				if now := all[2].store.Status(); now.Cluster != x.Status().Cluster || !now.Ready {
					t.Errorf("at %v: it is in cluster %s, was admitted to %s; %s", at, now.Cluster, x.Status().Cluster, now.Reason)
				}
				wantValue(t, all[2].store, "key", "with n3")
				for _, s := range all[:2] {
					if st := s.store.Status(); st.Cluster != "" && st.Cluster != x.Status().Cluster {
						t.Errorf("%s is in cluster %s", s.id, st.Cluster)
					}
				}
				all[2].stop(t)
				all[2].up(t)
			}
		})
	}
}

func TestNodesThatWaitToBeAdmittedDoNotHoldUpAFounding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		all := seeds(t, network, 3)
		members := kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000")
		replica := on(t, network, "r", "r", kvraft.WithReplica(), members)
		joiner := on(t, network, "j", "j", members)
		for _, s := range all {
			s.opts = append(s.opts[:len(s.opts):len(s.opts)], kvraft.WithJoin("r:7000", "j:7000")) // as gossip finds them
			s.up(t)
		}
		for _, s := range []*kvraft.Store{replica, joiner, all[0].store, all[1].store, all[2].store} {
			eventually(t, "all are ready", ready(s))
		}
		if ids := memberIDs(t, joiner); ids != "j n1 n2 n3 r" {
			t.Errorf("members %s", ids)
		}
		for _, s := range all { // before the others, which are voters of their cluster
			s.stop(t)
		}
	})
}

// A node that has promised, and was down when the others founded, must not have its
// user throw away what they have written.
func TestAFounderThatMissedTheFoundingWaitsForThoseThatMayHoldData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		all := seeds(t, network, 3)
		network.Isolate("hang") // it makes each round of the third take 5 s
		all[2].opts = append(all[2].opts[:len(all[2].opts):len(all[2].opts)], kvraft.WithJoin("hang:7000"))
		for _, s := range all {
			s.up(t)
		}
		eventually(t, "two have founded", func() bool {
			return all[0].store.Status().Cluster != "" && all[1].store.Status().Cluster != ""
		})
		if !all[2].store.Promised() {
			t.Fatal("the third has founded as well: the test shows nothing")
		}
		all[2].crash(t)
		mustSet(t, all[0].store, "key", "acknowledged")
		all[0].crash(t)
		all[1].crash(t)
		all[0].machine = newMachine(t, network) // wiped; the second is down, and has the data
		all[0].up(t)
		all[2].up(t)
		time.Sleep(time.Minute)
		reason := all[2].store.Status().Reason
		if strings.Contains(reason, "empty") || !strings.Contains(reason, "they may hold data") {
			t.Errorf("it says: %s", reason)
		}
		all[1].up(t)
		wantOneCluster(t, all)
		wantValue(t, all[2].store, "key", "acknowledged")
	})
}

// It was down while the others founded, and then the only one died whose address it was
// given: the two that are left are a majority.
func TestAFounderThatMissedTheFoundingAsksAllWithWhomItPromised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		all := seeds(t, network, 3)
		network.Isolate("hang") // it makes each round of the third take 5 s
		all[2].opts = []kvraft.Option{kvraft.WithBootstrapExpect(3), kvraft.WithJoin("n1:7000", "hang:7000")}
		for _, s := range all {
			s.up(t)
		}
		eventually(t, "two have founded", func() bool {
			return all[0].store.Status().Cluster != "" && all[1].store.Status().Cluster != ""
		})
		if !all[2].store.Promised() {
			t.Fatal("the third has founded as well: the test shows nothing")
		}
		all[2].crash(t)
		mustSet(t, all[0].store, "key", "acknowledged")
		all[0].crash(t)
		all[2].up(t)
		for _, s := range all[1:] {
			eventually(t, s.id+" is ready", ready(s.store))
		}
		wantValue(t, all[2].store, "key", "acknowledged")
		all[0].up(t)
		wantOneCluster(t, all)
	})
}

// The only one died whose address it was given. It has found the others meanwhile.
func TestANodeJoinsThroughWhoeverItFoundWhileItWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		all := seeds(t, network, 3)
		network.Isolate("hang") // it makes each round of the fourth take 5 s
		late := &seed{machine: newMachine(t, network), id: "n4", opts: []kvraft.Option{kvraft.WithBootstrapExpect(3), kvraft.WithJoin("n1:7000", "hang:7000")}}
		defer late.stop(t)
		for _, s := range append(all, late) {
			s.up(t)
		}
		eventually(t, "the others have founded", func() bool {
			return !slices.ContainsFunc(all, func(s *seed) bool { return s.store.Status().Cluster == "" })
		})
		time.Sleep(8 * time.Second) // it has met them once
		if late.store.Status().Cluster != "" {
			t.Fatal("it has joined already: the test shows nothing")
		}
		all[0].crash(t)
		eventually(t, "it is ready", ready(late.store))
		if ids := memberIDs(t, late.store); ids != "n1 n2 n3 n4" {
			t.Errorf("members %s", ids)
		}
	})
}
