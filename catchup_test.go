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

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

func TestAReplicaServesAndDoesNotVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		replica := c.Add(kvraft.WithReplica())
		if st := c.Store(replica).Status(); st.Voter || !st.Replica || !st.Ready {
			t.Errorf("status %+v", st)
		}
		nodes, err := c.Store(0).Nodes(within(t, time.Minute))
		if want := (kvraft.Node{ID: "n4", Addr: "n4:7000", Replica: true}); err != nil || len(nodes) != 4 || nodes[3] != want {
			t.Errorf("nodes %v, %v", nodes, err)
		}
		mustSet(t, c.Store(replica), "key", "value")
		wantValue(t, c.Store(replica), "key", "value")
		// It makes no majority: with it and the leader alone nothing is written.
		leader := c.WaitLeader()
		c.Partition([]int{leader, replica})
		if _, err := c.Store(leader).Set(within(t, 5*time.Second), "key", nil); err == nil {
			t.Error("a write without a majority of the voters")
		}
		c.Heal()
		// It stays what it is through crashes, wipes, and another leader.
		changes := []func(){
			func() { c.Crash(replica) },
			func() { c.Crash(replica); c.Wipe(replica) },
		}
		if !kvraft.Raced { // see movesAlive
			changes = append(changes, func() { c.Crash(replica); c.Move(replica) })
		}
		for _, change := range changes {
			change()
			old := c.WaitLeader()
			c.Crash(old)
			c.WaitLeaderOtherThan(old)
			c.Restart(replica)
			c.WaitReady(replica)
			c.Restart(old)
			c.WaitReady(old)
			if st := c.Store(replica).Status(); st.Voter || !st.Replica {
				t.Errorf("status %+v", st)
			}
		}
	})
}

// The member that was asked decides what a node is to be, and the cluster remembers
// it: by its own command line the node would become a voter.
func TestWhatANodeIsToBeIsRememberedByTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		x := newMachine(t, c.Network())
		s := x.start(t, "x", "x", kvraft.WithJoin("nobody:7000"))
		if err := c.Store(1).Join(within(t, time.Minute), "x", "x:7000", kvraft.Replica); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is ready", ready(s))
		closeStore(t, s)
		x = newMachine(t, c.Network()) // it comes back without its data
		s = x.start(t, "x", "x", kvraft.WithJoin("n1:7000"))
		eventually(t, "it is ready again", ready(s))
		if st := s.Status(); st.Voter || !st.Replica {
			t.Errorf("status %+v", st)
		}
		for range 2 { // again is nothing
			if err := c.Store(0).Join(within(t, time.Minute), "x", "x:7000", kvraft.Replica); err != nil {
				t.Error(err)
			}
		}
		if err := c.Store(0).Join(within(t, time.Minute), "x", "x:7000"); err != nil {
			t.Errorf("promote it: %v", err)
		}
		if st := s.Status(); !st.Voter || st.Replica {
			t.Errorf("promoted: %+v", st)
		}
		if err := c.Store(0).Join(within(t, time.Minute), "x", "x:7000", kvraft.Replica); !errors.Is(err, kvraft.ErrRefused) {
			t.Errorf("a voter as a replica: %v", err)
		}
		if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
	})
}

// Its join was asked for by an operator, whose leader died; the node itself does
// not know whom to ask.
func TestTheNextLeaderPromotesWhoHasJoined(t *testing.T) {
	for delay := range few(12) {
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, 3)
			for n := range 50 {
				mustSet(t, c.Store(0), fmt.Sprint("key-", n), "value")
			}
			x := newMachine(t, c.Network())
			s := x.start(t, "x", "x", kvraft.WithJoin("nobody:7000"))
			leader := c.WaitLeader()
			ctx, cancel := context.WithCancel(t.Context())
			var joining sync.WaitGroup
			asked := c.Store(leader)
			joining.Go(func() { _ = asked.Join(ctx, "x", "x:7000") }) // it may be cut off anywhere
			time.Sleep(time.Duration(delay) * time.Millisecond)
			c.Crash(leader)
			cancel()
			joining.Wait()
			time.Sleep(10 * time.Second) // x itself may be the next leader
			nodes, err := c.Store((leader + 1) % 3).Nodes(within(t, time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range nodes {
				if !n.Voter {
					t.Errorf("after %d ms: %+v was left half-way", delay, n)
				}
			}
			c.Restart(leader)
			c.WaitReady(leader)
			if len(nodes) == 4 {
				if err := c.Store(leader).Remove(within(t, time.Minute), "x"); err != nil {
					t.Error(err)
				}
			}
			closeStore(t, s)
		})
	}
}

// A node that has a lot to catch up with over a slow link says how far it is, and so
// does the leader; meanwhile it does not vote and is not ready.
func TestAJoinShowsItsProgress(t *testing.T) {
	for _, by := range []string{"log", "snapshot"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var members, its syncBuffer
				c := kvrafttest.New(t, 3, kvraft.WithLogger(members.logger()))
				const keys, size = 64, 256 << 10 // 16 MiB
				for n := range keys {
					mustSet(t, c.Store(0), fmt.Sprint("key-", n), strings.Repeat("v", size))
				}
				leader := c.WaitLeader()
				if by == "snapshot" {
					for i := range c.Len() {
						if err := c.Store(i).CompactAll(); err != nil {
							t.Fatal(err)
						}
					}
				}
				for i := range 3 { // 64 KiB on their way for 50 ms: 1.3 MB/s
					c.Network().SetDelay(c.Host(i), "x", 50*time.Millisecond)
				}
				s := on(t, c.Network(), "x", "x", kvraft.WithJoin("n1:7000"), kvraft.WithLogger(its.logger()))
				var seen, told []kvraft.Progress
				eventually(t, "it is ready", func() bool {
					if p, ok := c.Store(leader).Status().Progress["x"]; ok && p.Bytes > 0 && p.Rate > 0 {
						seen = append(seen, p)
					}
					st := s.Status()
					if p, ok := st.Progress["x"]; ok && p.Bytes > 0 {
						told = append(told, p)
						if st.Voter || st.Ready || !strings.Contains(st.Reason, "catching up") {
							t.Fatalf("%+v", st)
						}
					}
					return st.Ready
				})
				for who, list := range map[string][]kvraft.Progress{"the leader": seen, "the node": told} {
					if len(list) == 0 {
						t.Fatalf("%s shows nothing", who)
					}
					first, last := list[0], list[len(list)-1]
					if first.Bytes > keys*size*5/4 || first.Bytes < keys*size/2 || last.Bytes > first.Bytes/2 {
						t.Errorf("%s: from %v to %v", who, first, last)
					}
				}
				for line, log := range map[string]*syncBuffer{`a node catches up: id=x progress="`: &members, `catching up: progress="`: &its} {
					if _, after, ok := strings.Cut(log.String(), line); !ok || !strings.Contains(strings.SplitN(after, "\n", 2)[0], "bytes behind, at ") {
						t.Errorf("a log does not say %q and how far it is:\n%.2000s", line, log)
					}
				}
				var rate int64
				for _, p := range seen {
					rate = max(rate, p.Rate)
				}
				if rate < 300_000 || rate > 3_000_000 {
					t.Errorf("at most %d bytes per second, want about 1.3 MB", rate)
				}
				if left := c.Store(leader).Status().Progress; len(left) != 0 {
					t.Errorf("when it has caught up: %v", left)
				}
				if err := c.Store(0).Remove(within(t, time.Minute), "x"); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Whoever becomes a replica while it waits for its vote gets none.
func TestALearnerThatBecomesAReplicaIsNotPromoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		for n := range 64 {
			mustSet(t, c.Store(0), fmt.Sprint("key-", n), strings.Repeat("v", 256<<10))
		}
		leader := c.WaitLeader()
		for i := range 3 {
			c.Network().SetDelay(c.Host(i), "x", 50*time.Millisecond)
		}
		s := on(t, c.Network(), "x", "x", kvraft.WithJoin("n1:7000"))
		eventually(t, "it catches up", func() bool { return len(c.Store(leader).Status().Progress) > 0 })
		release := c.Store(leader).HoldMembership()
		joined := make(chan error, 1)
		go func() { joined <- c.Store(leader).Join(within(t, time.Minute), "x", "x:7000", kvraft.Replica) }()
		time.Sleep(40 * time.Second) // both wait: the join, and the promotion behind it
		release()
		if err := <-joined; err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		if st := s.Status(); st.Voter || !st.Replica {
			t.Errorf("it is %+v", st.Node)
		}
		expel(t, c, s)
	})
}

// It goes on announcing itself as a replica, by its own command line.
func TestAReplicaThatIsMadeAVoterWhileItCatchesUpVotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		for n := range 64 {
			mustSet(t, c.Store(0), fmt.Sprint("key-", n), strings.Repeat("v", 256<<10))
		}
		leader := c.WaitLeader()
		for i := range 3 {
			c.Network().SetDelay(c.Host(i), "x", 50*time.Millisecond)
		}
		s := on(t, c.Network(), "x", "x", kvraft.WithJoin("n1:7000"), kvraft.WithReplica())
		eventually(t, "it catches up", func() bool { return len(c.Store(leader).Status().Progress) > 0 })
		if err := c.Store(leader).Join(within(t, 5*time.Minute), "x", "x:7000"); err != nil {
			t.Error(err)
		}
		nodes, err := c.Store(leader).Nodes(within(t, time.Minute))
		if want := (kvraft.Node{ID: "x", Addr: "x:7000", Voter: true}); err != nil || len(nodes) != 4 || nodes[3] != want {
			t.Errorf("nodes %v, %v", nodes, err)
		}
		eventually(t, "it is ready", ready(s))
		expel(t, c, s)
	})
}

// Another call makes the node a replica again before the first could give it a vote.
func TestAJoinReturnsOnlyWhenTheNodeIsWhatItWasAskedToBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		s := on(t, c.Network(), "x", "x", kvraft.WithJoin("n1:7000"), kvraft.WithReplica())
		eventually(t, "it is ready", ready(s))
		asReplica := make(chan error, 1)
		go func() { asReplica <- c.Store(leader).Join(within(t, time.Minute), "x", "x:7000", kvraft.Replica) }()
		if err := c.Store(leader).Join(within(t, time.Minute), "x", "x:7000"); err != nil {
			t.Error(err)
		}
		if x := c.Store(leader).Status().Nodes[3]; !x.Voter {
			t.Errorf("it was joined as a voter, and is %+v", x)
		}
		if err := <-asReplica; err != nil && !errors.Is(err, kvraft.ErrRefused) { // a voter is not made a replica
			t.Error(err)
		}
		expel(t, c, s)
	})
}

func TestAJoinerGoesToTheNextLeaderWhenTheFirstIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		release := c.Store(leader).HoldMembership() // the join waits there
		s := on(t, c.Network(), "x", "x", kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000"))
		time.Sleep(time.Second)
		c.Isolate(leader)
		began := time.Now()
		eventually(t, "it is ready", ready(s))
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
		release()
		c.Heal()
		c.WaitReady(leader)
		expel(t, c, s)
	})
}
