package kvraft_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

func TestADeadLeaderIsReplacedAtOnce(t *testing.T) {
	for _, nodes := range []int{3, 5} {
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, nodes)
			for range 10 {
				leader := c.WaitLeader()
				began := time.Now()
				done := make(chan time.Duration)
				for i := range nodes {
					if i == leader {
						continue
					}
					go func() {
						mustSet(t, c.Store(i), "key", "before")
						if _, err := c.Store(i).Set(within(t, 10*time.Second), fmt.Sprint("key-", i), []byte("value")); err != nil {
							t.Error(err)
						}
						done <- time.Since(began)
					}()
				}
				c.Crash(leader)
				for range nodes - 1 {
					if took := <-done; took > 100*time.Millisecond {
						t.Errorf("writes went on after %v", took)
					}
				}
				c.Restart(leader)
				c.WaitReady(leader)
			}
		})
	}
}

// The one whose log reaches furthest goes first: another one could not win, and
// would only cost time.
func TestTheVoterWithTheLongestLogTakesOver(t *testing.T) {
	for behind := range 2 {
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, 3)
			leader := c.WaitLeader()
			slow, fast := (leader+1)%3, (leader+2)%3
			if behind == 1 {
				slow, fast = fast, slow
			}
			c.Block(leader, slow)
			for n := range 5 { // more than is on its way when it arrives nowhere
				mustSet(t, c.Store(leader), fmt.Sprint("key-", n), strings.Repeat("v", 100<<10))
			}
			c.Crash(leader)
			began := time.Now()
			c.Heal() // only now the slow one learns of it
			eventually(t, "another leader", func() bool { l, ok := c.Leader(); return ok && l != leader })
			if l, _ := c.Leader(); l != fast {
				t.Errorf("node %d leads, want %d", l, fast)
			}
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Errorf("after %v", took)
			}
			c.Restart(leader)
		})
	}
}

// A process that is started again at once, before the others have looked, refuses
// no connection; but it says that it does not lead.
func TestALeaderThatIsStartedAnewAtOnceIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		all := seeds(t, network, 3)
		for _, s := range all {
			s.up(t)
		}
		wantOneCluster(t, all)
		for range 5 {
			leader, rest := 0, []*seed{}
			for i, s := range all {
				if s.store.Status().State == kvraft.Leading {
					leader = i
				} else {
					rest = append(rest, s)
				}
			}
			term := all[leader].store.Status().Term
			old := all[leader].store
			all[leader].disk.Crash()
			network.Reset(all[leader].id)
			all[leader].up(t)
			began := time.Now()
			eventually(t, "another leader", func() bool {
				l, ok := rest[0].store.Leader()
				return ok && l.ID != all[leader].id || rest[0].store.Status().Term > term
			})
			if took := time.Since(began); took > 200*time.Millisecond {
				t.Errorf("it took %v", took)
			}
			_ = old.Close() // the remains of the dead process
			wantOneCluster(t, all)
		}
	})
}

// troubled is a network on which a test refuses the connections that it likes.
type troubled struct {
	*kvrafttest.Host
	refuse atomic.Pointer[func(from, to string) bool]
}

func (n *troubled) Dial(ctx context.Context, addr string) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(addr)
	if refuse := n.refuse.Load(); refuse != nil && (*refuse)("", host) {
		return nil, &net.OpError{Op: "dial", Net: "mem", Err: syscall.ECONNREFUSED}
	}
	return n.Host.Dial(ctx, addr)
}

// healthy is a cluster whose leader must keep its place.
type healthy struct {
	network *kvrafttest.Network
	hosts   []*troubled
	stores  []*kvraft.Store
	leader  int
}

func newHealthy(t *testing.T, also ...kvraft.Option) *healthy {
	h := &healthy{network: kvrafttest.NewNetwork()}
	for i := range 3 {
		id := fmt.Sprint("n", i+1)
		host := &troubled{Host: h.network.Host(id)}
		h.hosts = append(h.hosts, host)
		opts := []kvraft.Option{kvraft.WithID(id), kvraft.WithAddr(id + ":7000"), kvraft.WithNetwork(host), kvraft.WithLogStore(kvrafttest.NewDisk().Open())}
		opts = append(opts, also...)
		if i > 0 {
			opts = append(opts, kvraft.WithJoin("n1:7000"))
		}
		s := open(t, t.TempDir(), opts...)
		eventually(t, id+" is ready", ready(s))
		h.stores = append(h.stores, s)
		if s.Status().State == kvraft.Leading {
			h.leader = i
		}
	}
	time.Sleep(time.Second)
	return h
}

// refuse makes dials from some nodes to some others fail as if nobody listened.
func (h *healthy) refuse(refused func(from, to int) bool) {
	for i, host := range h.hosts {
		f := func(_, to string) bool {
			for j := range h.hosts {
				if to == fmt.Sprint("n", j+1) && refused(i, j) {
					return true
				}
			}
			return false
		}
		host.refuse.Store(&f)
	}
}

// keepsItsPlace runs f under load and fails the test if anybody else leads then, or
// another term.
func (h *healthy) keepsItsPlace(t *testing.T, f func()) {
	t.Helper()
	term := h.stores[h.leader].Status().Term
	stop := writers(t, h.stores...)
	f()
	time.Sleep(10 * time.Second)
	h.refuse(func(int, int) bool { return false })
	stop()
	h.leads(t, term)
}

func (h *healthy) leads(t *testing.T, term uint64) {
	t.Helper()
	for i, s := range h.stores {
		if st := s.Status(); st.Term != term || st.Leader.ID != fmt.Sprint("n", h.leader+1) {
			t.Errorf("node %d: %s leads in term %d; it was n%d in term %d", i, st.Leader.ID, st.Term, h.leader+1, term)
		}
	}
}

func TestAHealthyLeaderKeepsItsPlace(t *testing.T) {
	for name, trouble := range map[string]func(t *testing.T, h *healthy){
		"when connections break again and again": func(t *testing.T, h *healthy) {
			for range 100 {
				for i := range h.hosts {
					h.network.Sever(fmt.Sprint("n", h.leader+1), fmt.Sprint("n", i+1))
				}
				time.Sleep(37 * time.Millisecond)
			}
		},
		"when its listener is away for a while": func(t *testing.T, h *healthy) {
			h.refuse(func(_, to int) bool { return to == h.leader })
			time.Sleep(5 * time.Second)
		},
		"when its accept queue is full and connections break": func(t *testing.T, h *healthy) {
			h.refuse(func(_, to int) bool { return to == h.leader })
			for range 20 {
				for i := range h.hosts {
					h.network.Sever(fmt.Sprint("n", h.leader+1), fmt.Sprint("n", i+1))
				}
				time.Sleep(211 * time.Millisecond)
			}
		},
		"when one follower is cut off and refused": func(t *testing.T, h *healthy) {
			lonely := (h.leader + 1) % 3
			h.refuse(func(from, to int) bool { return from == lonely || to == lonely })
			for i := range h.hosts {
				h.network.Sever(fmt.Sprint("n", lonely+1), fmt.Sprint("n", i+1))
			}
			time.Sleep(300 * time.Millisecond) // shorter than its own timeout
		},
		"when one follower is refused by it alone": func(t *testing.T, h *healthy) {
			lonely := (h.leader + 1) % 3
			h.refuse(func(from, to int) bool { return from == lonely && to == h.leader || from == h.leader && to == lonely })
			h.network.Sever(fmt.Sprint("n", lonely+1), fmt.Sprint("n", h.leader+1))
			time.Sleep(400 * time.Millisecond)
		},
		"when it pauses for less than the timeout": func(t *testing.T, h *healthy) {
			for i := range h.hosts {
				h.network.Block(fmt.Sprint("n", h.leader+1), fmt.Sprint("n", i+1))
				h.network.Block(fmt.Sprint("n", i+1), fmt.Sprint("n", h.leader+1))
			}
			time.Sleep(400 * time.Millisecond)
			h.network.Heal()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHealthy(t)
				h.keepsItsPlace(t, func() { trouble(t, h) })
			})
		})
	}
}

// One that has nothing to send, and would not dial at once.
func TestAHealthyLeaderKeepsItsPlaceWhenItIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealthy(t, kvraft.WithTiming(kvraft.Timing{Commit: 500 * time.Millisecond}))
		term := h.stores[h.leader].Status().Term
		h.refuse(func(_, to int) bool { return to == h.leader })
		for range 5 {
			for i := range h.hosts {
				h.network.Sever(fmt.Sprint("n", h.leader+1), fmt.Sprint("n", i+1))
			}
			time.Sleep(2 * time.Second)
		}
		h.leads(t, term)
	})
}

// A link that is lost says nothing of the process at its other end.
func TestALostLinkGoesByTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		other := (leader + 1) % 3
		c.Isolate(leader)
		began := time.Now()
		if _, err := c.Store(other).Set(within(t, time.Minute), "key", []byte("value")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 500*time.Millisecond {
			t.Errorf("the leader was replaced after %v: its lease had not ended", took)
		}
	})
}

// One that hangs, or whose links are lost, refuses nothing: README tells how long that
// takes.
func TestALeaderThatHangsIsReplacedAfterOneHeartbeat(t *testing.T) {
	const heartbeat = time.Second
	for _, nodes := range []int{3, 5} {
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, nodes)
			for range 15 {
				leader := c.WaitLeader()
				c.Isolate(leader)
				began := time.Now()
				mustSet(t, c.Store((leader+1)%nodes), "key", "value")
				if took := time.Since(began); took < 8*heartbeat/10 || took > 12*heartbeat/10 {
					t.Errorf("of %d nodes another wrote after %v", nodes, took)
				}
				c.Heal()
				c.WaitReady(leader)
				c.WaitConverged()
			}
		})
	}
}

// A follower that has not heard the leader for longer than the others asks in vain for
// their pre-votes, and waits to ask again. When they do not hear it either it does not
// wait on; here it alone can be elected.
func TestACandidateThatWaitsForPreVotesTakesOver(t *testing.T) {
	const heartbeat = time.Second
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, 3)
			leader := c.WaitLeader()
			deaf, other := (leader+1)%3, (leader+2)%3
			term := c.Store(leader).Status().Term
			c.DropLarge(leader, other, 4<<10)
			mustSet(t, c.Store(leader), "key", strings.Repeat("v", 64<<10))
			c.Block(leader, deaf)
			time.Sleep(4 * heartbeat)
			if st := c.Store(other).Status(); st.Term != term || st.Leader.ID != fmt.Sprint("n", leader+1) {
				t.Errorf("one follower did not hear the leader: %s leads in term %d, it was n%d in term %d", st.Leader.ID, st.Term, leader+1, term)
			}
			c.Isolate(leader)
			began := time.Now()
			mustSet(t, c.Store(other), "key", "value")
			if took := time.Since(began); took > 12*heartbeat/10 {
				t.Errorf("another wrote after %v", took)
			}
		})
	}
}

// Who asks it would otherwise stand beside the one that took it to that term.
func TestAVoterSaysWhetherItIsInALaterTermThanALeaderThatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		c.WaitConverged()
		for i := range 3 {
			term := c.Store(i).Status().Term
			now, err := c.Store(i).VoteOn(c.Store(leader), term)
			before, errBefore := c.Store(i).VoteOn(c.Store(leader), term-1)
			if err != nil || errBefore != nil || now.Later || !before.Later {
				t.Errorf("n%d: %+v of its own term %d, %+v of the one before, %v, %v", i+1, now, term, before, err, errBefore)
			}
		}
	})
}

// It is about to stand when its disk is slow, and another is elected meanwhile, of which
// it hears before it could stand.
func TestACandidateThatHearsOfAnotherLeaderDoesNotStand(t *testing.T) {
	for range 8 { // raft takes what waits for it in any order
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, 3)
			leader := c.WaitLeader()
			old, late, next := c.Store(leader), c.Store((leader+1)%3), c.Store((leader+2)%3)
			term := old.Status().Term
			c.Block(leader, (leader+1)%3)
			eventually(t, "one waits for pre-votes", func() bool { return late.Raft().State() == raft.Candidate })
			release := late.HoldRaft()
			stood := make(chan struct{})
			go func() {
				defer close(stood)
				late.StandAfter(old)
			}()
			synctest.Wait()
			if err := old.HandOverTo(next); err != nil {
				t.Fatal(err)
			}
			eventually(t, "another leads", func() bool { return next.Raft().State() == raft.Leader })
			time.Sleep(100 * time.Millisecond)
			release()
			<-stood
			time.Sleep(2 * time.Second)
			if st := next.Status(); st.Term != term+1 || st.Leader.ID != st.ID {
				t.Errorf("%q leads in term %d, %s was elected in term %d", st.Leader.ID, st.Term, st.ID, term+1)
			}
			c.Heal()
		})
	}
}

// Two of three are gone: nobody stands for election in vain, and the one that is
// left says what is wrong.
func TestAVoterWithoutAMajorityDoesNotStand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		left := (leader + 1) % 3
		term := c.Store(left).Status().Term
		c.Crash((leader + 2) % 3)
		c.Crash(leader)
		time.Sleep(time.Minute)
		if now := c.Store(left).Status().Term; now != term {
			t.Errorf("the term went from %d to %d", term, now)
		}
		c.Restart(leader)
		c.Restart((leader + 2) % 3)
	})
}

// The old leader's writes that were acknowledged are there, whoever takes over how
// soon.
func TestWhatWasAcknowledgedBeforeAFailoverIsThereAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 5)
		for round := range 20 {
			leader := c.WaitLeader()
			var mu sync.Mutex
			var acknowledged []string
			var writing sync.WaitGroup
			store := c.Store(leader)
			for w := range 8 {
				writing.Go(func() {
					for n := range 50 {
						key := fmt.Sprintf("%d-%d-%d", round, w, n)
						if _, err := store.Set(within(t, time.Minute), key, nil); err != nil {
							return // the leader is dead
						}
						mu.Lock()
						acknowledged = append(acknowledged, key)
						mu.Unlock()
					}
				})
			}
			time.Sleep(time.Duration(round) * time.Millisecond)
			c.Crash(leader)
			writing.Wait()
			next := c.WaitLeaderOtherThan(leader)
			for _, key := range acknowledged {
				if _, err := c.Store(next).Get(within(t, time.Minute), key); err != nil {
					t.Fatalf("%s: %v", key, err)
				}
			}
			c.Restart(leader)
			c.WaitReady(leader)
		}
	})
}

// unresolved is a host on a network where for a while nobody can look up the leader's
// name, and the leader nobody's.
type unresolved struct {
	*kvrafttest.Host
	out  *atomic.Bool
	self string
}

func (n unresolved) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if n.out.Load() && (addr == "n1:7000" || n.self == "n1") {
		return nil, &net.OpError{Op: "dial", Net: "mem", Err: &net.DNSError{Err: "server misbehaving", Name: addr, IsTemporary: true}}
	}
	return n.Host.Dial(ctx, addr)
}

// That a leader cannot be reached says nothing of its process: only a refusal does.
func TestALeaderWhoseNameCannotBeLookedUpKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out atomic.Bool
		network := kvrafttest.NewNetwork()
		var stores []*kvraft.Store
		for _, id := range []string{"n1", "n2", "n3"} {
			opts := []kvraft.Option{kvraft.WithID(id), kvraft.WithAddr(id + ":7000"), kvraft.WithNetwork(unresolved{network.Host(id), &out, id}), kvraft.WithLogStore(kvrafttest.NewDisk().Open())}
			if id != "n1" {
				opts = append(opts, kvraft.WithJoin("n1:7000"))
			}
			s := open(t, t.TempDir(), opts...)
			eventually(t, id+" is ready", ready(s))
			stores = append(stores, s)
		}
		time.Sleep(time.Second)
		term := stores[0].Status().Term
		out.Store(true)
		for _, id := range []string{"n1", "n2", "n3"} {
			network.Sever("n1", id)
		}
		time.Sleep(300 * time.Millisecond) // shorter than the timeout
		out.Store(false)
		time.Sleep(10 * time.Second)
		for i, s := range stores {
			if st := s.Status(); st.Term != term || st.Leader.ID != "n1" {
				t.Errorf("node %d: %s leads in term %d; it was n1 in term %d", i+1, st.Leader.ID, st.Term, term)
			}
		}
	})
}
