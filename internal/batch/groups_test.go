package batch

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
)

var errEnough = errors.New("enough")

func newTestGroups(send Send) *Groups {
	return NewGroups(send, func(f func()) bool { go f(); return true })
}

// sending is a send that has nothing to wait for.
func sending(f func(entry []byte) ([]command.Result, error)) func(func() []byte) ([]command.Result, error) {
	return func(seal func() []byte) ([]command.Result, error) {
		if entry := seal(); entry != nil {
			return f(entry)
		}
		return nil, nil
	}
}

// hold keeps gs from sending: what is written waits for the test to take it.
func hold(gs *Groups) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.senders = groupsAtOnce
}

// release lets gs send what waits.
func release(gs *Groups) {
	gs.mu.Lock()
	gs.senders = 1
	gs.mu.Unlock()
	go gs.run()
}

// request is an encoded one, with a value of so many bytes.
func request(born uint64, bytes int) []byte {
	return command.AppendRequest(nil, &command.Request{Origin: command.Own, Born: born,
		Ops: []command.Op{{Kind: command.Set, Key: "k", Value: make([]byte, bytes)}},
	})
}

// waiting adds requests with values of so many bytes, and returns them.
func waiting(t *testing.T, gs *Groups, sizes ...int) (all [][]byte) {
	t.Helper()
	hold(gs)
	for i, size := range sizes {
		encoded := request(uint64(i), size)
		if _, _, err := gs.add(encoded, false); err != nil {
			t.Fatal(err)
		}
		all = append(all, encoded)
	}
	return all
}

// leader answers each request of a group with the version at which it was born.
type leader struct {
	takes time.Duration

	mu    sync.Mutex
	sizes []int // guarded by mu: of its groups
}

func (l *leader) send(seal func() []byte) (results []command.Result, err error) {
	requests, err := command.Decode(seal())
	l.mu.Lock()
	l.sizes = append(l.sizes, len(requests))
	l.mu.Unlock()
	time.Sleep(l.takes) // virtual
	for _, r := range requests {
		results = append(results, command.Result{Version: r.Born})
	}
	return results, err
}

// write begins n writes, and returns when each is on its way or waits.
func write(t *testing.T, gs *Groups, writers *sync.WaitGroup, n, bytes int) {
	for range n {
		writers.Go(func() {
			if _, err := gs.Do(t.Context(), request(1, bytes), false); err != nil {
				t.Error(err)
			}
		})
	}
	synctest.Wait()
}

func TestAWriteThatDoesNotFitIntoTheQueueWaitsForThoseBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gs := newTestGroups(nil)
		write := func(ctx context.Context, bytes int) error {
			release, err := gs.Reserve(ctx, []command.Op{{Key: "k", Value: make([]byte, bytes)}})
			if err != nil {
				return err
			}
			defer release()
			_, err = gs.Do(ctx, request(1, bytes), false)
			return err
		}
		hold(gs)
		first, giveUp := context.WithCancel(t.Context())
		outcome := make(chan error, 2)
		go func() { outcome <- write(first, queueBytes) }() // larger than the queue with its key: it goes alone
		synctest.Wait()

		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := write(soon, 1); !errors.Is(err, errs.NoLeader) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "queue") {
			t.Errorf("with a full queue: %v, want errs.NoLeader because of the queue", err)
		}
		second, giveUpToo := context.WithCancel(t.Context())
		go func() { outcome <- write(second, 1) }()
		synctest.Wait()
		waiting := func() (groups int) {
			gs.mu.Lock()
			defer gs.mu.Unlock()
			return len(gs.waiting)
		}
		if groups := waiting(); groups != 1 {
			t.Errorf("%d groups wait to be sent, want that of the first alone", groups)
		}
		giveUp()
		<-outcome
		synctest.Wait()
		if groups := waiting(); groups != 2 { // what is given up keeps its place
			t.Errorf("%d groups wait to be sent, want that of the second too", groups)
		}
		giveUpToo()
		<-outcome
	})
}

func TestAGroupIsWhatWaitsUpToItsSize(t *testing.T) {
	const half = GroupBytes / 2
	for name, c := range map[string]struct {
		sizes []int
		want  []int // requests in each group
	}{
		"one":                           {[]int{1}, []int{1}},
		"all that is there":             {slices.Repeat([]int{100}, 1000), []int{1000}},
		"up to its bytes":               {[]int{half, half, 1}, []int{2, 1}},
		"a little less, and one more":   {[]int{GroupBytes - 1000, 1, 1000, 1}, []int{3, 1}},
		"one that is larger goes alone": {[]int{8 << 20, 1}, []int{1, 1}},
		"behind small ones it goes too": {[]int{1, 8 << 20, 1}, []int{2, 1}},
		"up to its number":              {make([]int, GroupRequests+10), []int{GroupRequests, 10}},
	} {
		gs := newTestGroups(nil)
		left := waiting(t, gs, c.sizes...)
		var got []int
		for g := gs.take(); g != nil; g = gs.take() {
			got = append(got, len(g.requests))
			if !slices.EqualFunc(g.requests, left[:len(g.requests)], slices.Equal) {
				t.Errorf("%s: group %d has other requests, or another order", name, len(got))
			}
			left = left[len(g.requests):]
			gs.end(g, nil, nil)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: the groups have %v requests, want %v", name, got, c.want)
		}
	}
}

func TestAWriteThatIsGivenUpBeforeItIsSentIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gs := newTestGroups(nil)
		hold(gs)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errEnough) })
		if _, err := gs.Do(ctx, make([]byte, GroupBytes), false); !errors.Is(err, errs.Unsent) || !errors.Is(err, errEnough) {
			t.Errorf("got %v, want errs.Unsent and the context's cause", err)
		}
		gs.send = sending(func([]byte) ([]command.Result, error) {
			t.Error("it is sent nevertheless")
			return nil, errEnough
		})
		gs.sendGroup(gs.take())
	})
}

func TestOthersOfItsGroupGetTheirResultsWhenAWriteIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gs := newTestGroups(nil)
		hold(gs)
		ctx, cancel := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for i := range uint64(3) {
			writers.Go(func() {
				ctx := ctx
				if i != 1 {
					ctx = t.Context()
				}
				encoded := command.AppendRequest(nil, &command.Request{Origin: command.Own, Born: i, Ops: []command.Op{{Kind: command.Delete, Key: "k"}}})
				result, err := gs.Do(ctx, encoded, false)
				if i == 1 && !errors.Is(err, errs.Unsent) || i != 1 && (err != nil || result.Version != i) {
					t.Errorf("write %d: %+v, %v", i, result, err)
				}
			})
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		gs.send = sending(func(entry []byte) (results []command.Result, err error) {
			requests, err := command.Decode(entry)
			for _, r := range requests {
				results = append(results, command.Result{Version: r.Born})
			}
			return results, err
		})
		gs.sendGroup(gs.take())
		writers.Wait()
	})
}

func TestAWriteThatIsGivenUpOnItsWayIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gs := newTestGroups(nil)
		hold(gs)
		ctx, cancel := context.WithCancelCause(t.Context())
		taken := make(chan *group)
		time.AfterFunc(time.Second, func() {
			g := gs.take()
			gs.seal(g)
			taken <- g
		})
		time.AfterFunc(2*time.Second, func() { cancel(errEnough) })
		done := make(chan error)
		go func() {
			_, err := gs.Do(ctx, nil, false)
			done <- err
		}()
		g := <-taken
		if err := <-done; !errors.Is(err, errs.Unknown) || errors.Is(err, errs.Unsent) || !errors.Is(err, errEnough) {
			t.Errorf("got %v, want errs.Unknown and the context's cause", err)
		}
		gs.end(g, []command.Result{{}}, nil) // nobody waits, and nothing breaks
	})
}

func TestTheOutcomeOfAWriteIsItsGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gs := newTestGroups(nil)
		want := command.Result{Code: command.Conflict, Version: 9}
		gs.send = sending(func([]byte) ([]command.Result, error) { return []command.Result{want}, nil })
		if got, err := gs.Do(t.Context(), []byte{1}, false); got != want || err != nil {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		gs.send = sending(func([]byte) ([]command.Result, error) { return nil, errEnough })
		if _, err := gs.Do(t.Context(), []byte{1}, false); err != errEnough {
			t.Errorf("got %v, want the error of the group", err)
		}
	})
}

func TestClosingRefusesWhatWaitsAndWaitsForWhatIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gs := newTestGroups(nil)
		hold(gs)
		type outcome struct {
			result command.Result
			err    error
		}
		enqueue := func(ctx context.Context) chan outcome {
			out := make(chan outcome, 1)
			go func() {
				result, err := gs.Do(ctx, []byte{1}, false)
				out <- outcome{result, err}
			}()
			synctest.Wait()
			return out
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		sent, given := enqueue(t.Context()), enqueue(ctx)
		g := gs.take()
		gs.seal(g)
		waits := enqueue(t.Context())

		gs.Refuse(errs.Closed)
		if got := <-waits; !errors.Is(got.err, errs.Unsent) || !errors.Is(got.err, errs.Closed) {
			t.Errorf("waiting: %v, want errs.Unsent and errs.Closed", got.err)
		}
		synctest.Wait()
		if len(sent) != 0 || len(given) != 0 {
			t.Fatal("closing did not wait for the outcome of what is on its way")
		}
		cancel(errEnough)
		if got := <-given; !errors.Is(got.err, errs.Unknown) || !errors.Is(got.err, errEnough) {
			t.Errorf("given up on its way: %v, want errs.Unknown", got.err)
		}
		gs.end(g, []command.Result{{Version: 5}, {}}, nil)
		if got := <-sent; got.err != nil || got.result.Version != 5 {
			t.Errorf("on its way: %+v, want its outcome", got)
		}
	})
}

func TestEachWriteOfAGroupGetsItsOwnResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leader{takes: time.Second}
		gs := newTestGroups(l.send)
		hold(gs)
		var writers sync.WaitGroup
		for i := range uint64(40) {
			writers.Go(func() {
				if result, err := gs.Do(t.Context(), request(i, 10), false); err != nil || result.Version != i {
					t.Errorf("write %d: %+v, %v", i, result, err)
				}
			})
		}
		synctest.Wait() // all wait
		release(gs)
		writers.Wait()
		if len(l.sizes) > groupsAtOnce {
			t.Errorf("what was queued went as groups of %v requests, want at most %d groups", l.sizes, groupsAtOnce)
		}
	})
}

func TestWhileAGroupIsOnItsWayTheNextGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leader{takes: time.Second}
		gs := newTestGroups(l.send)
		var writers sync.WaitGroup
		write(t, gs, &writers, 1, 0)
		write(t, gs, &writers, 5, 0)
		write(t, gs, &writers, 5, 0)
		began := time.Now()
		writers.Wait()
		if !slices.Equal(l.sizes, []int{1, 10}) {
			t.Errorf("the groups have %v requests, want 1 and 10", l.sizes)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("took %v, want 2s: one group after the other", took)
		}
	})
}

func TestAFullGroupDoesNotWaitForTheOneThatIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leader{takes: time.Second}
		gs := newTestGroups(l.send)
		var writers sync.WaitGroup
		write(t, gs, &writers, 1, 0)
		write(t, gs, &writers, 1, GroupBytes)
		write(t, gs, &writers, 5, 0)
		write(t, gs, &writers, 5, 0)
		began := time.Now()
		writers.Wait()
		if !slices.Equal(l.sizes, []int{1, 1, 10}) {
			t.Errorf("the groups have %v requests, want 1, 1, and 10", l.sizes)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("took %v, want 2s: the first two groups at once", took)
		}
	})
}

func TestSmallWritesDoNotWaitForALargeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leader{takes: time.Second}
		gs := newTestGroups(l.send)
		var writers sync.WaitGroup
		write(t, gs, &writers, 1, 2*GroupBytes)
		write(t, gs, &writers, 5, 0)
		write(t, gs, &writers, 5, 0)
		began := time.Now()
		writers.Wait()
		if took := time.Since(began); took != 2*time.Second || len(l.sizes) != 3 || l.sizes[0] != 1 {
			t.Errorf("groups of %v requests in %v, want the large one and some others at once, and the rest after a second", l.sizes, took)
		}
	})
}

func TestAFullGroupStaysFullWhenItsRequestsAreGivenUp(t *testing.T) {
	gs := newTestGroups(nil)
	waiting(t, gs, GroupBytes, GroupBytes)
	w := gs
	w.taken[&group{bytes: 1, done: make(chan struct{})}] = struct{}{} // another is on its way
	if err := w.giveUp(w.waiting[0], 0); err != errs.Unsent {
		t.Fatal(err)
	}
	for range 2 {
		if g := w.take(); g == nil {
			t.Error("a full group waits for the one on its way")
		}
	}
}

func TestWhatIsQueuedGoesAsOneGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leader{takes: time.Second}
		gs := newTestGroups(l.send)
		hold(gs)
		var writers sync.WaitGroup
		for range 256 {
			writers.Go(func() { _, _ = gs.Do(t.Context(), request(1, 0), false) })
		}
		synctest.Wait()
		release(gs)
		writers.Wait()
		if !slices.Equal(l.sizes, []int{256}) {
			t.Errorf("256 queued requests went as %v", l.sizes)
		}
	})
}

func TestAGroupThatIsAbandonedBeforeItIsSealedWasNotApplied(t *testing.T) {
	gs := newTestGroups(nil)
	waiting(t, gs, 1)
	g := gs.take()
	gs.send = func(seal func() []byte) ([]command.Result, error) {
		gs.Abandon(errs.Closed)
		if seal() != nil {
			t.Error("it is sent")
		}
		return nil, nil
	}
	gs.sendGroup(g)
	if !errors.Is(g.err, errs.Unsent) || !errors.Is(g.err, errs.Closed) {
		t.Error(g.err)
	}
}
