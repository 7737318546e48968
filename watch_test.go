package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// words is an event as "set a=1@3", with a + where others of its version follow.
func words(e kvraft.Event) string {
	s := fmt.Sprintf("%s %s", e.Kind, e.Key)
	if e.Kind == kvraft.EventSet {
		s += "=" + string(e.Value)
	}
	s += fmt.Sprintf("@%d", e.Version)
	if e.More {
		s += "+"
	}
	return s
}

// take returns the next n events, or those before an error.
func take(events iter.Seq2[kvraft.Event, error], n int) (list []string, err error) {
	for e, err := range events {
		if err != nil {
			return list, err
		}
		if list = append(list, words(e)); len(list) == n {
			return list, nil
		}
	}
	return list, errors.New("the watch ended without an error")
}

func wantEvents(t *testing.T, events iter.Seq2[kvraft.Event, error], want ...string) {
	t.Helper()
	if got, err := take(events, len(want)); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// wantEnd wants a watch to end with an error before it yields anything.
func wantEnd(t *testing.T, events iter.Seq2[kvraft.Event, error], want ...error) error {
	t.Helper()
	got, err := take(events, 1)
	for _, w := range want {
		if len(got) > 0 || !errors.Is(err, w) {
			t.Errorf("got %q, %v, want %v", got, err, w)
		}
	}
	return err
}

func mustBatch(t *testing.T, s *kvraft.Store, ops ...kvraft.Op) uint64 {
	t.Helper()
	version, err := s.Batch(within(t, time.Minute), ops...)
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func mustDelete(t *testing.T, s *kvraft.Store, key string) uint64 {
	t.Helper()
	version, err := s.Delete(within(t, time.Minute), key)
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// later calls f in a while; the channel is closed when f has returned.
func later(d time.Duration, f func()) <-chan struct{} {
	done := make(chan struct{})
	time.AfterFunc(d, func() {
		defer close(done)
		f()
	})
	return done
}

func TestAWatchYieldsTheChangesOfItsPrefixInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kvrafttest.New(t, 1).Store(0)
		set := func(key, value string) kvraft.Op { return kvraft.SetOp(key, []byte(value)) }
		mustSet(t, s, "before", "1")
		watch, watchA := s.Watch(t.Context(), ""), s.Watch(t.Context(), "a") // from now
		mustSet(t, s, "a", "1")
		mustDelete(t, s, "absent") // no change
		mustBatch(t, s, set("b", "1"), set("a", "2"), set("b", "2"), set("gone", "1"), kvraft.DeleteOp("gone"))
		mustBatch(t, s, set("c", "1"), kvraft.DeleteOp("c")) // nothing to see in version 4
		mustDelete(t, s, "a")
		mustBatch(t, s, set("ab", "1"), set("d", ""), set("aa", "1"))
		wantEvents(t, watch, "set a=1@2", "set a=2@3+", "set b=2@3", "delete a@5", "set ab=1@6+", "set d=@6+", "set aa=1@6")
		wantEvents(t, watchA, "set a=1@2", "set a=2@3", "delete a@5", "set ab=1@6+", "set aa=1@6")
		wantEvents(t, watch, "set a=1@2") // again, from where it began

		wantEvents(t, s.Watch(t.Context(), "", kvraft.After(0)), "set before=1@1", "set a=1@2")
		wantEvents(t, s.Watch(t.Context(), "", kvraft.After(3)), "delete a@5", "set ab=1@6+")
		set7 := later(time.Minute, func() { mustSet(t, s, "late", "1") })
		wantEvents(t, s.Watch(t.Context(), "", kvraft.After(6)), "set late=1@7")
		<-set7
	})
}

func TestAWatchOfOneKeyLeavesOutThoseThatBeginWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kvrafttest.New(t, 1).Store(0)
		set := func(key, value string) kvraft.Op { return kvraft.SetOp(key, []byte(value)) }
		mustBatch(t, s, set("color", "red"), set("color/of/sky", "blue"), set("col", "x"))
		watch := s.Watch(t.Context(), "color", kvraft.ExactKey, kvraft.SnapshotFirst)
		changed := later(time.Minute, func() {
			mustSet(t, s, "colors", "many")
			mustBatch(t, s, set("color", "green"), set("color2", "x"))
			mustDelete(t, s, "color/of/sky")
			mustDelete(t, s, "color")
		})
		wantEvents(t, watch, "set color=red@1+", "sync @1", "set color=green@3", "delete color@5")
		<-changed
		wantEvents(t, s.Watch(t.Context(), "color", kvraft.ExactKey, kvraft.SnapshotFirst), "sync @5")
		wantEvents(t, s.Watch(t.Context(), "color", kvraft.ExactKey, kvraft.After(0)), "set color=red@1", "set color=green@3")
	})
}

func TestAWatchCanBeginWithWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kvrafttest.New(t, 1).Store(0)
		wantEvents(t, s.Watch(t.Context(), "", kvraft.SnapshotFirst), "sync @0")
		mustSet(t, s, "b/2", "1")
		mustSet(t, s, "a", "1")
		mustSet(t, s, "b/1", "1")
		watch := s.Watch(t.Context(), "b/", kvraft.SnapshotFirst)
		deleted := later(time.Minute, func() { mustDelete(t, s, "b/1") })
		wantEvents(t, watch, "set b/1=1@3+", "set b/2=1@1+", "sync @3", "delete b/1@4")
		<-deleted
		wantEvents(t, s.Watch(t.Context(), "c", kvraft.SnapshotFirst), "sync @4")

		n := 0
		for e, err := range s.Watch(t.Context(), "b/", kvraft.SnapshotFirst) {
			if n++; n == 1 {
				mustSet(t, s, "b/1", "2") // what comes while the snapshot is yielded
				mustSet(t, s, "b/2", "2")
			}
			if want := []string{"", "set b/2=1@1+", "sync @4", "set b/1=2@5", "set b/2=2@6"}[n]; err != nil || words(e) != want {
				t.Errorf("got %s, %v, want %s", words(e), err, want)
			}
			if n == 4 {
				break
			}
		}
	})
}

func TestAWatchCopiesEachValueUnlessToldOtherwise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kvrafttest.New(t, 1).Store(0)
		mustSet(t, s, "a", "value")
		first := func(opts ...kvraft.WatchOption) *byte {
			for e, err := range s.Watch(t.Context(), "a", opts...) {
				if err != nil || string(e.Value) != "value" {
					t.Fatal(words(e), err)
				}
				return &e.Value[0]
			}
			return nil
		}
		for _, begin := range []kvraft.WatchOption{kvraft.SnapshotFirst, kvraft.After(0)} {
			if one, other := first(begin), first(begin); one == other {
				t.Error("two watches have the same bytes")
			}
			if one, other := first(begin, kvraft.SharedValues), first(begin, kvraft.SharedValues); one != other {
				t.Error("the value was copied")
			}
		}
	})
}

// sets makes n changes of other keys.
func sets(t *testing.T, s *kvraft.Store, n int) (version uint64) {
	t.Helper()
	for range n {
		version = mustSet(t, s, "other", strings.Repeat("v", 100))
	}
	return version
}

func TestAWatchOfQuietKeysSaysHowFarItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kvrafttest.New(t, 1, kvraft.WithHistory(1<<10)).Store(0)
		mustSet(t, s, "quiet", "1")
		for _, minute := range []int{1, 2, 3} {
			time.AfterFunc(time.Duration(minute)*time.Minute-time.Second, func() { sets(t, s, 100) }) // more than the history holds
		}
		time.AfterFunc(3*time.Minute+30*time.Second, func() { mustSet(t, s, "quiet", "2") })
		type timed struct {
			event string
			after time.Duration
		}
		var got []timed
		began := time.Now()
		for e, err := range s.Watch(t.Context(), "quiet", kvraft.After(0), kvraft.SyncEvery(time.Minute)) {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, timed{words(e), time.Since(began).Truncate(time.Second)}); len(got) == 7 {
				break
			}
		}
		want := []timed{{"set quiet=1@1", 0}, {"sync @1", 0}, {"sync @101", time.Minute}, {"sync @201", 2 * time.Minute}, {"sync @301", 3 * time.Minute},
			{"set quiet=2@302", 3*time.Minute + 30*time.Second}, {"sync @302", 4*time.Minute + 30*time.Second}}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// It has waited for so long that the history has moved on, but it has missed nothing.
func TestAnIdleWatchOfQuietKeysIsNotCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kvrafttest.New(t, 1, kvraft.WithHistory(1<<10)).Store(0)
		written := later(time.Second, func() {
			sets(t, s, 1000)
			mustSet(t, s, "quiet", "1")
		})
		wantEvents(t, s.Watch(t.Context(), "quiet"), "set quiet=1@1001")
		<-written
	})
}

func TestASlowWatcherHoldsUpNobodyAndIsToldWhatItMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kvrafttest.New(t, 1, kvraft.WithHistory(10<<10)).Store(0)
		first := mustSet(t, s, "key", "1")
		seen := 0
		var last error
		for e, err := range s.Watch(t.Context(), "", kvraft.After(0)) {
			if err != nil {
				last = err
				break
			}
			if seen++; e.Version != first {
				t.Errorf("got %s, which is not the next", words(e))
			}
			sets(t, s, 1000) // while this consumer is busy
		}
		var compacted *kvraft.CompactedError
		if !errors.Is(last, kvraft.ErrCompacted) || !errors.As(last, &compacted) || seen != 1 {
			t.Fatalf("after %d events: %v, want ErrCompacted", seen, last)
		}
		if compacted.Version < 900 || compacted.Version > 1000 {
			t.Errorf("it goes back to version %d", compacted.Version)
		}
		wantEvents(t, s.Watch(t.Context(), "", kvraft.After(compacted.Version)), fmt.Sprintf("set other=%s@%d", strings.Repeat("v", 100), compacted.Version+1))
		wantEnd(t, s.Watch(t.Context(), "", kvraft.After(compacted.Version-1)), kvraft.ErrCompacted)
	})
}

func TestAWatchOfTheFutureWaitsForALaggardAndIsRefusedElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		laggard := (leader + 1) % 3
		c.Isolate(laggard)
		version := mustSet(t, c.Store(leader), "a", "1")
		watch := c.Store(laggard).Watch(within(t, 10*time.Second), "", kvraft.After(version))
		err := wantEnd(t, watch, kvraft.ErrNoLeader, context.DeadlineExceeded)
		if errors.Is(err, kvraft.ErrInvalid) {
			t.Error("nobody knows that the version is not there")
		}
		time.AfterFunc(time.Second, c.Heal)
		written := later(20*time.Second, func() { mustSet(t, c.Store(leader), "b", "1") })
		wantEvents(t, c.Store(laggard).Watch(t.Context(), "", kvraft.After(version)), fmt.Sprintf("set b=1@%d", version+1))
		<-written
		for i := range c.Len() {
			err := wantEnd(t, c.Store(i).Watch(t.Context(), "", kvraft.After(version+2)), kvraft.ErrInvalid)
			if !strings.Contains(err.Error(), fmt.Sprintf("at version %d", version+1)) {
				t.Errorf("%v: does not say where the state is", err)
			}
		}
	})
}

func TestAWatchThatCannotBeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 1)
		s := c.Store(0)
		wantEnd(t, s.Watch(t.Context(), "", kvraft.After(1), kvraft.SnapshotFirst), kvraft.ErrInvalid)
		wantEnd(t, s.Watch(t.Context(), "", kvraft.SyncEvery(-1)), kvraft.ErrInvalid)

		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(enough) })
		for range 2 { // while it waits, and before it begins
			wantEnd(t, s.Watch(ctx, ""), context.Canceled, enough)
		}
		stopped := later(time.Minute, func() { c.Stop(0) })
		for range 2 {
			wantEnd(t, s.Watch(t.Context(), ""), kvraft.ErrClosed)
			wantEnd(t, s.Watch(t.Context(), "", kvraft.SnapshotFirst), kvraft.ErrClosed)
		}
		wantEnd(t, s.Watch(t.Context(), "", kvraft.After(99)), kvraft.ErrClosed)
		<-stopped
	})
}

func TestAWatchEndsWithWhatStoppedTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		fault := errors.New("the disk")
		victim := (c.WaitLeader() + 1) % 3
		written := later(time.Second, func() {
			c.Disk(victim).SetFault(func(kvrafttest.Operation) error { return fault })
			mustSet(t, c.Store((victim+1)%3), "key", "value")
		})
		for _, err := range c.Store(victim).Watch(t.Context(), "") {
			if err != nil && (!errors.Is(err, kvraft.ErrClosed) || !errors.Is(err, fault)) {
				t.Errorf("got %v, want ErrClosed and why", err)
			}
		}
		<-written
	})
}

// What a follower gets as a snapshot it cannot tell change by change.
func TestAWatchAcrossAnInstalledSnapshotIsCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		behind := (leader + 1) % 3
		mustSet(t, c.Store(leader), "key", "0")
		c.WaitConverged()
		type end struct {
			last uint64
			err  error
		}
		ends := make(chan end)
		for _, prefix := range []string{"", "other"} {
			watch := c.Store(behind).Watch(t.Context(), prefix)
			go func() {
				var last uint64
				for e, err := range watch {
					if err != nil {
						ends <- end{last, err}
						return
					}
					last = e.Version
				}
			}()
		}
		synctest.Wait()
		c.Isolate(behind)
		leader = c.WaitLeaderOtherThan(behind)
		mustSet(t, c.Store(leader), "key", "1")
		version := sets(t, c.Store(leader), 10)
		if err := c.Store(leader).CompactAll(); err != nil {
			t.Fatal(err)
		}
		c.Heal()
		for range 2 {
			got := <-ends
			var compacted *kvraft.CompactedError
			if !errors.As(got.err, &compacted) || compacted.Version != version || got.last != 0 {
				t.Errorf("after version %d: %v, want ErrCompacted, and version %d", got.last, got.err, version)
			}
		}
		wantEvents(t, c.Store(behind).Watch(t.Context(), "key", kvraft.SnapshotFirst), "set key=1@2+", fmt.Sprintf("sync @%d", version))
	})
}

// A restart keeps as much history as the log does.
func TestAWatchGoesOnAcrossARestartAndOnAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		mustSet(t, c.Store(0), "a", "1")
		mustBatch(t, c.Store(1), kvraft.SetOp("b", []byte("1")), kvraft.SetOp("c", []byte("1")))
		mustDelete(t, c.Store(2), "a")
		want := []string{"set a=1@1", "set b=1@2+", "set c=1@2", "delete a@3"}
		for i := range c.Len() {
			wantEvents(t, c.Store(i).Watch(t.Context(), "", kvraft.After(0)), want...)
		}
		c.Crash(1)
		mustSet(t, c.Store(0), "d", "1")
		c.Restart(1)
		wantEvents(t, c.Store(1).Watch(t.Context(), "", kvraft.After(1)), append(want[1:], "set d=1@4")...)
		if err := c.Store(1).CompactAll(); err != nil {
			t.Fatal(err)
		}
		c.Stop(1)
		c.Restart(1)
		wantEnd(t, c.Store(1).Watch(t.Context(), "", kvraft.After(3)), kvraft.ErrCompacted)
		wantEvents(t, c.Store(0).Watch(t.Context(), "", kvraft.After(3)), "set d=1@4")
	})
}

// replay is what all watchers of a cluster have seen: it is the same, whoever sees it.
type replay struct {
	mu       sync.Mutex
	versions map[uint64]string // guarded by mu: the events of each version, in words
	compared int               // guarded by mu
}

func (r *replay) add(t *testing.T, version uint64, events []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := strings.Join(events, ", ")
	if other, ok := r.versions[version]; ok && other != all {
		t.Errorf("version %d is %s here, and %s there", version, all, other)
	}
	r.versions[version] = all
	r.compared++
}

// follower watches a node, which comes and goes, from the beginning on.
type follower struct {
	t         *testing.T
	replay    *replay
	keys      map[string]string // as they are after the events
	at        uint64
	compacted int
}

func (f *follower) follow(ctx context.Context, store *kvraft.Store, opts ...kvraft.WatchOption) error {
	var events []string
	snapshot := len(opts) == 0
	if snapshot {
		opts = append(opts, kvraft.SnapshotFirst)
		f.keys = map[string]string{}
	}
	for e, err := range store.Watch(ctx, "", append(opts, kvraft.SyncEvery(time.Second))...) {
		if err != nil {
			return err
		}
		if view, err := store.View(ctx, kvraft.Stale); err == nil && view.Version() < e.Version {
			f.t.Errorf("saw %s, and then reads version %d", words(e), view.Version())
		}
		if e.Version%8 == 0 {
			if view, err := store.View(ctx); err == nil && view.Version() < e.Version {
				f.t.Errorf("saw %s, and then reads version %d linearizably", words(e), view.Version())
			}
		}
		switch e.Kind {
		case kvraft.EventSync:
			if e.Version < f.at {
				f.t.Errorf("a sync goes back from version %d to %d", f.at, e.Version)
			}
			f.at, snapshot = e.Version, false
			continue
		case kvraft.EventSet:
			f.keys[e.Key] = fmt.Sprintf("%s@%d", e.Value, e.Version)
		case kvraft.EventDelete:
			delete(f.keys, e.Key)
		}
		if snapshot {
			continue
		}
		if e.Version != f.at+1 {
			f.t.Errorf("after version %d: %s", f.at, words(e))
		}
		events = append(events, words(e))
		if !e.More {
			f.at = e.Version
			f.replay.add(f.t, e.Version, events)
			events = events[:0]
		}
	}
	return errors.New("the watch ended without an error")
}

// run goes on until ctx ends.
func (f *follower) run(ctx context.Context, store *atomic.Pointer[kvraft.Store]) {
	opts := []kvraft.WatchOption{kvraft.After(0)}
	for {
		err := f.follow(ctx, store.Load(), opts...)
		opts = []kvraft.WatchOption{kvraft.After(f.at)}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, kvraft.ErrCompacted):
			opts = nil
			f.compacted++
		case !errors.Is(err, kvraft.ErrClosed):
			f.t.Errorf("after version %d: %v", f.at, err)
		}
		time.Sleep(10 * time.Millisecond) // virtual: until the node is back
	}
}

// Watchers on every node, while the network is cut and nodes crash, lose their disks
// and get snapshots, see every version once, in order, and all of them the same.
func TestWatchersOnAllNodesSeeTheSameUnderFaults(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	compacted, compared := 0, 0
	for n := range max(1, scale(t, 5)) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, uint64(n)))
			c := kvrafttest.New(t, 3, kvraft.WithTiming(kvraft.Timing{Commit: 50 * time.Millisecond}),
				kvraft.WithSnapshots(kvraft.Snapshots{EveryBytes: 64 << 10, TrailingBytes: 16 << 10}), kvraft.WithHistory(64<<10))
			ctx, stop := context.WithCancel(t.Context())
			stores := make([]atomic.Pointer[kvraft.Store], c.Len())
			all := &replay{versions: map[uint64]string{}}
			var followers []*follower
			var watching, writing sync.WaitGroup
			for i := range stores {
				stores[i].Store(c.Store(i))
				f := &follower{t: t, replay: all, keys: map[string]string{}}
				followers = append(followers, f)
				watching.Go(func() { f.run(ctx, &stores[i]) })
			}
			writes, enough := context.WithCancel(t.Context())
			for i := range 6 {
				seeds := rand.New(rand.NewPCG(random.Uint64(), 0))
				writing.Go(func() { scribble(writes, seeds, &stores[i%c.Len()], i) })
			}
			for range few(20) {
				time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
				cut(random, c)
				time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
				if random.IntN(2) == 0 {
					strike(t, random, c)
				}
				time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
				c.Heal()
				mend(c, stores)
			}
			enough()
			writing.Wait()
			c.WaitLeader()
			c.WaitReady(0, 1, 2)
			time.Sleep(10 * time.Second) // what its writer gave up may be on its way for three elections
			c.WaitConverged()
			time.Sleep(2 * time.Second) // each sees a sync
			stop()
			watching.Wait()
			view, err := c.Store(0).View(t.Context(), kvraft.Stale)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for e := range view.All() {
				want[e.Key] = fmt.Sprintf("%s@%d", e.Value, e.Version)
			}
			for i, f := range followers {
				if f.at != view.Version() || !maps.Equal(f.keys, want) {
					t.Errorf("node %d: the events add up to %d keys at version %d, want %d at %d", i, len(f.keys), f.at, len(want), view.Version())
				}
				compacted += f.compacted
			}
			compared += all.compared
		})
		if t.Failed() {
			break
		}
	}
	t.Logf("%d versions compared, %d times compacted", compared, compacted)
}

// scribble writes until ctx ends. Each of its batches leaves something to see.
func scribble(ctx context.Context, random *rand.Rand, store *atomic.Pointer[kvraft.Store], number int) {
	for n := 0; ctx.Err() == nil; n++ {
		key := func() string { return fmt.Sprint("key-", random.IntN(30)) }
		value := fmt.Appendf(nil, "%d-%d", number, n)
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		switch random.IntN(4) {
		case 0:
			_, _ = store.Load().Delete(call, key()) // a fault is what it is: the watchers say what was written
		case 1:
			_, _ = store.Load().Batch(call, kvraft.SetOp(key(), value), kvraft.DeleteOp(key()), kvraft.SetOp(fmt.Sprint("own-", number), value))
		default:
			_, _ = store.Load().Set(call, key(), value)
		}
		cancel()
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
	}
}
