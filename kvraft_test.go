package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// within bounds a call; in virtual time it costs nothing.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, dir string, opts ...kvraft.Option) *kvraft.Store {
	t.Helper()
	store, err := kvraft.Open(dir, append([]kvraft.Option{kvraft.WithAddr("127.0.0.1:0")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return store
}

func mustSet(t *testing.T, s *kvraft.Store, key, value string) uint64 {
	t.Helper()
	version, err := s.Set(within(t, time.Minute), key, []byte(value))
	if err != nil {
		t.Fatalf("set %s: %v", key, err)
	}
	return version
}

func wantValue(t *testing.T, s *kvraft.Store, key, value string, opts ...kvraft.ReadOption) {
	t.Helper()
	entry, err := s.Get(within(t, time.Minute), key, opts...)
	if err != nil || string(entry.Value) != value {
		t.Fatalf("get %s: %q, %v; want %q", key, entry.Value, err, value)
	}
}

func TestASingleNodeKeepsItsDataOverARestart(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, kvraft.WithID("n1"))
	version := mustSet(t, first, "color", "green")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := open(t, dir)
	entry, err := second.Get(within(t, time.Minute), "color")
	if err != nil || string(entry.Value) != "green" || entry.Version != version {
		t.Errorf("after the restart: %+v, %v; want green at version %d", entry, err, version)
	}
	if id := second.Status().ID; id != "n1" {
		t.Errorf("after the restart its id is %q", id)
	}
}

func TestTwoStoresLiveInOneProcessAndCanBeOpenedAgain(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	for round := range 2 {
		stores := []*kvraft.Store{open(t, dirs[0]), open(t, dirs[1])}
		for i, s := range stores {
			if round == 0 {
				mustSet(t, s, "key", fmt.Sprint("store ", i))
			}
			wantValue(t, s, "key", fmt.Sprint("store ", i))
		}
		for _, s := range stores {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestASecondOpenOfADirectoryFailsWithinSeconds(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	began := time.Now()
	_, err := kvraft.Open(dir, kvraft.WithAddr("127.0.0.1:0"))
	if !errors.Is(err, kvraft.ErrLocked) {
		t.Errorf("err = %v, want ErrLocked", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestOpenReportsEveryBadOptionAtOnce(t *testing.T) {
	_, err := kvraft.Open("", kvraft.WithID("no spaces"), kvraft.WithAddr("nowhere"), kvraft.WithJoin("nobody"),
		kvraft.WithTiming(kvraft.Timing{Lease: time.Minute}), kvraft.WithLimits(kvraft.Limits{ValueBytes: -1}))
	if !errors.Is(err, kvraft.ErrInvalid) {
		t.Fatalf("err = %v", err)
	}
	for _, part := range []string{"no directory", "no spaces", "nowhere", "nobody", "timing", "limits"} {
		if !containsText(err, part) {
			t.Errorf("nothing about %q in: %v", part, err)
		}
	}
}

func containsText(err error, part string) bool {
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		if strings.Contains(e.Error(), part) {
			return true
		}
	}
	return false
}

func TestOpenOfAFileOrAnAddressInUseLeavesNothingBehind(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kvraft.Open(file, kvraft.WithAddr("127.0.0.1:0")); err == nil {
		t.Error("a file was opened as a directory")
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	if _, err := kvraft.Open(dir, kvraft.WithAddr(taken.Addr().String())); err == nil {
		t.Error("an address in use was listened on")
	}
	mustSet(t, open(t, dir), "key", "the directory was let go of")
}

func TestADirectoryKeepsItsID(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir, kvraft.WithID("n1")).Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := kvraft.Open(dir, kvraft.WithID("n2"), kvraft.WithAddr("127.0.0.1:0")); !errors.Is(err, kvraft.ErrInvalid) {
		t.Errorf("err = %v, want ErrInvalid", err)
	}
}

func TestBadArgumentsAreRefusedBeforeAnythingIsSent(t *testing.T) {
	s := open(t, "", kvraft.WithInMemory())
	for name, c := range map[string]struct {
		do   func(ctx context.Context) error
		want error
	}{
		"empty key":      {func(ctx context.Context) error { _, err := s.Set(ctx, "", nil); return err }, kvraft.ErrInvalid},
		"read empty key": {func(ctx context.Context) error { _, err := s.Get(ctx, ""); return err }, kvraft.ErrNotFound},
		"long key":       {func(ctx context.Context) error { _, err := s.Set(ctx, string(make([]byte, 1<<10+1)), nil); return err }, kvraft.ErrTooLarge},
		"large value":    {func(ctx context.Context) error { _, err := s.Set(ctx, "k", make([]byte, 1<<20+1)); return err }, kvraft.ErrTooLarge},
		"empty batch":    {func(ctx context.Context) error { _, err := s.Batch(ctx); return err }, kvraft.ErrInvalid},
		"join nobody":    {func(ctx context.Context) error { return s.Join(ctx, "", "127.0.0.1:1") }, kvraft.ErrInvalid},
		"join nowhere":   {func(ctx context.Context) error { return s.Join(ctx, "n2", "nowhere") }, kvraft.ErrInvalid},
	} {
		if err := c.do(within(t, time.Minute)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if st := s.Status(); st.Keys != 0 {
		t.Errorf("%d keys were stored", st.Keys)
	}
}

func TestABatchAppliesAsAWholeOrNotAtAll(t *testing.T) {
	s := open(t, "", kvraft.WithInMemory())
	ctx := within(t, time.Minute)
	version, err := s.Batch(ctx, kvraft.SetOp("a", []byte("1")), kvraft.SetOp("b", []byte("2")))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Batch(ctx, kvraft.CheckOp("a", version), kvraft.CheckOp("b", version+1), kvraft.SetOp("a", []byte("3")), kvraft.DeleteOp("b"))
	var conflict *kvraft.ConflictError
	if !errors.As(err, &conflict) || !errors.Is(err, kvraft.ErrConflict) || conflict.Version != version {
		t.Fatalf("err = %v, want a conflict at version %d", err, version)
	}
	wantValue(t, s, "a", "1")
	wantValue(t, s, "b", "2")
}

func TestAClosedStoreSaysSo(t *testing.T) {
	s := open(t, "", kvraft.WithInMemory())
	mustSet(t, s, "key", "value")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	_, setErr := s.Set(ctx, "key", nil)
	_, getErr := s.Get(ctx, "key")
	_, staleErr := s.Get(ctx, "key", kvraft.Stale)
	_, waitErr := s.WaitLeader(ctx)
	_, nodesErr := s.Nodes(ctx)
	for _, err := range []error{setErr, getErr, staleErr, waitErr, nodesErr, s.Err(), s.Join(ctx, "n2", "127.0.0.1:1")} {
		if !errors.Is(err, kvraft.ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	}
	if st := s.Status(); st.State != kvraft.Stopped || st.Ready {
		t.Errorf("status %+v", st)
	}
}

func TestErrorsAreTheSameOnEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		version := mustSet(t, c.Store(0), "key", "value")
		for i := range c.Len() {
			ctx := within(t, time.Minute)
			if _, err := c.Store(i).Get(ctx, "absent"); !errors.Is(err, kvraft.ErrNotFound) {
				t.Errorf("node %d: get of an absent key: %v", i, err)
			}
			_, err := c.Store(i).Set(ctx, "key", nil, kvraft.IfVersion(version+1))
			var conflict *kvraft.ConflictError
			if !errors.As(err, &conflict) || conflict.Version != version {
				t.Errorf("node %d: conflict: %v", i, err)
			}
			if err := c.Store(i).Join(ctx, "n9", "n9:7000"); !errors.Is(err, kvraft.ErrUnreachable) {
				t.Errorf("node %d: join of nobody: %v", i, err)
			}
			if err := c.Store(i).Join(ctx, "other", "n1:7000"); !errors.Is(err, kvraft.ErrRefused) {
				t.Errorf("node %d: join of a node under another id: %v", i, err)
			}
		}
	})
}

func TestWithoutAMajorityACallEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		follower := (leader + 1) % 3
		c.Isolate(follower)
		time.Sleep(5 * time.Second) // it stops knowing a leader
		_, err := c.Store(follower).Set(within(t, 3*time.Second), "key", nil)
		if !errors.Is(err, kvraft.ErrNoLeader) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a write that was never sent: %v", err)
		}
		if _, err := c.Store(follower).Get(within(t, 3*time.Second), "key"); !errors.Is(err, kvraft.ErrNoLeader) {
			t.Errorf("a read: %v", err)
		}
		c.Isolate(leader)
		_, err = c.Store(leader).Set(within(t, 3*time.Second), "key", nil)
		if !errors.Is(err, kvraft.ErrUnknown) && !errors.Is(err, kvraft.ErrNoLeader) {
			t.Errorf("a write on the leader that lost its majority: %v", err)
		}
	})
}

// A counter that many writers increment at once, on all nodes, while leaders
// crash: each acknowledged increment counts exactly once.
func TestAcknowledgedIncrementsCountOnceOverCrashes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		ctx, stop := context.WithCancel(t.Context())
		var acknowledged, unknown atomic.Int64
		var writers sync.WaitGroup
		var stores [3]atomic.Pointer[kvraft.Store]
		for i := range stores {
			stores[i].Store(c.Store(i))
		}
		for w := range 9 {
			writers.Go(func() {
				for ctx.Err() == nil {
					store := stores[w%3].Load()
					switch err := increment(t, store); {
					case err == nil:
						acknowledged.Add(1)
					case errors.Is(err, kvraft.ErrUnknown):
						unknown.Add(1)
					}
					time.Sleep(100 * time.Millisecond) // for each increment all others are repeated
				}
			})
		}
		for range few(10) {
			time.Sleep(3 * time.Second)
			leader := c.WaitLeader()
			c.Crash(leader)
			time.Sleep(4 * time.Second)
			c.Restart(leader)
			stores[leader].Store(c.Store(leader))
			c.WaitReady(leader)
		}
		stop()
		writers.Wait()
		entry, err := c.Store(0).Get(within(t, time.Minute), "counter")
		if err != nil {
			t.Fatal(err)
		}
		count, _ := strconv.ParseInt(string(entry.Value), 10, 64)
		low, high := acknowledged.Load(), acknowledged.Load()+unknown.Load()
		t.Logf("%d increments acknowledged, %d unknown, the counter is at %d", acknowledged.Load(), unknown.Load(), count)
		if count < low || count > high || low < 500 {
			t.Errorf("the counter is at %d, want %d to %d, and at least 500", count, low, high)
		}
	})
}

func increment(t *testing.T, s *kvraft.Store) error {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		entry, err := s.Get(ctx, "counter")
		if err != nil && !errors.Is(err, kvraft.ErrNotFound) {
			return err
		}
		n, _ := strconv.ParseInt(string(entry.Value), 10, 64)
		_, err = s.Set(ctx, "counter", strconv.AppendInt(nil, n+1, 10), kvraft.IfVersion(entry.Version))
		if !errors.Is(err, kvraft.ErrConflict) {
			return err
		}
	}
}

func TestAGracefulCloseOfTheLeaderFailsNoCallElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		for range 5 {
			leader := c.WaitLeader()
			ctx, stop := context.WithCancel(t.Context())
			var writers sync.WaitGroup
			for i := range 3 {
				if i == leader {
					continue
				}
				writers.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						if _, err := c.Store(i).Set(t.Context(), fmt.Sprint("key-", i), fmt.Append(nil, n)); err != nil {
							t.Errorf("set on node %d: %v", i, err)
							return
						}
					}
				})
			}
			time.Sleep(time.Second)
			began := time.Now()
			c.Stop(leader)
			next := c.WaitLeaderOtherThan(leader)
			if took := time.Since(began); took > 100*time.Millisecond { // virtual
				t.Errorf("no leader for %v: leadership was not handed over", took)
			}
			mustSet(t, c.Store(next), "key", "value")
			stop()
			writers.Wait()
			c.Restart(leader)
			c.WaitReady(leader)
		}
	})
}
