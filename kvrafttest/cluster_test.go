package kvrafttest_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

func TestThreeNodesServeOnEachOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		for i := range c.Len() {
			key := fmt.Sprintf("key-%d", i)
			if _, err := c.Store(i).Set(t.Context(), key, []byte("value")); err != nil {
				t.Fatalf("set on node %d: %v", i, err)
			}
			for j := range c.Len() {
				entry, err := c.Store(j).Get(t.Context(), key)
				if err != nil || string(entry.Value) != "value" {
					t.Fatalf("get on node %d what node %d set: %q, %v", j, i, entry.Value, err)
				}
			}
		}
	})
}

func TestACrashedLeaderIsReplacedAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		old := c.WaitLeader()
		if _, err := c.Store(old).Set(t.Context(), "before", []byte("1")); err != nil {
			t.Fatal(err)
		}
		c.Crash(old)
		other := (old + 1) % 3
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := c.Store(other).Set(ctx, "after", []byte("2")); err != nil {
			t.Fatal(err)
		}
		c.Restart(old)
		c.WaitConverged()
		for _, key := range []string{"before", "after"} {
			if _, err := c.Store(old).Get(ctx, key, kvraft.Stale); err != nil {
				t.Errorf("%s on the node that came back: %v", key, err)
			}
		}
	})
}

func TestAClusterGoesOnWhenItsConnectionsGoDark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		for i := range c.Len() {
			c.GoDark(leader, i)
		}
		began := time.Now()
		for i := range c.Len() {
			if _, err := c.Store(i).Set(t.Context(), "key", nil); err != nil {
				t.Fatalf("set on node %d: %v", i, err)
			}
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("all have written after %v", took)
		}
	})
}

func TestALeaderThatIsPausedIsReplacedAndFollowsAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		for range 3 {
			paused := c.WaitLeader()
			c.Pause(paused)
			began := time.Now()
			next := c.WaitLeaderOtherThan(paused)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("it was replaced after %v", took)
			}
			if _, err := c.Store(next).Set(t.Context(), "key", nil); err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Second)
			term := c.Store(next).Status().Term
			c.Resume(paused)
			c.WaitReady(paused)
			time.Sleep(5 * time.Second)
			if st := c.Store(paused).Status(); st.Term != term || st.State != kvraft.Follower {
				t.Errorf("it is %s in term %d, want following in term %d", st.State, st.Term, term)
			}
		}
		c.Pause(0)
		c.Crash(0)
		c.Restart(0)
		c.Pause(1) // the cleanup lets it go on
	})
}
