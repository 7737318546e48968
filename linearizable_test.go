package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// Each test here is a history in which a plausible shortcut of the quorum round
// returns an old value.

// The followers' answers to the leader are late, and it cannot reach them anew;
// one of them takes over and commits. raft's VerifyLeader then still says yes to
// the old leader, since answers that arrive after the question count even if they
// were sent before it.
func TestADeposedLeaderDoesNotServeTheOldValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		old := c.WaitLeader()
		next, third := (old+1)%3, (old+2)%3
		mustSet(t, c.Store(old), "key", "old")
		time.Sleep(time.Second)

		for _, i := range []int{next, third} { // answers are on their way for 300 ms
			c.Network().SetDelay(fmt.Sprint("n", i+1), fmt.Sprint("n", old+1), 300*time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		// next takes over with the vote of third; the old leader hears of it late.
		if err := c.Store(third).HandOverTo(c.Store(next)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Store(next).Set(within(t, 5*time.Second), "key", []byte("new")); err != nil {
			t.Fatal(err)
		}
		if c.Store(old).Raft().State() != raft.Leader {
			t.Fatal("the old leader knows already that it is deposed: the test shows nothing")
		}
		entry, err := c.Store(old).Get(within(t, 20*time.Second), "key")
		if err != nil || string(entry.Value) != "new" {
			t.Errorf("the deposed leader served %q, %v", entry.Value, err)
		}
	})
}

// With only non-voters within reach a leader is none, whoever answers it.
func TestALeaderWithoutAMajorityServesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 5)
		leader := c.WaitLeader()
		mustSet(t, c.Store(leader), "key", "value")
		followers := []int{(leader + 1) % 5, (leader + 2) % 5}
		for _, i := range followers {
			if err := c.Store(leader).Raft().DemoteVoter(serverID(c.Store(i)), 0, 0).Error(); err != nil {
				t.Fatal(err)
			}
		}
		mustSet(t, c.Store(leader), "key", "value")
		c.Partition(append(followers, leader)) // three of five, but one voter of three
		if _, err := c.Store(leader).Get(within(t, 300*time.Millisecond), "key"); err == nil {
			t.Error("a read was served within the lease, by non-voters' word")
		}
		c.Heal()
		c.Abandon() // those that were demoted are never ready
	})
}

// A leader that is removing itself does not count for its own majority: the new
// configuration can elect a leader without it and without whom it can still ask.
func TestALeaderThatIsBeingRemovedDoesNotCountItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 4)
		l := c.WaitLeader()
		b, cc, d := (l+1)%4, (l+2)%4, (l+3)%4
		mustSet(t, c.Store(l), "key", "old")
		time.Sleep(time.Second)
		me := c.Store(l).Raft()
		for _, i := range []int{cc, d} { // two followers store the entry, and their answers are lost
			c.Disk(i).SetFault(func(kvrafttest.Operation) error { time.Sleep(20 * time.Millisecond); return nil })
		}
		removed := serverID(c.Store(l))
		me.RemoveServer(removed, 0, 0)
		time.Sleep(10 * time.Millisecond)
		c.Block(cc, l)
		c.Block(d, l)
		for _, i := range []int{cc, d} {
			eventually(t, "the follower has the entry", func() bool { return !knows(c.Store(i), removed) })
			c.Disk(i).SetFault(nil)
		}
		c.Partition([]int{l, b}, []int{cc, d})
		if err := c.Store(d).HandOverTo(c.Store(cc)); err != nil {
			t.Fatal(err)
		}
		// {c, d} is a majority of {b, c, d}, the configuration without l.
		if _, err := c.Store(cc).Set(within(t, 5*time.Second), "key", []byte("new")); err != nil {
			t.Fatal(err)
		}
		if me.State() != raft.Leader {
			t.Fatal("the old leader knows already that it is deposed: the test shows nothing")
		}
		if entry, err := c.Store(l).Get(within(t, 200*time.Millisecond), "key"); err == nil && string(entry.Value) == "old" {
			t.Errorf("the leader that is being removed served %q", entry.Value)
		}
		c.Abandon() // l is removed: it will never be ready
	})
}

func knows(s *kvraft.Store, id raft.ServerID) bool {
	return slices.ContainsFunc(s.Raft().GetConfiguration().Configuration().Servers, func(m raft.Server) bool { return m.ID == id })
}

func serverID(s *kvraft.Store) raft.ServerID {
	for _, m := range s.Raft().GetConfiguration().Configuration().Servers {
		if string(m.Address) == s.Status().Addr {
			return m.ID
		}
	}
	return ""
}

// A new leader knows what is committed only once an entry of its own term is.
func TestANewLeaderServesWhatItsPredecessorAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The followers are not told that the write is committed.
		c := kvrafttest.New(t, 3, kvraft.WithTiming(kvraft.Timing{Commit: time.Minute}))
		old := c.WaitLeader()
		mustSet(t, c.Store(old), "key", "old")
		mustSet(t, c.Store(old), "key", "new")
		for i := range 3 { // nor does the next leader commit its first entry at once
			c.Disk(i).SetFault(func(op kvrafttest.Operation) error {
				if op.Name == "StoreLogs" {
					time.Sleep(200 * time.Millisecond)
				}
				return nil
			})
		}
		var served atomic.Int32
		var readers sync.WaitGroup
		for _, s := range []*kvraft.Store{c.Store((old + 1) % 3), c.Store((old + 2) % 3)} {
			for name, level := range map[string]kvraft.ReadOption{"linearizable": kvraft.Linearizable, "leader local": kvraft.LeaderLocal} {
				readers.Go(func() {
					for s.Raft().State() != raft.Leader {
						if served.Load() == 2 { // by the other node
							return
						}
						time.Sleep(time.Millisecond)
					}
					entry, err := s.Get(within(t, 20*time.Second), "key", level)
					if err != nil || string(entry.Value) != "new" {
						t.Errorf("%s: the new leader served %q, %v", name, entry.Value, err)
					}
					served.Add(1)
				})
			}
		}
		c.Crash(old)
		readers.Wait()
	})
}

// A follower may have applied what the leader has yet to apply. If a reader saw
// it there, a later read on the leader must not miss it.
func TestManyReadersOfAFollowerSeeWhatWasAcknowledgedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		follower := (leader + 1) % 3
		for n := range 20 {
			version := mustSet(t, c.Store(leader), "key", fmt.Sprint(n))
			var readers sync.WaitGroup
			for range 16 {
				readers.Go(func() {
					entry, err := c.Store(follower).Get(t.Context(), "key")
					if err != nil || entry.Version != version {
						t.Errorf("read version %d, %v after version %d was acknowledged", entry.Version, err, version)
					}
				})
			}
			readers.Wait()
		}
	})
}

func TestALeaderThatAppliesLateServesNothingOlderThanAFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		follower := (leader + 1) % 3
		mustSet(t, c.Store(leader), "key", "old")
		time.Sleep(time.Second)
		release := c.Store(leader).HoldStateMachine()
		ctx := within(t, time.Minute)
		wrote := make(chan error, 1)
		go func() {
			_, err := c.Store(leader).Set(ctx, "key", []byte("new"))
			wrote <- err
		}()
		eventually(t, "the follower has applied the write", func() bool {
			entry, err := c.Store(follower).Get(ctx, "key", kvraft.Stale)
			return err == nil && string(entry.Value) == "new"
		})
		first := make(chan string, 1)
		go func() {
			view, err := c.Store(follower).View(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			entry, _ := view.Get("key")
			first <- string(entry.Value)
		}()
		time.Sleep(100 * time.Millisecond)
		second := make(chan string, 1)
		go func() {
			entry, err := c.Store(leader).Get(ctx, "key")
			if err != nil {
				t.Error(err)
			}
			second <- string(entry.Value)
		}()
		select { // whoever is served while the state machine is held must not disagree
		case one := <-first:
			if one == "new" {
				t.Error("the follower showed a write that a read on the leader would miss")
			}
		case <-time.After(500 * time.Millisecond):
		}
		release()
		if two := <-second; two != "new" {
			t.Errorf("the leader served %q", two)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
	})
}

func TestMaxStalenessServesOnlyWhatItCanProve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		follower := (leader + 1) % 3
		mustSet(t, c.Store(leader), "key", "old")
		wantValue(t, c.Store(follower), "key", "old", kvraft.MaxStaleness(10*time.Second))
		c.Isolate(follower)
		mustSet(t, c.Store(leader), "key", "new")
		time.Sleep(5 * time.Second)
		wantValue(t, c.Store(follower), "key", "old", kvraft.MaxStaleness(10*time.Second)) // 5 s old, as proven
		time.Sleep(6 * time.Second)
		_, err := c.Store(follower).Get(within(t, 3*time.Second), "key", kvraft.MaxStaleness(10*time.Second))
		if !errors.Is(err, kvraft.ErrStale) {
			t.Errorf("11 s after the proof: %v, want ErrStale", err)
		}
		wantValue(t, c.Store(follower), "key", "old", kvraft.Stale)
		c.Heal()
		wantValue(t, c.Store(follower), "key", "new", kvraft.MaxStaleness(time.Second))
	})
}

func TestAtLeastReadsTheCallersOwnWriteOnAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3, kvraft.WithTiming(kvraft.Timing{Commit: 200 * time.Millisecond}))
		for n := range 50 {
			writer, reader := n%3, (n+1)%3
			version := mustSet(t, c.Store(writer), "key", fmt.Sprint(n))
			wantValue(t, c.Store(reader), "key", fmt.Sprint(n), kvraft.AtLeast(version))
		}
		version := mustSet(t, c.Store(0), "key", "last")
		if _, err := c.Store(1).Get(within(t, time.Second), "key", kvraft.AtLeast(version+1)); !errors.Is(err, kvraft.ErrStale) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a version of the future: %v", err)
		}
	})
}

func TestLeaderLocalReadsAskNobodyButTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		mustSet(t, c.Store(leader), "key", "value")
		for i := range 3 {
			wantValue(t, c.Store(i), "key", "value", kvraft.LeaderLocal)
		}
		c.Isolate(leader)
		wantValue(t, c.Store(leader), "key", "value", kvraft.LeaderLocal) // within its lease
	})
}

func TestAViewStaysAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		for _, key := range []string{"b", "a/2", "a/1", "c"} {
			mustSet(t, c.Store(0), key, "before")
		}
		for i := range 3 {
			view, err := c.Store(i).View(within(t, time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			version := mustSet(t, c.Store(0), "b", fmt.Sprint("after ", i))
			mustSet(t, c.Store(0), fmt.Sprint("d", i), "after")
			if view.Version() != version-1 || view.Len() != 4+i {
				t.Errorf("node %d: version %d, %d keys; want %d, %d", i, view.Version(), view.Len(), version-1, 4+i)
			}
			var keys []string
			for entry := range view.Range("a", "c") {
				keys = append(keys, entry.Key)
			}
			if got := fmt.Sprint(keys); got != "[a/1 a/2 b]" {
				t.Errorf("node %d: range %s", i, got)
			}
			keys = nil
			for entry := range view.Prefix("a/") {
				keys = append(keys, entry.Key)
				if string(entry.Value) != "before" {
					t.Errorf("node %d: %+v", i, entry)
				}
			}
			if got := fmt.Sprint(keys); got != "[a/1 a/2]" {
				t.Errorf("node %d: prefix %s", i, got)
			}
			for entry := range view.All() {
				if entry.Key != "a/1" {
					t.Errorf("node %d: first of all %q", i, entry.Key)
				}
				break
			}
		}
	})
}
