package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// raft's own leadership transfer leaves a flag behind when it is disturbed, by
// which the same node, leader again later, refuses every write (hashicorp/raft
// issue 696).
func TestALeaderWhoseHandOverWasDisturbedWritesWhenItLeadsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		first := c.WaitLeader()
		mustSet(t, c.Store(first), "key", "value")
		for round := range 5 {
			c.Isolate(first)
			handed := make(chan error, 1)
			go func() { handed <- c.Store(first).HandOver() }() // nobody can take it
			next := c.WaitLeaderOtherThan(first)
			if err := <-handed; err == nil {
				t.Error("leadership was handed over across a cut")
			}
			c.Heal()
			c.WaitReady(first)
			if err := c.Store(next).HandOverTo(c.Store(first)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it leads again", func() bool { return c.Store(first).Raft().State() == raft.Leader })
			mustSet(t, c.Store(first), "key", fmt.Sprint("round ", round))
			if c.Store(first).Raft().State() != raft.Leader {
				t.Fatal("the write went elsewhere: the test shows nothing")
			}
		}
	})
}

// Futures that raft has not answered when it is shut down hang for ever
// (hashicorp/raft issue 498). In the bubble a goroutine that is left waiting fails
// the test.
func TestACloseUnderLoadLeavesNoCallWaiting(t *testing.T) {
	for round := range 10 {
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, 3)
			leader := c.WaitLeader()
			c.Disk((leader + 1) % 3).SetFault(func(kvrafttest.Operation) error { time.Sleep(3 * time.Millisecond); return nil })
			c.Disk((leader + 2) % 3).SetFault(func(kvrafttest.Operation) error { time.Sleep(5 * time.Millisecond); return nil })
			store := c.Store(leader)
			var calls sync.WaitGroup
			for i := range 100 {
				calls.Go(func() {
					for n := 0; ; n++ {
						_, err := store.Set(t.Context(), fmt.Sprint(i), fmt.Append(nil, n))
						if errors.Is(err, kvraft.ErrClosed) || errors.Is(err, kvraft.ErrUnknown) {
							return
						}
						if err != nil {
							t.Errorf("set: %v", err)
							return
						}
					}
				})
			}
			time.Sleep(time.Duration(20+round) * time.Millisecond)
			c.Stop(leader)
			calls.Wait()
		})
	}
}

// A transport that pipelines entries can leave a follower without any for good:
// see raftnet.Transport.
func TestEntriesAreNotPipelined(t *testing.T) {
	s := open(t, "", kvraft.WithInMemory())
	_, err := s.Transport().AppendEntriesPipeline("other#1", "127.0.0.1:1")
	if !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		t.Errorf("err = %v", err)
	}
}

// The leader and a node that it has just promoted are a majority of three. When the
// leader dies, the other voter, which has not heard of the promotion, must vote for
// that node: raft refuses it as a non-voter.
func TestAVoterVotesForOneWhosePromotionItHasNotHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 2)
		leader := c.WaitLeader()
		voter := 1 - leader
		fresh := c.Launch()
		c.Disk(fresh).SetFault(func(kvrafttest.Operation) error { time.Sleep(30 * time.Millisecond); return nil })
		eventually(t, "the voter knows the node as a member", func() bool { return len(c.Store(voter).Status().Nodes) == 3 })
		c.Block(leader, voter)
		eventually(t, "the node is promoted", func() bool {
			return c.Store(fresh).Status().Voter && c.Store(leader).Status().Voter && len(c.Store(leader).Status().Progress) == 0
		})
		for _, n := range c.Store(voter).Status().Nodes {
			if n.ID == "n3" && n.Voter {
				t.Fatal("the voter has heard of the promotion: the test shows nothing")
			}
		}
		c.Crash(leader)
		c.Heal()
		if _, err := c.Store(voter).Set(within(t, 20*time.Second), "key", []byte("value")); err != nil {
			t.Errorf("the two of three that are left: %v", err)
		}
		c.Disk(fresh).SetFault(nil)
		c.Restart(leader)
	})
}

func TestACallOnANodeWhoseDiskHangsEndsWithTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		bad := c.WaitLeader()
		store := c.Store(bad)
		release := make(chan struct{})
		c.Disk(bad).SetFault(func(kvrafttest.Operation) error { <-release; return nil })
		result := make(chan error, 1)
		go func() {
			_, err := store.Set(context.Background(), "key", nil)
			result <- err
		}()
		select {
		case err := <-result:
			if !errors.Is(err, kvraft.ErrUnknown) || errors.Is(err, kvraft.ErrClosed) {
				t.Errorf("set: %v, want ErrUnknown", err)
			}
		case <-time.After(time.Minute):
			t.Error("a minute later the call hangs")
		}
		began := time.Now()
		if err := store.Close(); err == nil || time.Since(began) > 30*time.Second {
			t.Errorf("close: %v after %v, want an error within its limits", err, time.Since(began))
		}
		close(release)
	})
}

func TestACloseDoesNotHangInItsLastWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 1)
		for range 3 {
			mustSet(t, c.Store(0), "key", "value")
		}
		release := make(chan struct{})
		c.Disk(0).SetFault(func(op kvrafttest.Operation) error {
			if op.Name == "Set" {
				<-release
			}
			return nil
		})
		began := time.Now()
		if err := c.Store(0).Close(); err == nil || time.Since(began) > time.Minute {
			t.Errorf("close: %v after %v", err, time.Since(began))
		}
		close(release)
		synctest.Wait()
		c.Disk(0).SetFault(nil)
	})
}

func TestACloseEndsAJoinThatIsUnderWay(t *testing.T) {
	for delay := range 20 { // somewhere in its middle
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, 3)
			leader := c.WaitLeader()
			late := on(t, c.Network(), "late", "late", kvraft.WithJoinFunc(func(context.Context) ([]string, error) { return nil, nil }))
			joined, store := make(chan error, 1), c.Store(leader)
			go func() { joined <- store.Join(context.Background(), "late", "late:7000") }()
			time.Sleep(time.Duration(delay) * 500 * time.Microsecond)
			c.Network().Isolate("late")
			time.Sleep(time.Second)
			c.Stop(leader)
			select {
			case <-joined:
			case <-time.After(time.Minute):
				t.Errorf("%d: a minute after the close the join hangs", delay)
			}
			if err := late.Close(); err != nil {
				t.Error(err)
			}
			c.Abandon() // late may be a voter
		})
	}
}

func TestAJoinerDoesNotWaitForAMemberThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		if leader := c.WaitLeader(); leader == 0 {
			if err := c.Store(0).HandOver(); err != nil {
				t.Fatal(err)
			}
		}
		c.Network().Partition([]string{"n1", "late"}, []string{"n2", "n3", "late"})
		time.Sleep(10 * time.Second)
		began := time.Now()
		s := on(t, c.Network(), "late", "late", kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000"))
		eventually(t, "admitted by the others", func() bool { return s.Status().Voter })
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestACopyOfADataDirectoryDoesNotTakeThePlaceOfTheOriginal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		dir := t.TempDir()
		s, err := kvraft.Open(dir, kvraft.WithAddr("copy:7000"), kvraft.WithNetwork(c.Network().Host("copy")),
			kvraft.WithLogStore(c.Disk(1).Clone().Open()), kvraft.WithJoin("n1:7000"))
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the copy is told", func() bool { return strings.Contains(s.Status().Reason, "copies of one data directory") })
		nodes, err := c.Store(0).Nodes(within(t, time.Minute))
		if err != nil || nodes[1].Addr != "n2:7000" {
			t.Errorf("nodes %v, %v", nodes, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAFounderThatIsCutOffAnywhereFoundsAtTheNextStart(t *testing.T) {
	for k := range 40 {
		synctest.Test(t, func(t *testing.T) {
			network, disk, dir := kvrafttest.NewNetwork(), kvrafttest.NewDisk(), t.TempDir()
			start := func() (*kvraft.Store, error) {
				return kvraft.Open(dir, kvraft.WithID("n1"), kvraft.WithAddr("n1:7000"), kvraft.WithNetwork(network.Host("n1")), kvraft.WithLogStore(disk.Open()))
			}
			broken := errors.New("input/output error")
			disk.SetFault(func(op kvrafttest.Operation) error {
				if op.N >= k {
					return broken
				}
				return nil
			})
			if s, err := start(); err == nil {
				time.Sleep(5 * time.Second)
				if err := s.Close(); err != nil && !errors.Is(err, broken) {
					t.Error(err)
				}
			}
			disk.SetFault(nil)
			s, err := start()
			if err != nil {
				t.Fatalf("cut off at operation %d: %v", k, err)
			}
			mustSet(t, s, "key", "value")
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Until it has caught up a new node must not count: one that is slow would hold
// up the quorum.
func TestANodeThatIsSlowToCatchUpHoldsUpNoWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 1)
		mustSet(t, c.Store(0), "key", "value")
		disk := kvrafttest.NewDisk()
		disk.SetFault(func(op kvrafttest.Operation) error {
			if op.Name == "StoreLogs" {
				time.Sleep(8 * time.Second)
			}
			return nil
		})
		s, err := kvraft.Open(t.TempDir(), kvraft.WithID("slow"), kvraft.WithAddr("slow:7000"), kvraft.WithNetwork(c.Network().Host("slow")),
			kvraft.WithLogStore(disk.Open()), kvraft.WithJoin("n1:7000"))
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			began := time.Now()
			mustSet(t, c.Store(0), "key", "value")
			if took := time.Since(began); took > time.Second && !voter(c.Store(0), "slow") {
				t.Fatalf("a write took %v while the new node was catching up", took)
			} else if took > time.Second {
				t.Fatal("the new node votes, and is too slow to")
			}
			time.Sleep(100 * time.Millisecond)
		}
		disk.SetFault(nil)
		eventually(t, "it votes", func() bool { return voter(c.Store(0), "slow") })
		eventually(t, "it is ready", ready(s))
		c.Abandon() // it is one of two
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func voter(s *kvraft.Store, id string) bool {
	for _, n := range s.Status().Nodes {
		if n.ID == id {
			return n.Voter
		}
	}
	return false
}

// A join that is refused in its middle has not changed anything: the member in whose
// place the node was to come is there still.
func TestAJoinThatIsRefusedReplacesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		network := c.Network()
		old, s := removable(t, c)
		closeStore(t, s)
		network.Isolate("hang")
		// Where it was, a node has promised to form a cluster with others.
		var all []*seed
		for _, id := range []string{"x", "y", "z"} {
			all = append(all, &seed{machine: newMachine(t, network), id: id, opts: []kvraft.Option{kvraft.WithBootstrapExpect(3), kvraft.WithJoin("x:7000", "y:7000", "z:7000")}})
		}
		all[2].opts = append(all[2].opts, kvraft.WithJoin("hang:7000")) // it is slow
		for _, s := range all {
			s.up(t)
		}
		eventually(t, "x has promised", func() bool { return all[0].store.Promised() && !all[2].store.Promised() })
		all[2].crash(t)
		if err := c.Store(0).Join(within(t, 10*time.Second), "x", "x:7000"); !errors.Is(err, kvraft.ErrRefused) {
			t.Errorf("the join: %v, want ErrRefused", err)
		}
		if ids := memberIDs(t, c.Store(0)); ids != "n1 n2 n3 x" {
			t.Errorf("members %s", ids)
		}
		all[0].stop(t)
		all[1].stop(t)
		s = old.start(t, "x", "x", kvraft.WithJoin("n1:7000"))
		eventually(t, "the member is back", ready(s))
		expel(t, c, s)
	})
}

func TestNodesThatHaveHadTheSameAddressDoNotShareAVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		first := c.WaitLeader()
		second, voter := c.Store((first+1)%3), c.Store((first+2)%3)
		term := voter.Raft().CurrentTerm() + 1
		vote := func(s *kvraft.Store, lastIndex, lastTerm uint64) bool {
			const addr = "10.0.0.1:7000" // of both, one after the other
			var resp raft.RequestVoteResponse
			err := s.Transport().RequestVote(voter.ServerID(), raft.ServerAddress(voter.Status().Addr), &raft.RequestVoteRequest{
				RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.ServerID()), Addr: s.Transport().EncodePeer(s.ServerID(), addr)},
				Term:      term, LastLogIndex: lastIndex, LastLogTerm: lastTerm, LeadershipTransfer: true,
			}, &resp)
			if err != nil {
				t.Error(err)
			}
			return resp.Granted
		}
		if !vote(c.Store(first), 1<<40, term-1) {
			t.Fatal("the first has no vote")
		}
		if vote(second, 0, 0) {
			t.Error("a node with an empty log has the vote of the one that had its address before")
		}
	})
}
