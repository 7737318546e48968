package kvraft_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// packet is what a path carries whose MTU is smaller than its ends believe.
const packet = 1400

// writesWithin writes to a node, once and again, until one write succeeds; within so
// long one must.
func writesWithin(t *testing.T, s *kvraft.Store, key string, value []byte, limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, err := s.Set(ctx, key, value); err != nil {
		t.Fatalf("no write succeeds within %v: %v", limit, err)
	}
	return time.Since(began)
}

func TestALeaderWhoseLargePacketsAreLostIsReplaced(t *testing.T) {
	for _, nodes := range []int{3, 5} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, nodes)
				leader := c.WaitLeader()
				mustSet(t, c.Store(leader), "before", "")
				for i := range nodes {
					if i != leader {
						c.DropLarge(leader, i, packet)
					}
				}
				took := writesWithin(t, c.Store((leader+1)%nodes), "key", make([]byte, 20_000), 15*time.Second)
				t.Logf("written after %v", took)
				if now, _ := c.Leader(); now == leader {
					t.Error("it leads again")
				}
				for i := range 60 { // its link stays as it is
					time.Sleep(time.Second)
					if took := writesWithin(t, c.Store((leader+1)%nodes), fmt.Sprint(i), make([]byte, 20_000), 15*time.Second); took > 100*time.Millisecond {
						t.Logf("after %d s a write took %v", i, took)
					}
				}
			})
		})
	}
}

// Nobody can take the place of a leader without a majority of the others: it stays, says
// that nothing is committed, and reads go on.
func TestALeaderThatCommitsNothingStaysIfNobodyCanTakeItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		mustSet(t, c.Store(leader), "key", "value")
		c.Crash((leader + 1) % 3)
		c.DropLarge(leader, (leader+2)%3, packet)
		before := c.Store(leader).Status()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.Store(leader).Set(ctx, "large", make([]byte, 20_000)); err == nil {
			t.Fatal("a large write succeeded")
		}
		wantValue(t, c.Store(leader), "key", "value")
		st := c.Store(leader).Status()
		if st.Term != before.Term || st.State != kvraft.Leading || st.Ready || !strings.HasPrefix(st.Reason, "no write is committed: ") {
			t.Errorf("%+v", st)
		}
		c.Heal()
		eventually(t, "it is ready again", ready(c.Store(leader)))
	})
}

func TestAFollowerThatLargePacketsDoNotReachIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		behind, other := (leader+1)%3, (leader+2)%3
		c.DropLarge(leader, behind, packet)
		before := c.Store(leader).Status().Term
		for i := range 60 {
			writesWithin(t, c.Store(leader), fmt.Sprint(i), make([]byte, 20_000), time.Second)
			time.Sleep(time.Second)
			st := c.Store(behind).Status()
			if i > 10 && (st.Ready || !strings.HasPrefix(st.Reason, "catching up with the leader: it had log index")) {
				t.Fatalf("after %d s: %+v", i, st)
			}
		}
		if c.Store(leader).Status().Term != before || !c.Store(leader).Status().Ready || !c.Store(other).Status().Ready {
			t.Errorf("%+v\n%+v", c.Store(leader).Status(), c.Store(other).Status())
		}
		c.Heal()
		eventually(t, "it is ready again", ready(c.Store(behind)))
	})
}

func TestAFollowerWhoseLeaderAnswersNoQuestionIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		follower := (leader + 1) % 3
		c.DropLarge(follower, leader, 1) // not even small ones
		time.Sleep(20 * time.Second)
		if st := c.Store(follower).Status(); st.Ready {
			t.Errorf("%+v", st)
		}
		c.Heal()
		eventually(t, "it is ready again", ready(c.Store(follower)))
	})
}

// Whatever holds raft's main goroutine up: heartbeats go on, and nothing else does.
func TestANodeWhoseRaftIsHeldUpIsNotReadyAndStops(t *testing.T) {
	for _, role := range []string{"leader", "follower"} {
		t.Run(role, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, 3)
				leader := c.WaitLeader()
				held := leader
				if role == "follower" {
					held = (leader + 1) % 3
				}
				s, other := c.Store(held), c.Store((leader+2)%3)
				release := s.HoldRaft()
				defer release()
				time.Sleep(5 * time.Second)
				if st := s.Status(); st.Ready || !strings.HasPrefix(st.Reason, "raft has not answered for ") {
					t.Errorf("%+v", st)
				}
				writesWithin(t, other, "key", []byte("value"), 12*time.Second)
				time.Sleep(10 * time.Second)
				if err := s.Err(); err == nil || !strings.Contains(err.Error(), "main goroutine is held up") {
					t.Errorf("it goes on: %v", err)
				}
			})
		})
	}
}

func TestANodeWhoseStateMachineIsHeldUpIsNotReadyAndStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		s := c.Store(leader)
		release := s.HoldStateMachine()
		defer release()
		time.Sleep(5 * time.Second)
		if st := s.Status(); st.Ready || !strings.HasPrefix(st.Reason, "the state machine has got nothing done for ") {
			t.Errorf("%+v", st)
		}
		writesWithin(t, c.Store((leader+1)%3), "key", []byte("value"), 12*time.Second)
		if err := s.Err(); err == nil || !strings.Contains(err.Error(), "state machine") {
			t.Errorf("it goes on: %v", err)
		}
	})
}

func TestADiskThatHangsHoldsUpNoCluster(t *testing.T) {
	for _, role := range []string{"leader", "follower"} {
		t.Run(role, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, 3)
				leader := c.WaitLeader()
				held := leader
				if role == "follower" {
					held = (leader + 1) % 3
				}
				gate := make(chan struct{})
				defer close(gate)
				c.Disk(held).SetFault(func(op kvrafttest.Operation) error {
					if op.Name == "StoreLogs" {
						<-gate
					}
					return nil
				})
				writesWithin(t, c.Store((leader+2)%3), "key", []byte("value"), 12*time.Second)
				time.Sleep(12 * time.Second)
				if st := c.Store(held).Status(); st.Ready || c.Store(held).Err() == nil {
					t.Errorf("it goes on: %+v", st)
				}
			})
		})
	}
}

// A snapshot over a slow link keeps raft's main goroutine for longer than anything may
// stand still. It does not stand still.
func TestASnapshotThatTakesLongIsInstalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3, kvraft.WithSnapshots(kvraft.Snapshots{TrailingBytes: 1}))
		leader := c.WaitLeader()
		follower := (leader + 1) % 3
		c.Crash(follower)
		for i := range 20 {
			mustSet(t, c.Store(leader), fmt.Sprint(i), strings.Repeat("x", 1<<20))
		}
		time.Sleep(time.Second)
		if err := c.Store(leader).TakeSnapshot(); err != nil {
			t.Fatal(err)
		}
		for _, edge := range [][2]int{{leader, follower}, {follower, leader}} {
			c.Network().SetDelay(c.Host(edge[0]), c.Host(edge[1]), 50*time.Millisecond)
		}
		began := time.Now()
		c.Restart(follower)
		seen := false
		eventually(t, "it is ready", func() bool {
			st := c.Store(follower).Status()
			seen = seen || strings.HasPrefix(st.Reason, "installing a snapshot: ")
			return c.Store(follower).Index() >= c.Store(leader).Index() && st.Ready
		})
		if took := time.Since(began); took < 12*time.Second || !seen {
			t.Errorf("it took %v, and the node told of it: %t", took, seen)
		}
	})
}

// raft's main goroutine reads the snapshot, and waits for the network for longer than a disk
// may take.
func TestASnapshotThatStopsInItsMiddleStopsNoNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3, kvraft.WithSnapshots(kvraft.Snapshots{TrailingBytes: 1}), kvraft.WithTiming(kvraft.Timing{Stall: time.Second}))
		leader := c.WaitLeader()
		follower := (leader + 1) % 3
		c.Crash(follower)
		for i := range 20 {
			mustSet(t, c.Store(leader), fmt.Sprint(i), strings.Repeat("x", 1<<20))
		}
		if err := c.Store(leader).TakeSnapshot(); err != nil {
			t.Fatal(err)
		}
		for _, edge := range [][2]int{{leader, follower}, {follower, leader}} {
			c.Network().SetDelay(c.Host(edge[0]), c.Host(edge[1]), 50*time.Millisecond)
		}
		c.Restart(follower)
		eventually(t, "it installs a snapshot", func() bool {
			return strings.HasPrefix(c.Store(follower).Status().Reason, "installing a snapshot: ")
		})
		c.Isolate(follower)
		time.Sleep(30 * time.Second)
		if err := c.Store(follower).Err(); err != nil {
			t.Errorf("it has stopped: %v", err)
		}
		c.Heal()
		c.WaitReady(follower)
	})
}
