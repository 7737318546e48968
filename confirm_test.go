package kvraft_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// A leader begins a round of reads, is deposed, and learns of a configuration of its
// successor's, in which it is the only voter: it must not confirm its old term by that.
func TestADeposedLeaderConfirmsNothingByALaterConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		old := c.WaitLeader()
		next, third := (old+1)%3, (old+2)%3
		mustSet(t, c.Store(old), "key", "old")
		term := c.Store(old).Raft().CurrentTerm()
		if err := c.Store(old).AskVoters(term); err != nil {
			t.Fatal(err)
		}
		if err := c.Store(old).HandOverTo(c.Store(next)); err != nil {
			t.Fatal(err)
		}
		c.WaitLeaderOtherThan(old)
		if err := c.Store(next).Remove(within(t, time.Minute), fmt.Sprint("n", third+1)); err != nil {
			t.Fatal(err)
		}
		if leader := c.WaitLeader(); leader != next {
			t.Fatalf("node %d leads", leader)
		}
		mustSet(t, c.Store(next), "key", "new")
		if err := c.Store(next).Raft().RemoveServer(c.Store(next).ServerID(), 0, time.Minute).Error(); err != nil && !errors.Is(err, raft.ErrLeadershipLost) {
			t.Fatal(err)
		}
		alone := func() bool {
			servers := c.Store(old).Raft().GetConfiguration().Configuration().Servers
			return len(servers) == 1 && servers[0].ID == c.Store(old).ServerID()
		}
		eventually(t, "the old leader is the only voter that it knows", alone)
		if err := c.Store(old).AskVoters(term); err == nil {
			t.Error("it confirmed a term in which another leader has written")
		}
		c.Abandon()
	})
}

// Nodes that differ in their limits are a mistake that must do no harm.
func TestNodesMayDifferInTheirLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		wide := kvraft.Limits{KeyBytes: 4 << 10, ValueBytes: 2 << 20}
		a := on(t, network, "n1", "n1", kvraft.WithLimits(wide))
		b := on(t, network, "n2", "n2", kvraft.WithJoin("n1:7000"))
		eventually(t, "ready", ready(b))
		long := string(make([]byte, 2000))

		release := b.HoldStateMachine() // it has yet to learn of the key
		version := mustSet(t, a, long, "value")
		time.AfterFunc(2*time.Second, release)
		if e, err := b.Get(within(t, time.Minute), long); err != nil || string(e.Value) != "value" {
			t.Errorf("a linearizable Get of a key that was set: %v", err)
		}
		if _, err := b.Delete(within(t, time.Minute), long, kvraft.IfVersion(version)); err != nil {
			t.Errorf("its Delete: %v", err)
		}
		for e, err := range b.Watch(within(t, time.Minute), long, kvraft.SnapshotFirst) {
			if err != nil {
				t.Errorf("its Watch: %+v, %v", e, err)
			}
			break
		}

		if err := a.HandOverTo(b); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the other leads", func() bool { return b.Status().Leader.ID == "n2" && a.Status().Leader.ID == "n2" })
		for key, value := range map[string][]byte{long: nil, "large": make([]byte, 1<<20+1)} {
			began := time.Now()
			if _, err := a.Set(within(t, time.Minute), key, value); !errors.Is(err, kvraft.ErrTooLarge) || errors.Is(err, kvraft.ErrUnknown) || time.Since(began) > time.Second {
				t.Errorf("a write over the leader's limits: %v after %v", err, time.Since(began))
			}
		}
		mustSet(t, a, "small", "value")
	})
}
