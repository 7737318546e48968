package batch

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/kvraft/kvraft/internal/errs"
)

// testRounds are rounds that last until the test ends them. Each answers its
// number.
type testRounds struct {
	*Rounds
	began chan int   // each round's number, when it begins
	ends  chan error // ends a round
}

func newTestRounds() *testRounds {
	r := &testRounds{began: make(chan int, 100), ends: make(chan error)}
	number := 0
	r.Rounds = NewRounds(
		func() (uint64, error) {
			number++
			r.began <- number
			return uint64(number), <-r.ends
		},
		func(f func()) bool { go f(); return true },
	)
	return r
}

// reader joins in the background.
type reader struct {
	index uint64
	err   error
	done  bool
}

func (r *testRounds) read(ctx context.Context) *reader {
	reading := new(reader)
	go func() {
		reading.index, reading.err = r.Join(ctx)
		reading.done = true
	}()
	synctest.Wait()
	return reading
}

func (r *testRounds) end(err error) {
	r.ends <- err
	synctest.Wait()
}

// Joining a round that is under way breaks linearizability: its questions may
// have been answered before the read began.
func TestAReaderThatArrivesDuringARoundWaitsForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRounds()
		first := r.read(t.Context())
		if <-r.began != 1 {
			t.Fatal("the first reader began no round")
		}
		second, third := r.read(t.Context()), r.read(t.Context())
		r.end(nil)
		if !first.done || first.index != 1 || first.err != nil {
			t.Errorf("the first reader: %+v, want the first round's answer", first)
		}
		if second.done || third.done {
			t.Error("a reader was answered by the round that was under way when it came")
		}
		if <-r.began != 2 {
			t.Error("no second round began")
		}
		late := r.read(t.Context())
		r.end(nil)
		if second.index != 2 || third.index != 2 {
			t.Errorf("the readers that waited: %+v and %+v, want the second round's answer", second, third)
		}
		if late.done {
			t.Error("a reader was answered by the second round, which was under way when it came")
		}
		r.end(nil)
		if late.index != 3 {
			t.Errorf("the last reader: %+v, want the third round's answer", late)
		}
		if len(r.began) != 1 { // the third
			t.Errorf("%d more rounds began than were needed", len(r.began)-1)
		}
	})
}

func TestTheErrorOfARoundReachesAllItsReadersAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRounds()
		first := r.read(t.Context())
		second, third := r.read(t.Context()), r.read(t.Context())
		lost := errors.New("leadership lost")
		r.end(nil)
		fourth := r.read(t.Context())
		r.end(lost)
		r.end(nil)
		if first.err != nil || fourth.err != nil || !fourth.done {
			t.Errorf("another round's readers got %v and %v", first.err, fourth.err)
		}
		if second.err != lost || third.err != lost {
			t.Errorf("its readers got %v and %v, want its error", second.err, third.err)
		}
	})
}

func TestAReaderThatGivesUpLeavesTheRoundToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRounds()
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		first := r.read(t.Context())
		impatient, other := r.read(ctx), r.read(t.Context())
		cancel(enough)
		synctest.Wait()
		if !impatient.done || !errors.Is(impatient.err, enough) {
			t.Errorf("who gave up: %+v, want the context's cause", impatient)
		}
		r.end(nil)
		r.end(nil)
		if first.err != nil || other.err != nil || other.index != 2 {
			t.Errorf("the others: %+v, %+v", first, other)
		}
	})
}

func TestNoRoundBeginsWhenItIsTooLate(t *testing.T) {
	r := NewRounds(func() (uint64, error) { t.Error("a round ran"); return 0, nil }, func(func()) bool { return false })
	for range 2 {
		if _, err := r.Join(t.Context()); !errors.Is(err, errs.Closed) {
			t.Errorf("got %v, want errs.Closed", err)
		}
	}
}

func TestNothingRunsWhileNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRounds()
		for range 3 {
			reading := r.read(t.Context())
			r.end(nil)
			if !reading.done || r.running {
				t.Fatalf("%+v, and a round is under way: %v", reading, r.running)
			}
		}
		if len(r.began) != 3 {
			t.Errorf("%d rounds for 3 readers", len(r.began))
		}
	})
}

func TestARoundBeginsAfterEachOfItsReadersHasCome(t *testing.T) {
	var began atomic.Uint64
	var running sync.WaitGroup
	r := NewRounds(
		func() (uint64, error) { return began.Add(1), nil },
		func(f func()) bool { running.Go(f); return true },
	)
	var readers sync.WaitGroup
	for range 16 {
		readers.Go(func() {
			for range 500 {
				before := began.Load()
				if number, err := r.Join(t.Context()); err != nil || number <= before {
					t.Errorf("round %d, %v answered a reader who came when round %d had begun", number, err, before)
				}
			}
		})
	}
	readers.Wait()
	running.Wait()
}
