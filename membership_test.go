package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// on opens a node beside a cluster, on the same network.
func on(t *testing.T, network *kvrafttest.Network, id, host string, opts ...kvraft.Option) *kvraft.Store {
	t.Helper()
	return open(t, t.TempDir(), append([]kvraft.Option{
		kvraft.WithID(id), kvraft.WithAddr(host + ":7000"),
		kvraft.WithNetwork(network.Host(host)), kvraft.WithLogStore(kvrafttest.NewDisk().Open()),
	}, opts...)...)
}

// machine is what a node keeps when it is started again: its disk and directory.
type machine struct {
	network *kvrafttest.Network
	disk    *kvrafttest.Disk
	dir     string
}

func newMachine(t *testing.T, network *kvrafttest.Network) machine {
	return machine{network, kvrafttest.NewDisk(), t.TempDir()}
}

// start starts the node; the test closes it.
func (m machine) start(t *testing.T, id, host string, opts ...kvraft.Option) *kvraft.Store {
	t.Helper()
	s, err := kvraft.Open(m.dir, append([]kvraft.Option{
		kvraft.WithID(id), kvraft.WithAddr(host + ":7000"),
		kvraft.WithNetwork(m.network.Host(host)), kvraft.WithLogStore(m.disk.Open()),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// eventually waits, in virtual time, until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 60_000 {
		if cond() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func ready(s *kvraft.Store) func() bool { return func() bool { return s.Status().Ready } }

func TestANodeJoinsThroughAFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 2)
		mustSet(t, c.Store(0), "key", "value")
		follower := 1 - c.WaitLeader()
		addr := fmt.Sprintf("n%d:7000", follower+1)
		s := on(t, c.Network(), "late", "late", kvraft.WithJoin(addr))
		eventually(t, "the new node is ready", ready(s))
		wantValue(t, s, "key", "value", kvraft.Stale)
		nodes, err := s.Nodes(within(t, time.Minute))
		want := []kvraft.Node{{ID: "late", Addr: "late:7000", Voter: true}, {ID: "n1", Addr: "n1:7000", Voter: true}, {ID: "n2", Addr: "n2:7000", Voter: true}}
		if err != nil || fmt.Sprint(nodes) != fmt.Sprint(want) {
			t.Errorf("nodes %v, %v; want %v", nodes, err, want)
		}
	})
}

func TestAJoinOfAVoterIsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		mustSet(t, c.Store(0), "key", "value")
		before := c.Store(0).Status().CommitIndex
		for i := range c.Len() {
			if err := c.Store(i).Join(within(t, time.Minute), "n2", "n2:7000"); err != nil {
				t.Errorf("through node %d: %v", i, err)
			}
		}
		if after := c.Store(0).Status().CommitIndex; after != before {
			t.Errorf("the log went from %d to %d", before, after)
		}
	})
}

func TestNodesThatJoinAtOnceAreAllAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 1)
		var stores []*kvraft.Store
		for i := range 4 {
			id := fmt.Sprint("late", i)
			stores = append(stores, on(t, c.Network(), id, id, kvraft.WithJoin("n1:7000")))
		}
		for _, s := range stores {
			eventually(t, "the new node is ready", ready(s))
		}
		if nodes, err := c.Store(0).Nodes(within(t, time.Minute)); err != nil || len(nodes) != 5 {
			t.Errorf("nodes %v, %v", nodes, err)
		}
		c.Abandon() // most of the voters are not the cluster's own
	})
}

func TestAnIDThatALiveNodeHasIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		s := on(t, c.Network(), "n2", "impostor", kvraft.WithJoin("n1:7000"))
		_, err := s.WaitLeader(within(t, time.Minute))
		if !errors.Is(err, kvraft.ErrRefused) || !strings.Contains(err.Error(), "n2") {
			t.Errorf("wait leader: %v", err)
		}
		if st := s.Status(); st.State != kvraft.Joining || !strings.Contains(st.Reason, "taken") {
			t.Errorf("status: %+v", st)
		}
		if nodes, err := c.Store(0).Nodes(within(t, time.Minute)); err != nil || len(nodes) != 3 || nodes[1].Addr != "n2:7000" {
			t.Errorf("nodes %v, %v", nodes, err)
		}
	})
}

func TestAJoinToNobodyWaitsUntilSomebodyIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		late := on(t, network, "n2", "n2", kvraft.WithJoin("n1:7000"))
		_, err := late.WaitLeader(within(t, 10*time.Second))
		if !errors.Is(err, kvraft.ErrNoLeader) || !strings.Contains(err.Error(), "n1:7000") {
			t.Errorf("wait leader: %v", err)
		}
		first := on(t, network, "n1", "n1")
		mustSet(t, first, "key", "value")
		eventually(t, "the late node is ready", ready(late))
		wantValue(t, late, "key", "value")
	})
}

func TestAnUnadmittedNodeServesNothingAndVotesForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		s := on(t, network, "n2", "n2", kvraft.WithJoin("n1:7000"))
		if _, err := s.Set(within(t, 5*time.Second), "key", nil); !errors.Is(err, kvraft.ErrNoLeader) {
			t.Errorf("set: %v", err)
		}
		time.Sleep(time.Minute)
		if st := s.Status(); st.Term != 0 || st.Cluster != "" || st.State != kvraft.Joining {
			t.Errorf("after a minute alone: %+v", st)
		}
	})
}

func TestANodeOfAnotherClusterIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		stranger := on(t, c.Network(), "n4", "n4") // forms a cluster of its own
		mustSet(t, stranger, "key", "of another cluster")
		err := c.Store(0).Join(within(t, time.Minute), "n4", "n4:7000")
		if !errors.Is(err, kvraft.ErrRefused) || !strings.Contains(err.Error(), "another cluster") {
			t.Errorf("join: %v", err)
		}
		wantValue(t, stranger, "key", "of another cluster")
	})
}

// A wiped node that came back under its old id and voted could elect a leader
// without what it had acknowledged (the vote is in raft.go's requestVote, which
// asks the configuration by ServerID only).
func TestAWipedNodeComesBackAsAnotherAndForgetsNothingForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		for i := range 3 {
			mustSet(t, c.Store(0), "key", fmt.Sprint("before the wipe of ", i))
			c.Crash(i)
			c.Wipe(i)
			c.Restart(i)
			c.WaitReady(i)
			wantValue(t, c.Store(i), "key", fmt.Sprint("before the wipe of ", i))
			nodes, err := c.Store(i).Nodes(within(t, time.Minute))
			if err != nil || len(nodes) != 3 {
				t.Errorf("nodes %v, %v", nodes, err)
			}
		}
	})
}

func TestAWipedMajorityCannotElectALeaderWithoutTheData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		a, b := (leader+1)%3, (leader+2)%3
		mustSet(t, c.Store(leader), "key", "acknowledged")
		c.Stop(leader)
		for _, i := range []int{a, b} {
			c.Crash(i)
			c.Wipe(i)
			c.Restart(i)
		}
		time.Sleep(time.Minute)
		for _, i := range []int{a, b} {
			if st := c.Store(i).Status(); st.State != kvraft.Joining || st.Leader != (kvraft.Node{}) {
				t.Errorf("node %d: %+v", i, st)
			}
		}
		// The data is on one disk of three. Two have lost it, so nothing but the
		// operator can bring it back; nobody may pretend that it never was.
		c.Restart(leader)
		time.Sleep(time.Minute)
		if _, ok := c.Leader(); ok {
			t.Error("there is a leader without a majority of those that voted")
		}
		c.Abandon()
	})
}

func TestANodeAnnouncesItsNewAddress(t *testing.T) {
	movesAlive(t)
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		node := newMachine(t, network)
		first := on(t, network, "n1", "n1")
		s := node.start(t, "n2", "old", kvraft.WithJoin("n1:7000"))
		eventually(t, "ready at the old address", ready(s))
		third := on(t, network, "n3", "n3", kvraft.WithJoin("n1:7000"))
		eventually(t, "the third is ready", ready(third))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = node.start(t, "n2", "new", kvraft.WithJoin("n1:7000"))
		defer s.Close()
		eventually(t, "ready at the new address", ready(s))
		mustSet(t, first, "key", "value")
		nodes, err := s.Nodes(within(t, time.Minute))
		if err != nil || len(nodes) != 3 || nodes[1] != (kvraft.Node{ID: "n2", Addr: "new:7000", Voter: true}) {
			t.Errorf("nodes %v, %v", nodes, err)
		}
	})
}

// It may be the only copy.
func TestOnlyANodeWithoutDataIsToldToEmptyItsDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		alone, waiting := on(t, c.Network(), "x", "x"), on(t, c.Network(), "y", "y", kvraft.WithJoin("y:7000"))
		for _, test := range []struct {
			s     *kvraft.Store
			says  string
			empty bool
		}{
			{alone, "the only member announces its new address, x:7000, when it leads", false},
			{c.Store(0), "start this one with the addresses of members", false},
			{waiting, "start this one with the addresses of members", true},
		} {
			says := test.s.NobodyToAsk().Error()
			if !strings.Contains(says, test.says) || strings.Contains(says, "empty its directory") != test.empty {
				t.Errorf("%s: %s", test.s.Status().ID, says)
			}
		}
		wantReason(t, waiting, waiting.NobodyToAsk().Error())
	})
}

func TestTheOnlyNodeMayMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		node := newMachine(t, network)
		for _, host := range []string{"here", "there", "there"} {
			var log syncBuffer
			s := node.start(t, "n1", host, kvraft.WithLogger(log.logger()))
			mustSet(t, s, "key", host)
			eventually(t, "its address is known", func() bool {
				nodes, err := s.Nodes(t.Context())
				return err == nil && len(nodes) == 1 && nodes[0].Addr == host+":7000"
			})
			if strings.Contains(log.String(), "empty") {
				t.Error(&log)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestAJoinSurvivesTheDeathOfTheLeader(t *testing.T) {
	for delay := range 8 { // somewhere in its middle
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, 3)
			leader := c.WaitLeader()
			s := on(t, c.Network(), "late", "late", kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000"))
			time.Sleep(time.Duration(delay) * time.Millisecond)
			c.Crash(leader)
			eventually(t, "the new node is ready", ready(s))
			nodes, err := s.Nodes(within(t, time.Minute))
			if err != nil || len(nodes) != 4 {
				t.Errorf("nodes %v, %v", nodes, err)
			}
		})
	}
}

func TestANodeWhoseDiskFailsStopsAndTheOthersCarryOn(t *testing.T) {
	for _, which := range []string{"leader", "follower"} {
		t.Run(which, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, 3)
				bad := c.WaitLeader()
				if which == "follower" {
					bad = (bad + 1) % 3
				}
				broken := errors.New("input/output error")
				c.Disk(bad).SetFault(func(kvrafttest.Operation) error { return broken })
				for i := range 10 {
					mustSet(t, c.Store((bad+1)%3), fmt.Sprint("key", i), "value")
				}
				eventually(t, "the node stops", func() bool { return c.Store(bad).Err() != nil })
				if err := c.Store(bad).Err(); !errors.Is(err, broken) || !errors.Is(err, kvraft.ErrClosed) {
					t.Errorf("err = %v", err)
				}
				if _, err := c.Store(bad).Get(t.Context(), "key0"); !errors.Is(err, kvraft.ErrClosed) {
					t.Errorf("get on the stopped node: %v", err)
				}
			})
		})
	}
}

func TestANodeWhoseDiskHangsStopsAndTheOthersCarryOn(t *testing.T) {
	for _, which := range []string{"leader", "follower"} {
		t.Run(which, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, 3)
				bad := c.WaitLeader()
				if which == "follower" {
					bad = (bad + 1) % 3
				}
				release := make(chan struct{})
				c.Disk(bad).SetFault(func(kvrafttest.Operation) error { <-release; return nil })
				ctx, stop := context.WithCancel(t.Context())
				var writers sync.WaitGroup
				writers.Go(func() {
					for ctx.Err() == nil {
						mustSet(t, c.Store((bad+1)%3), "key", "value")
						time.Sleep(100 * time.Millisecond)
					}
				})
				eventually(t, "the node stops", func() bool { return c.Store(bad).Err() != nil })
				stop()
				writers.Wait()
				mustSet(t, c.Store((bad+1)%3), "key", "after")
				close(release)
			})
		})
	}
}

func TestARefusedNodeMayTakeAnotherID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 2)
		node := newMachine(t, c.Network())
		s := node.start(t, "n2", "late", kvraft.WithJoin("n1:7000"))
		if _, err := s.WaitLeader(within(t, time.Minute)); !errors.Is(err, kvraft.ErrRefused) {
			t.Errorf("under a taken id: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = node.start(t, "late", "late", kvraft.WithJoin("n1:7000"))
		eventually(t, "admitted under another id", ready(s))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		c.Abandon() // one of three is gone, and may have been the leader
	})
}

func TestAWipedNodeThatFoundsAClusterTurnsUnreadyWhenItsOldMembersCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		mustSet(t, c.Store(0), "key", "value")
		c.Crash(0)
		alone := on(t, c.Network(), "n1", "n1") // its old command line, without -join, on an empty disk
		eventually(t, "it says so", func() bool { return strings.Contains(alone.Status().Reason, "take it for one of theirs") })
		if alone.Status().Ready {
			t.Error("it is ready")
		}
		wantValue(t, c.Store(1), "key", "value")
		if err := alone.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestANodeThatMovedIsFoundThoughItsJoinAddressesAreDead(t *testing.T) {
	movesAlive(t)
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		node := newMachine(t, network)
		on(t, network, "n1", "n1")
		s := node.start(t, "n2", "old", kvraft.WithJoin("n1:7000"))
		eventually(t, "ready at the old address", ready(s))
		third := on(t, network, "n3", "n3", kvraft.WithJoin("n1:7000"))
		eventually(t, "the third is ready", ready(third))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = node.start(t, "n2", "new", kvraft.WithJoinFunc(func(context.Context) ([]string, error) { return nil, errors.New("nobody is known by that name") }))
		eventually(t, "ready at the new address", ready(s))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Without the vote of the node that has moved there is no leader, and without a
// leader nobody can write its new address into the configuration.
func TestANodeThatMovedIsFoundWhenNoLeaderIsPossibleWithoutIt(t *testing.T) {
	movesAlive(t)
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		node := newMachine(t, network)
		first := on(t, network, "n1", "n1")
		s := node.start(t, "n2", "old", kvraft.WithJoin("n1:7000"))
		eventually(t, "ready at the old address", ready(s))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		// An entry that only the first has: the second can not be elected.
		if _, err := first.Set(within(t, 5*time.Second), "key", []byte("value")); err == nil {
			t.Fatal("a write without a majority")
		}
		s = node.start(t, "n2", "new", kvraft.WithJoin("n1:7000"))
		defer s.Close()
		eventually(t, "ready at the new address", ready(s))
		mustSet(t, first, "key", "value")
	})
}

// An empty node with the only node's id stands where that was, and asks before it
// has noted its own move.
func TestALeaderThatHasMovedIsNotReplacedByWhoeverIsAtItsOldAddress(t *testing.T) {
	movesAlive(t)
	for _, wait := range []time.Duration{0, 5 * time.Millisecond, 30 * time.Millisecond, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			network := kvrafttest.NewNetwork()
			m := newMachine(t, network)
			s := m.start(t, "n1", "n1")
			mustSet(t, s, "key", "value")
			closeStore(t, s)
			impostor := on(t, network, "n1", "n1", kvraft.WithJoin("elsewhere:7000"))
			time.Sleep(wait)
			s = m.start(t, "n1", "elsewhere")
			time.Sleep(20 * time.Second)
			if st := s.Status(); !st.Ready || len(st.Nodes) != 1 || st.Nodes[0].Addr != "elsewhere:7000" {
				t.Errorf("after %v: %v, %+v", wait, s.Err(), st)
			}
			wantValue(t, s, "key", "value")
			if _, err := impostor.WaitLeader(within(t, time.Minute)); !errors.Is(err, kvraft.ErrRefused) {
				t.Errorf("the impostor: %v", err)
			}
			closeStore(t, s)
		})
	}
}

// Neither may a node that is refused change what the live member with its id is.
func TestARefusedJoinChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		replica := c.Add(kvraft.WithReplica())
		on(t, c.Network(), "n4", "other", kvraft.WithJoin("nobody:7000"))
		if err := c.Store(0).Join(within(t, 10*time.Second), "n4", "other:7000"); !errors.Is(err, kvraft.ErrRefused) {
			t.Errorf("under the replica's id: %v", err)
		}
		on(t, c.Network(), "n3", "another", kvraft.WithReplica(), kvraft.WithJoin("n1:7000"))
		time.Sleep(10 * time.Second)
		c.Crash(2)
		c.Wipe(2)
		c.Restart(2)
		c.WaitReady(2)
		for i, want := range []bool{true, true, true, false} {
			if st := c.Store(i).Status(); st.Voter != want || st.Replica == want {
				t.Errorf("%+v", st.Node)
			}
		}
		if st := c.Store(replica).Status(); st.Voter {
			t.Errorf("the replica was promoted: %+v", st.Node)
		}
	})
}

func TestAVoterThatHasMovedMayBeOpenedAsAReplica(t *testing.T) {
	movesAlive(t)
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		x, s := removable(t, c)
		closeStore(t, s)
		s = x.start(t, "x", "elsewhere", kvraft.WithJoin("n1:7000"), kvraft.WithReplica())
		eventually(t, "it is ready", ready(s))
		if st := s.Status(); !st.Voter || st.Addr != "elsewhere:7000" {
			t.Errorf("%+v", st.Node)
		}
		if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
	})
}

// It is a member when it dies: nobody can say that nothing was changed.
func TestAJoinWhoseNodeDiesWhileItCatchesUpIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		for n := range 64 {
			mustSet(t, c.Store(0), fmt.Sprint("key-", n), strings.Repeat("v", 256<<10))
		}
		for i := range 3 {
			c.Network().SetDelay(c.Host(i), "x", 50*time.Millisecond)
		}
		x := newMachine(t, c.Network())
		s := x.start(t, "x", "x", kvraft.WithJoin("nobody:7000"))
		joined := make(chan error, 1)
		go func() { joined <- c.Store(0).Join(within(t, 20*time.Second), "x", "x:7000") }()
		time.Sleep(2 * time.Second)
		x.disk.Crash()
		c.Network().Reset("x")
		_ = s.Close() // the remains of the dead process
		if err := <-joined; !errors.Is(err, kvraft.ErrUnknown) {
			t.Errorf("join: %v, want ErrUnknown", err)
		}
		s = x.start(t, "x", "x", kvraft.WithJoin("nobody:7000"))
		eventually(t, "it votes", func() bool { return s.Status().Voter })
		if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
	})
}

func TestAClosedStoreChangesNoMembership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		i := (c.WaitLeader() + 1) % 3
		s := c.Store(i)
		for range 3 { // connections that could be used
			if err := s.Join(within(t, time.Second), "n1", "n1:7000"); err != nil {
				t.Fatal(err)
			}
		}
		c.Stop(i)
		for range 5 {
			for what, err := range map[string]error{
				"join":     s.Join(within(t, time.Second), "n1", "n1:7000"),
				"remove":   s.Remove(within(t, time.Second), "n9"),
				"transfer": s.TransferLeadership(within(t, time.Second), ""),
			} {
				if !errors.Is(err, kvraft.ErrClosed) || errors.Is(err, kvraft.ErrUnknown) {
					t.Errorf("%s: %v, want ErrClosed", what, err)
				}
			}
		}
	})
}

func TestNothingIsKeptForNodesThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		connections := func() int { return c.Store(c.WaitLeader()).Connections() }
		var first int
		for round := range few(8) {
			_, s := removable(t, c) // each time another identity
			for range 20 {
				mustSet(t, c.Store(0), "key", "value")
				wantValue(t, s, "key", "value")
			}
			if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
				t.Fatal(err)
			}
			closeStore(t, s)
			time.Sleep(time.Minute)
			if round == 0 {
				first = connections()
			}
		}
		if last := connections(); last > first {
			t.Errorf("%d connections, %d after the first node", last, first)
		}
	})
}

// One listener has several names: a node that is started under another one is not a
// copy of itself.
func TestANodeMayComeBackUnderAnotherNameOfItsAddress(t *testing.T) {
	dir := t.TempDir()
	first := open(t, t.TempDir(), kvraft.WithID("n1"), kvraft.WithAddr("127.0.0.1:0"))
	join := kvraft.WithJoin(first.Status().Addr)
	s, err := kvraft.Open(dir, kvraft.WithID("n2"), kvraft.WithAddr("127.0.0.1:0"), join)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is ready", ready(s))
	_, port, _ := net.SplitHostPort(s.Status().Addr)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, kvraft.WithID("n2"), kvraft.WithAddr("127.0.0.1:"+port), kvraft.WithAdvertise("localhost:"+port), join)
	eventually(t, "it is ready again: "+s.Status().Reason, ready(s))
	mustSet(t, s, "key", "value")
	nodes, err := first.Nodes(within(t, time.Minute))
	if err != nil || len(nodes) != 2 {
		t.Errorf("the members are %+v, %v", nodes, err)
	}
}

func TestAChangeWhoseTurnNeverComesWasNotApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		release := c.Store(leader).HoldMembership()
		for i := range 3 { // on the leader, and through it
			for what, change := range map[string]func(context.Context) error{
				"remove":   func(ctx context.Context) error { return c.Store(i).Remove(ctx, "nobody") },
				"transfer": func(ctx context.Context) error { return c.Store(i).TransferLeadership(ctx, "") },
			} {
				if err := change(within(t, time.Second)); !errors.Is(err, kvraft.ErrNoLeader) || errors.Is(err, kvraft.ErrUnknown) {
					t.Errorf("%s on node %d: %v, want ErrNoLeader: it was not applied", what, i+1, err)
				}
			}
		}
		release()
	})
}

// A stranger names an address where nobody answers, or answers and says nothing.
func TestAStrangerThatDoesNotAnswerHoldsUpNoOtherChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		mute, err := c.Network().Host("mute").Listen("mute:7000")
		if err != nil {
			t.Fatal(err)
		}
		defer mute.Close()
		c.Network().Host("gone")
		c.Network().Isolate("gone")
		began := time.Now()
		var strangers sync.WaitGroup
		for n := range 8 {
			strangers.Go(func() {
				addr := []string{"mute:7000", "gone:7000"}[n%2]
				if err := c.Store(leader).Join(within(t, time.Minute), fmt.Sprint("stranger-", n), addr); !errors.Is(err, kvraft.ErrUnreachable) {
					t.Errorf("join at %s: %v", addr, err)
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		added := c.Add()
		if err := c.Store(leader).Remove(within(t, time.Minute), fmt.Sprint("n", added)); err != nil { // the one before it
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("one was added and one removed after %v", took)
		}
		strangers.Wait()
		c.Abandon()
	})
}

// What a leader has seen before it could make the change counts only if the members
// are the same then. The other stays as it was, and need not be emptied.
func TestOfTwoNodesThatJoinAtOnceUnderOneIdOneIsAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		release := c.Store(leader).HoldMembership()
		var both []*kvraft.Store
		for _, host := range []string{"a", "b"} {
			both = append(both, open(t, t.TempDir(), kvraft.WithID("n4"), kvraft.WithAddr(host+":7000"), kvraft.WithNetwork(c.Network().Host(host)), kvraft.WithInMemory(), kvraft.WithJoin("n1:7000")))
		}
		time.Sleep(time.Second) // both have been looked at
		release()
		eventually(t, "one is ready", func() bool { return both[0].Status().Ready || both[1].Status().Ready })
		time.Sleep(10 * time.Second)
		nodes, err := c.Store(leader).Nodes(within(t, time.Minute))
		if err != nil || len(nodes) != 4 {
			t.Errorf("the members are %+v, %v", nodes, err)
		}
		if both[0].Status().Ready == both[1].Status().Ready {
			t.Error("both are ready")
		}
		for _, n := range both {
			if st := n.Status(); !st.Ready && st.Cluster != "" {
				t.Errorf("the one that was refused belongs to the cluster: %s", st.Reason)
			}
		}
		c.Abandon()
	})
}

// Between the loss of a leader and the reason that a node finds for it there is a second
// or two in which nobody is known.
func TestAReadWhoseLeaderIsLostTellsWhatBecameOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 2)
		leader := c.WaitLeader()
		c.Crash(leader)
		var reading sync.WaitGroup
		for timeout := 500 * time.Millisecond; timeout < 4*time.Second; timeout += 500 * time.Millisecond {
			reading.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				_, err := c.Store(1-leader).Get(ctx, "key")
				if !errors.Is(err, kvraft.ErrNoLeader) || strings.Contains(err.Error(), "(no leader is known)") {
					t.Errorf("after %v: %v", timeout, err)
				}
			})
		}
		reading.Wait()
		c.Restart(leader)
	})
}
