package kvraft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
	"github.com/kvraft/kvraft/internal/wire/wiretest"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

// newTestFollower is a store whose leader is at b:1, with a port that serve makes answer.
func newTestFollower(t *testing.T, serve func(*wire.Port)) *Store {
	return newTestFollowerOn(t, wiretest.LAN(), serve)
}

func newTestFollowerOn(t *testing.T, lan *memnet.Network, serve func(*wire.Port)) *Store {
	leader := wiretest.Port(t, lan, testPeerB.Addr, testB)
	serve(leader)
	leader.Start()
	s := newTestServer(t)
	s.node.Port = wiretest.Port(t, lan, "a:1", testA)
	s.lead.Replace(&lead.Tenure{Leader: testPeerB})
	return s
}

// entryAnswer answers a read.
func entryAnswer(version uint64, value string) ([]byte, error) {
	return append(binary.BigEndian.AppendUint64(nil, version), value...), nil
}

// answeredBy answers all calls with f.
func answeredBy(f func(m wire.Method, payload []byte) ([]byte, error)) func(*wire.Port) {
	return func(p *wire.Port) {
		for m := wire.CallWrite; m <= wire.CallStart; m++ {
			p.Handle(m, func(_ context.Context, payload []byte) ([]byte, error) { return f(m, payload) })
		}
	}
}

// saysNothing takes calls, and answers none.
func saysNothing(p *wire.Port) {
	p.HandleConn(wire.ForRPC, func(conn net.Conn, _ wire.Hello) { _, _ = io.Copy(io.Discard, conn) })
}

func TestAReadOnAFollowerIsTheLeadersAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var level byte
		s := newTestFollower(t, answeredBy(func(_ wire.Method, payload []byte) ([]byte, error) {
			level = payload[0]
			return entryAnswer(7, "green")
		}))
		for _, c := range []struct {
			opts  []ReadOption
			level byte
		}{{nil, 0}, {[]ReadOption{Linearizable}, 0}, {[]ReadOption{LeaderLocal}, 1}, {[]ReadOption{Stale, LeaderLocal}, 1}, {[]ReadOption{Stale, Linearizable}, 0}} {
			entry, err := s.Get(t.Context(), "color", c.opts...)
			if err != nil || entry.Key != "color" || string(entry.Value) != "green" || entry.Version != 7 {
				t.Errorf("got %+v, %v", entry, err)
			}
			if level != c.level {
				t.Errorf("asked at level %d, want %d", level, c.level)
			}
		}
	})
}

func TestAReadIsRepeatedUntilALeaderAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := []error{errs.NotLeader, ErrUnknown, context.DeadlineExceeded, nil}
		s := newTestFollower(t, answeredBy(func(wire.Method, []byte) ([]byte, error) {
			if len(failures) == 0 {
				return entryAnswer(7, "green")
			}
			next := failures[0]
			failures = failures[1:]
			return []byte("short"), next
		}))
		if entry, err := s.Get(t.Context(), "color"); err != nil || string(entry.Value) != "green" {
			t.Errorf("got %+v, %v", entry, err)
		}
	})
}

func TestAnAnswerThatIsNoIsNotAskedForAgain(t *testing.T) {
	for _, no := range []error{ErrNotFound, ErrInvalid} {
		synctest.Test(t, func(t *testing.T) {
			asked := 0
			s := newTestFollower(t, answeredBy(func(wire.Method, []byte) ([]byte, error) { asked++; return nil, no }))
			if _, err := s.Get(t.Context(), "color"); !errors.Is(err, no) || asked != 1 {
				t.Errorf("asked %d times, got %v, want %v at once", asked, err, no)
			}
		})
	}
}

func TestAReadWithoutALeaderEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leaderless := newTestServer(t)
		refusing := newTestFollower(t, answeredBy(func(wire.Method, []byte) ([]byte, error) { return nil, errs.NotLeader }))
		silent := newTestFollower(t, saysNothing)
		for name, s := range map[string]*Store{"no leader": leaderless, "one that is none": refusing, "one that is silent": silent} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			began := time.Now()
			_, err := s.Get(ctx, "color")
			if !errors.Is(err, ErrNoLeader) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v, want ErrNoLeader and the context's error", name, err)
			}
			if took := time.Since(began); took != 20*time.Second {
				t.Errorf("%s: ended after %v, want 20s", name, took)
			}
			cancel()
		}
	})
}

func TestAReadGivesUpOnALeaderThatIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		s := newTestFollower(t, answeredBy(func(wire.Method, []byte) ([]byte, error) {
			if asked.Add(1) == 1 {
				time.Sleep(time.Hour) // virtual
			}
			return entryAnswer(1, "")
		}))
		began := time.Now()
		if _, err := s.Get(t.Context(), "color"); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < s.node.Patience() || took > s.node.Patience()+time.Second {
			t.Errorf("asked again after %v, want %v", took, s.node.Patience())
		}
	})
}

func TestAReadGivesUpOnALeaderThatIsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestFollower(t, saysNothing)
		time.AfterFunc(time.Second, func() {
			s.lead.Replace(&lead.Tenure{Leader: roster.Peer{Server: "c#3", Addr: "c:1"}}) // which nobody reaches
		})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if _, err := s.Get(ctx, "color"); !errors.Is(err, ErrNoLeader) || !strings.Contains(err.Error(), "node c") {
			t.Errorf("got %v, want to hear of the new leader", err)
		}
	})
}

func TestAReadEndsWhenTheStoreCloses(t *testing.T) {
	disk := errors.New("the disk")
	synctest.Test(t, func(t *testing.T) {
		leaderless, silent := newTestServer(t), newTestFollower(t, saysNothing)
		for name, s := range map[string]*Store{"no leader": leaderless, "a silent one": silent} {
			time.AfterFunc(time.Second, func() { s.node.StopForFault(disk) })
			began := time.Now()
			for range 2 { // the second begins when it is closed
				if _, err := s.Get(t.Context(), "color"); !errors.Is(err, ErrClosed) || !errors.Is(err, disk) {
					t.Errorf("%s: %v, want ErrClosed and why", name, err)
				}
			}
			if took := time.Since(began); took != time.Second {
				t.Errorf("%s: ended after %v, want 1s", name, took)
			}
			if _, err := s.Get(t.Context(), "color", Stale); !errors.Is(err, ErrClosed) {
				t.Errorf("%s: a stale read: %v, want ErrClosed", name, err)
			}
		}
	})
}

func TestAStaleReadAsksNobodyAndReturnsACopy(t *testing.T) {
	s := newTestServer(t) // it has no leader, and no peers
	s.fsm.Apply(setEntry(5, 1, "color", "green"))
	for range 2 {
		entry, err := s.Get(t.Context(), "color", Stale)
		if err != nil || entry.Key != "color" || string(entry.Value) != "green" || entry.Version != 1 {
			t.Fatalf("got %+v, %v", entry, err)
		}
		copy(entry.Value, "XXXXX")
	}
	if _, err := s.Get(t.Context(), "shape", Stale); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

// The limit of a key is for those who set one: another node may have another.
func TestAnyKeyIsLookedForThatSomeNodeCanHaveSet(t *testing.T) {
	s := newTestServer(t)
	for _, key := range []string{"", strings.Repeat("k", s.opts.limits.KeyBytes+1)} {
		if _, err := s.Get(t.Context(), key, Stale); !errors.Is(err, ErrNotFound) {
			t.Errorf("a key of %d bytes: %v, want ErrNotFound", len(key), err)
		}
	}
	for _, opts := range [][]ReadOption{nil, {Stale}} {
		if _, err := s.Get(t.Context(), strings.Repeat("k", wire.MaxBatchBytes+1), opts...); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a key that no limit allows: %v, want ErrTooLarge", err)
		}
	}
}

func TestAReadAtAVersionWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		time.AfterFunc(time.Second, func() { s.fsm.Apply(setEntry(5, 1, "color", "green")) })
		began := time.Now()
		if entry, err := s.Get(t.Context(), "color", AtLeast(1)); err != nil || string(entry.Value) != "green" || time.Since(began) != time.Second {
			t.Errorf("after %v: %+v, %v", time.Since(began), entry, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Get(ctx, "color", AtLeast(2)); !errors.Is(err, ErrStale) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a version that does not come: %v, want ErrStale and the context's error", err)
		}
		time.AfterFunc(time.Second, func() { s.node.StopForFault(errors.New("the disk")) })
		if _, err := s.Get(t.Context(), "color", AtLeast(2)); !errors.Is(err, ErrClosed) {
			t.Errorf("when the store closes: %v, want ErrClosed", err)
		}
	})
}

func TestABoundOnStalenessIsProvenByARoundAndNotOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		index, asked := uint64(5), 0
		var takes time.Duration
		s := newTestFollower(t, answeredBy(func(m wire.Method, payload []byte) ([]byte, error) {
			if m != wire.CallReadIndex || string(payload) != "\x00" {
				t.Errorf("call %d with %q, want the index of a linearizable read", m, payload)
			}
			asked++
			time.Sleep(takes) // virtual
			return binary.BigEndian.AppendUint64(nil, index), nil
		}))
		get := func(d time.Duration) (string, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			entry, err := s.Get(ctx, "color", MaxStaleness(d))
			return string(entry.Value), err
		}
		s.fsm.Apply(setEntry(5, 1, "color", "green"))
		for i, c := range []struct {
			later time.Duration
			bound time.Duration
			asked int
		}{
			{0, time.Second, 1},
			{time.Second, time.Second, 1}, // the proof is just good enough
			{1, time.Second, 2},
			{500 * time.Millisecond, time.Minute, 2},
			{0, 499 * time.Millisecond, 3},
		} {
			time.Sleep(c.later) // virtual
			if got, err := get(c.bound); got != "green" || err != nil || asked != c.asked {
				t.Errorf("read %d: %q, %v after %d rounds, want %d", i, got, err, asked, c.asked)
			}
		}

		time.Sleep(time.Minute) // virtual
		takes = 200 * time.Millisecond
		if _, err := get(100 * time.Millisecond); !errors.Is(err, ErrStale) {
			t.Errorf("a round that takes too long: %v, want ErrStale", err)
		}
		takes, index = 0, 6
		if _, err := get(time.Millisecond); !errors.Is(err, ErrStale) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a state that lags behind the round: %v, want ErrStale", err)
		}
		time.Sleep(time.Minute) // virtual
		time.AfterFunc(time.Second, func() { s.fsm.Apply(setEntry(6, 1, "color", "blue")) })
		if got, err := get(2 * time.Second); got != "blue" || err != nil {
			t.Errorf("a state that catches up: %q, %v, want the new value", got, err)
		}
	})
}

func TestABoundOnStalenessFailsWithoutALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		s.fsm.Apply(setEntry(5, 1, "color", "green"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Get(ctx, "color", MaxStaleness(time.Hour)); !errors.Is(err, ErrStale) || !errors.Is(err, ErrNoLeader) {
			t.Errorf("got %v, want ErrStale, for want of a leader", err)
		}
	})
}

func TestAStalenessThatCanBeProvenIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestFollower(t, answeredBy(func(wire.Method, []byte) ([]byte, error) {
			return binary.BigEndian.AppendUint64(nil, 5), nil
		}))
		// the proof is 1.9 s old, and the state arrives in 0.2 s
		s.reads.proof.Store(&freshness{at: time.Now(), index: 5})
		time.Sleep(1900 * time.Millisecond)
		time.AfterFunc(200*time.Millisecond, func() { s.fsm.Apply(setEntry(5, 1, "k", "v")) })
		if _, err := s.Get(t.Context(), "k", MaxStaleness(2*time.Second)); err != nil {
			t.Errorf("a round would have proven it: %v", err)
		}
	})
}

// newReadFollower is a test follower whose leader takes a millisecond to answer, with
// log index 5 and the value green. It counts what the leader was asked for.
func newReadFollower(t *testing.T) (s *Store, entries, indexes *atomic.Int32) {
	entries, indexes = new(atomic.Int32), new(atomic.Int32)
	s = newTestFollower(t, answeredBy(func(m wire.Method, payload []byte) ([]byte, error) {
		time.Sleep(time.Millisecond) // virtual
		if m == wire.CallGet {
			entries.Add(1)
			return entryAnswer(5, "green")
		}
		indexes.Add(1)
		return binary.BigEndian.AppendUint64(nil, 5), nil
	}))
	s.node.Timing.Commit = 10 * time.Millisecond
	return s, entries, indexes
}

// readGreen lets so many readers read at the same time, and returns them.
func readGreen(t *testing.T, s *Store, readers int) *sync.WaitGroup {
	running := new(sync.WaitGroup)
	for range readers {
		running.Go(func() {
			if entry, err := s.Get(t.Context(), "color"); err != nil || string(entry.Value) != "green" {
				t.Errorf("got %+v, %v", entry, err)
			}
		})
	}
	return running
}

func TestManyReadersOfAFollowerShareAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const readers = 50
		s, entries, indexes := newReadFollower(t)
		running := readGreen(t, s, readers)
		time.Sleep(20 * time.Millisecond) // virtual
		synctest.Wait()
		if left := s.reads.waiting.Load(); left != readers-fewReaders {
			t.Errorf("%d wait until the follower has what the leader had, want %d", left, readers-fewReaders)
		}
		s.fsm.Apply(setEntry(5, 5, "color", "green"))
		running.Wait()
		if e, i := entries.Load(), indexes.Load(); e != fewReaders || i > 2 {
			t.Errorf("%d readers asked for %d entries and %d indexes, want %d and at most 2", readers, e, i, fewReaders)
		}
		if left := s.reads.waiting.Load(); left != 0 {
			t.Errorf("%d readers are still counted", left)
		}
	})
}

func TestReadersOfAFollowerThatLagsFarBehindHaveTheLeadersAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := newReadFollower(t)
		began := time.Now()
		readGreen(t, s, 50).Wait()
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("they waited for %v", took)
		}
	})
}

func TestAForwardedReadIsTheLeadersEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer string
		s := newTestFollower(t, answeredBy(func(m wire.Method, payload []byte) ([]byte, error) {
			if m != wire.CallGet || string(payload) != "\x01color" {
				t.Errorf("call %d with %q", m, payload)
			}
			return []byte(answer), nil
		}))
		for _, c := range []struct {
			answer string
			want   Entry
		}{
			{"\x00\x00\x00\x00\x00\x00\x01\x02green", Entry{"color", []byte("green"), 258}},
			{"\x00\x00\x00\x00\x00\x00\x00\x01", Entry{"color", []byte{}, 1}},
		} {
			answer = c.answer
			got, err := s.reads.forwardGet(t.Context(), testPeerB, "color", LeaderLocal)
			if err != nil || got.Key != c.want.Key || !bytes.Equal(got.Value, c.want.Value) || got.Version != c.want.Version {
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			}
		}
		for _, answer = range []string{"", "\x00\x00\x00\x00\x00\x00\x00"} {
			if got, err := s.reads.forwardGet(t.Context(), testPeerB, "color", LeaderLocal); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("an answer of %d bytes is %+v, %v", len(answer), got, err)
			}
		}
	})
}
