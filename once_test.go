package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

func TestARepeatedRequestIsAnsweredAsTheFirstWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		ctx := within(t, time.Hour)
		leader := c.WaitLeader()
		created, refused := c.Store(0).NewRequestID(), c.Store(1).NewRequestID()
		version, err := c.Store(0).Set(ctx, "key", []byte("first"), kvraft.IfVersion(0), kvraft.WithRequestID(created))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Store(1).Set(ctx, "key", []byte("never"), kvraft.IfVersion(0), kvraft.WithRequestID(refused)); !errors.Is(err, kvraft.ErrConflict) {
			t.Fatal(err)
		}
		mustSet(t, c.Store(2), "key", "second")

		check := func(when string) {
			t.Helper()
			for i := range 3 {
				again, err := c.Store(i).Set(ctx, "key", []byte("first"), kvraft.IfVersion(0), kvraft.WithRequestID(created))
				if err != nil || again != version {
					t.Errorf("%s, node %d: version %d, %v; want %d", when, i, again, err, version)
				}
				if _, err := c.Store(i).Set(ctx, "key", []byte("never"), kvraft.IfVersion(0), kvraft.WithRequestID(refused)); !errors.Is(err, kvraft.ErrConflict) {
					t.Errorf("%s, node %d: %v, want a conflict", when, i, err)
				}
				wantValue(t, c.Store(i), "key", "second")
			}
		}
		check("at once")
		c.Stop(leader)
		c.Restart(leader)
		c.WaitReady(leader)
		check("after the leader changed")
		for i := range 3 {
			if err := c.Store(i).TakeSnapshot(); err != nil {
				t.Fatal(err)
			}
			c.Crash(i)
			c.Restart(i)
			c.WaitReady(i)
		}
		check("after snapshots and restarts")
	})
}

func TestARequestIDIsForOneWrite(t *testing.T) {
	s := open(t, "", kvraft.WithInMemory())
	ctx := within(t, time.Minute)
	id := s.NewRequestID()
	if _, err := s.Set(ctx, "a", []byte("1"), kvraft.WithRequestID(id)); err != nil {
		t.Fatal(err)
	}
	// Another write under the same id is neither answered as if it had been made, nor made.
	for name, write := range map[string]func() (uint64, error){
		"another value": func() (uint64, error) { return s.Set(ctx, "a", []byte("2"), kvraft.WithRequestID(id)) },
		"another condition": func() (uint64, error) {
			return s.Set(ctx, "a", []byte("1"), kvraft.WithRequestID(id), kvraft.IfVersion(1))
		},
		"a delete":      func() (uint64, error) { return s.Delete(ctx, "a", kvraft.WithRequestID(id)) },
		"another batch": func() (uint64, error) { return s.Batch(ctx, kvraft.SetOp("b", []byte("2")), kvraft.IDOp(id)) },
	} {
		if _, err := write(); !errors.Is(err, kvraft.ErrReused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if v, err := s.Set(ctx, "a", []byte("1"), kvraft.WithRequestID(id)); v != 1 || err != nil {
		t.Errorf("the same write: version %d, %v", v, err)
	}
	if e, err := s.Get(ctx, "a"); err != nil || e.Version != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	same, err := kvraft.ParseRequestID(id.String())
	if err != nil || same != id {
		t.Errorf("%v through text: %v, %v", id, same, err)
	}
	for _, bad := range []string{"", "7", "-x", "7-", "x-7", "-1-x", "99999999999999999999-x"} {
		if _, err := kvraft.ParseRequestID(bad); !errors.Is(err, kvraft.ErrInvalid) {
			t.Errorf("parse %q: %v", bad, err)
		}
	}
	if _, err := s.Set(ctx, "a", nil, kvraft.WithRequestID(kvraft.RequestID{})); !errors.Is(err, kvraft.ErrInvalid) {
		t.Errorf("the zero id: %v", err)
	}
}

// An Idempotency-Key is for the time after the 504, when a busy store has long made
// more writes than it needs to remember of its own.
func TestARepetitionIsKnownAfterAnyNumberOfWritesThatHaveNoID(t *testing.T) {
	s := open(t, "", kvraft.WithInMemory())
	ctx := within(t, 5*time.Minute)
	id := s.NewRequestID()
	first, err := s.Set(ctx, "key", []byte("once"), kvraft.WithRequestID(id))
	if err != nil {
		t.Fatal(err)
	}
	const remembered = 1 << 17
	done := make(chan error)
	for worker := range 64 {
		go func() {
			for n := range remembered/64 + 64 {
				if _, err := s.Set(ctx, fmt.Sprint("other-", worker), fmt.Append(nil, n)); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 64 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Delete(ctx, "key"); err != nil {
		t.Fatal(err)
	}
	if again, err := s.Set(ctx, "key", []byte("once"), kvraft.WithRequestID(id)); err != nil || again != first {
		t.Errorf("the repetition: version %d, %v; want %d", again, err, first)
	}
	if _, err := s.Get(ctx, "key"); !errors.Is(err, kvraft.ErrNotFound) {
		t.Errorf("it was applied again: %v", err)
	}
}

// The answer to a forwarded write is lost, and the write sent again to another
// leader: it takes effect once.
func TestAWriteWhoseAnswerWasLostTakesEffectOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		for n := range 20 {
			leader := c.WaitLeader()
			writer := (leader + 1) % 3
			mustSet(t, c.Store(writer), "warm", "") // so that a connection is open
			before := c.Store(leader).Status().Version
			key := fmt.Sprint("key-", n)
			c.Block(leader, writer) // the leader commits with the third node, and cannot say so
			result := make(chan error, 1)
			go func() {
				_, err := c.Store(writer).Set(t.Context(), key, []byte("value"), kvraft.IfVersion(0))
				result <- err
			}()
			third := (leader + 2) % 3
			eventually(t, "the write is committed", func() bool { return c.Store(leader).Status().Version == before+1 })
			mustSet(t, c.Store(third), key, "overwritten")
			c.Crash(leader)
			c.Heal()
			if err := <-result; err != nil {
				t.Fatalf("set %s: %v", key, err)
			}
			wantValue(t, c.Store(writer), key, "overwritten")
			c.Restart(leader)
			c.WaitReady(leader)
		}
	})
}

func TestNoCallHangsPastItsContextOrTheClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		mustSet(t, c.Store(leader), "key", "value")
		c.Isolate(leader)
		c.Isolate((leader + 1) % 3)
		c.Isolate((leader + 2) % 3)
		stores := []*kvraft.Store{c.Store(0), c.Store(1), c.Store(2)}
		calls := map[string]func(context.Context, *kvraft.Store) error{
			"set":  func(ctx context.Context, s *kvraft.Store) error { _, err := s.Set(ctx, "key", nil); return err },
			"get":  func(ctx context.Context, s *kvraft.Store) error { _, err := s.Get(ctx, "key"); return err },
			"view": func(ctx context.Context, s *kvraft.Store) error { _, err := s.View(ctx); return err },
			"at least": func(ctx context.Context, s *kvraft.Store) error {
				_, err := s.Get(ctx, "key", kvraft.AtLeast(1<<40))
				return err
			},
			"fresh": func(ctx context.Context, s *kvraft.Store) error {
				_, err := s.Get(ctx, "key", kvraft.MaxStaleness(time.Millisecond))
				return err
			},
			"join":  func(ctx context.Context, s *kvraft.Store) error { return s.Join(ctx, "n9", "n9:7000") },
			"nodes": func(ctx context.Context, s *kvraft.Store) error { _, err := s.Nodes(ctx); return err },
		}
		type answer struct {
			call string
			node int
			err  error
			took time.Duration
		}
		run := func(ctx context.Context) chan answer {
			answers := make(chan answer, 3*len(calls))
			for name, call := range calls {
				for i := range 3 {
					go func() {
						began := time.Now()
						err := call(ctx, stores[i])
						answers <- answer{name, i, err, time.Since(began)}
					}()
				}
			}
			return answers
		}
		ctx := within(t, 3*time.Second)
		answers := run(ctx)
		for range 3 * len(calls) {
			if a := <-answers; !errors.Is(a.err, context.DeadlineExceeded) || a.took > 3*time.Second+10*time.Millisecond {
				t.Errorf("%s on node %d: %v after %v", a.call, a.node, a.err, a.took)
			}
		}
		answers = run(context.Background()) // without any limit of their own
		time.Sleep(time.Second)
		for i := range 3 {
			c.Stop(i)
		}
		for range 3 * len(calls) {
			if a := <-answers; !errors.Is(a.err, kvraft.ErrClosed) && !errors.Is(a.err, kvraft.ErrUnknown) || a.took > 10*time.Second {
				t.Errorf("%s on node %d, closed: %v after %v", a.call, a.node, a.err, a.took)
			}
		}
	})
}
