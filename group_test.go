package kvraft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/state"
)

func TestAnEntryWithoutAnIndexWasNotAppliedAndOneWithIsUnknown(t *testing.T) {
	disk := errors.New("disk: input/output error")
	for _, c := range []struct {
		err   error
		index uint64
		want  error
	}{
		{raft.ErrNotLeader, 0, errs.Unsent},
		{raft.ErrLeadershipTransferInProgress, 0, errs.Unsent},
		{raft.ErrEnqueueTimeout, 0, errs.Unsent},
		{raft.ErrRaftShutdown, 0, errs.Unsent},
		{disk, 0, errs.Unsent},
		{raft.ErrLeadershipLost, 7, ErrUnknown},
		{raft.ErrRaftShutdown, 7, ErrUnknown}, // it may be committed
		{raft.ErrAbortedByRestore, 7, ErrUnknown},
		{disk, 7, ErrUnknown}, // a failed fsync may have persisted
	} {
		got := applyError(c.err, c.index)
		if !errors.Is(got, c.want) || !errors.Is(got, c.err) || errors.Is(got, errs.Unsent) == errors.Is(got, ErrUnknown) {
			t.Errorf("%v at index %d is %v, want %v", c.err, c.index, got, c.want)
		}
	}
}

// hold keeps s from sending: what is written waits for the test to take it.
func hold(s *Store) {
	s.writes.mu.Lock()
	defer s.writes.mu.Unlock()
	s.writes.senders = groupsAtOnce
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

// emptyEntry is what a group without requests would be.
func emptyEntry() []byte { return []byte{} }

// waiting adds requests with values of so many bytes, and returns them.
func waiting(t *testing.T, s *Store, sizes ...int) (all [][]byte) {
	t.Helper()
	hold(s)
	for i, size := range sizes {
		encoded := command.AppendRequest(nil, &command.Request{Origin: command.Own,
			ID: command.ID{byte(i)}, Ops: []command.Op{{Kind: command.Set, Key: "k", Value: make([]byte, size)}},
		})
		if _, _, err := s.writes.add(encoded, false); err != nil {
			t.Fatal(err)
		}
		all = append(all, encoded)
	}
	return all
}

func TestAWriteThatDoesNotFitIntoTheQueueWaitsForThoseBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		write := func(ctx context.Context, bytes int) error {
			_, err := s.Set(ctx, "k", make([]byte, bytes))
			return err
		}
		s.opts.limits.ValueBytes, s.opts.limits.BatchBytes = queueBytes, queueBytes+1
		hold(s)
		first, giveUp := context.WithCancel(t.Context())
		outcome := make(chan error, 2)
		go func() { outcome <- write(first, queueBytes) }() // larger than the queue with its key: it goes alone
		synctest.Wait()

		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := write(soon, 1); !errors.Is(err, ErrNoLeader) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "queue") {
			t.Errorf("with a full queue: %v, want ErrNoLeader because of the queue", err)
		}
		second, giveUpToo := context.WithCancel(t.Context())
		go func() { outcome <- write(second, 1) }()
		synctest.Wait()
		waiting := func() (groups int) {
			s.writes.mu.Lock()
			defer s.writes.mu.Unlock()
			return len(s.writes.waiting)
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
	const half = groupBytes / 2
	for name, c := range map[string]struct {
		sizes []int
		want  []int // requests in each group
	}{
		"one":                           {[]int{1}, []int{1}},
		"all that is there":             {slices.Repeat([]int{100}, 1000), []int{1000}},
		"up to its bytes":               {[]int{half, half, 1}, []int{2, 1}},
		"a little less, and one more":   {[]int{groupBytes - 1000, 1, 1000, 1}, []int{3, 1}},
		"one that is larger goes alone": {[]int{8 << 20, 1}, []int{1, 1}},
		"behind small ones it goes too": {[]int{1, 8 << 20, 1}, []int{2, 1}},
		"up to its number":              {make([]int, groupRequests+10), []int{groupRequests, 10}},
	} {
		s := newTestServer(t)
		left := waiting(t, s, c.sizes...)
		var got []int
		for g := s.writes.take(); g != nil; g = s.writes.take() {
			got = append(got, len(g.requests))
			if !slices.EqualFunc(g.requests, left[:len(g.requests)], slices.Equal) {
				t.Errorf("%s: group %d has other requests, or another order", name, len(got))
			}
			left = left[len(g.requests):]
			s.writes.end(g, nil, nil)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: the groups have %v requests, want %v", name, got, c.want)
		}
	}
}

func TestAWriteThatIsGivenUpBeforeItIsSentIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		hold(s)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errEnough) })
		if _, err := s.enqueue(ctx, make([]byte, groupBytes), false); !errors.Is(err, errs.Unsent) || !errors.Is(err, errEnough) {
			t.Errorf("got %v, want errs.Unsent and the context's cause", err)
		}
		s.writes.send = sending(func([]byte) ([]command.Result, error) {
			t.Error("it is sent nevertheless")
			return nil, errEnough
		})
		s.writes.sendGroup(s.writes.take())
	})
}

func TestOthersOfItsGroupGetTheirResultsWhenAWriteIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		hold(s)
		ctx, cancel := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for i := range uint64(3) {
			writers.Go(func() {
				ctx := ctx
				if i != 1 {
					ctx = t.Context()
				}
				encoded := command.AppendRequest(nil, &command.Request{Origin: command.Own, Born: i, Ops: []command.Op{{Kind: command.Delete, Key: "k"}}})
				result, err := s.enqueue(ctx, encoded, false)
				if i == 1 && !errors.Is(err, errs.Unsent) || i != 1 && (err != nil || result.Version != i) {
					t.Errorf("write %d: %+v, %v", i, result, err)
				}
			})
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		s.writes.send = sending(func(entry []byte) (results []command.Result, err error) {
			requests, err := command.Decode(entry)
			for _, r := range requests {
				results = append(results, command.Result{Version: r.Born})
			}
			return results, err
		})
		s.writes.sendGroup(s.writes.take())
		writers.Wait()
	})
}

func TestAWriteThatIsGivenUpOnItsWayIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		hold(s)
		ctx, cancel := context.WithCancelCause(t.Context())
		taken := make(chan *group)
		time.AfterFunc(time.Second, func() {
			g := s.writes.take()
			s.writes.seal(g)
			taken <- g
		})
		time.AfterFunc(2*time.Second, func() { cancel(errEnough) })
		done := make(chan error)
		go func() {
			_, err := s.enqueue(ctx, nil, false)
			done <- err
		}()
		g := <-taken
		if err := <-done; !errors.Is(err, ErrUnknown) || errors.Is(err, errs.Unsent) || !errors.Is(err, errEnough) {
			t.Errorf("got %v, want ErrUnknown and the context's cause", err)
		}
		s.writes.end(g, []command.Result{{}}, nil) // nobody waits, and nothing breaks
	})
}

func TestTheOutcomeOfAWriteIsItsGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		want := command.Result{Code: command.Conflict, Version: 9}
		s.writes.send = sending(func([]byte) ([]command.Result, error) { return []command.Result{want}, nil })
		if got, err := s.enqueue(t.Context(), []byte{1}, false); got != want || err != nil {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		s.writes.send = sending(func([]byte) ([]command.Result, error) { return nil, errEnough })
		if _, err := s.enqueue(t.Context(), []byte{1}, false); err != errEnough {
			t.Errorf("got %v, want the error of the group", err)
		}
	})
}

func TestClosingRefusesWhatWaitsAndWaitsForWhatIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		hold(s)
		type outcome struct {
			result command.Result
			err    error
		}
		enqueue := func(ctx context.Context) chan outcome {
			out := make(chan outcome, 1)
			go func() {
				result, err := s.enqueue(ctx, []byte{1}, false)
				out <- outcome{result, err}
			}()
			synctest.Wait()
			return out
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		sent, given := enqueue(t.Context()), enqueue(ctx)
		g := s.writes.take()
		s.writes.seal(g)
		waits := enqueue(t.Context())

		s.stop(ErrClosed)
		if got := <-waits; !errors.Is(got.err, errs.Unsent) || !errors.Is(got.err, ErrClosed) {
			t.Errorf("waiting: %v, want errs.Unsent and ErrClosed", got.err)
		}
		synctest.Wait()
		if len(sent) != 0 || len(given) != 0 {
			t.Fatal("closing did not wait for the outcome of what is on its way")
		}
		cancel(errEnough)
		if got := <-given; !errors.Is(got.err, ErrUnknown) || !errors.Is(got.err, errEnough) {
			t.Errorf("given up on its way: %v, want ErrUnknown", got.err)
		}
		s.writes.end(g, []command.Result{{Version: 5}, {}}, nil)
		if got := <-sent; got.err != nil || got.result.Version != 5 {
			t.Errorf("on its way: %+v, want its outcome", got)
		}
	})
}

func TestWhatIsOnItsWayWhenTheStoreEndsIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		never := make(chan struct{})
		s.writes.send = sending(func([]byte) ([]command.Result, error) { <-never; return nil, errEnough })
		time.AfterFunc(time.Second, func() { s.end(errEnough) })
		if _, err := s.enqueue(t.Context(), []byte{1}, false); !errors.Is(err, ErrUnknown) || errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrUnknown alone", err)
		}
		close(never) // the group ends a second time, and nobody hears of it
		synctest.Wait()
	})
}

// release lets s send what waits, until the test ends.
func release(t *testing.T, s *Store) {
	s.writes.mu.Lock()
	s.writes.senders = 1
	s.writes.mu.Unlock()
	s.work.Go(s.writes.run)
	t.Cleanup(func() {
		s.stop(ErrClosed)
		s.cancel(ErrClosed)
		s.work.Wait()
	})
}

// applyingAll is a leader that applies groups to a state of its own.
type applyingAll struct {
	takes time.Duration

	mu    sync.Mutex // protects the following
	index uint64
	sizes []int // of its groups
	state *state.State
}

func (l *applyingAll) write(m method, _ time.Duration, payload []byte) []byte {
	group, err := command.Decode(payload)
	if err != nil || m != callWrite {
		return errorFrame(ErrInvalid)
	}
	results := l.apply(group)
	time.Sleep(l.takes) // virtual
	return answerFrame(0, string(command.AppendResults(nil, results)))
}

func (l *applyingAll) apply(group []command.Request) []command.Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index++
	l.sizes = append(l.sizes, len(group))
	return l.state.Apply(l.index, group)
}

func TestEachWriteOfAGroupGetsItsOwnResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader := &applyingAll{takes: time.Second, state: state.New()}
		s := newTestFollower(t, answering(leader.write))
		hold(s)
		var writers sync.WaitGroup
		var versions [20]uint64
		for i := range versions {
			writers.Go(func() {
				var err error
				key := fmt.Sprint("key-", i)
				if versions[i], err = s.Set(t.Context(), key, []byte(key)); err != nil {
					t.Error(err)
				}
			})
			writers.Go(func() {
				_, err := s.Delete(t.Context(), fmt.Sprint("absent-", i), IfVersion(uint64(i+1)))
				if !errors.Is(err, ErrConflict) {
					t.Errorf("absent-%d: %v, want ErrConflict", i, err)
				}
			})
		}
		synctest.Wait() // all wait
		release(t, s)
		writers.Wait()
		if len(leader.sizes) > groupsAtOnce {
			t.Errorf("what was queued went as groups of %v requests, want at most %d groups", leader.sizes, groupsAtOnce)
		}
		view := leader.state.View()
		for i, version := range versions {
			if item, _ := view.Get(fmt.Sprint("key-", i)); item.Version != version {
				t.Errorf("key-%d was set to version %d, and has %d", i, version, item.Version)
			}
		}
	})
}

func TestWhileAGroupIsOnItsWayTheNextGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader := &applyingAll{takes: time.Second, state: state.New()}
		s := newTestFollower(t, answering(leader.write))
		release(t, s)
		var writers sync.WaitGroup
		write(t, s, &writers, 1, nil)
		write(t, s, &writers, 5, nil)
		write(t, s, &writers, 5, nil)
		began := time.Now()
		writers.Wait()
		if !slices.Equal(leader.sizes, []int{1, 10}) {
			t.Errorf("the groups have %v requests, want 1 and 10", leader.sizes)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("took %v, want 2s: one group after the other", took)
		}
	})
}

func TestAFullGroupDoesNotWaitForTheOneThatIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader := &applyingAll{takes: time.Second, state: state.New()}
		s := newTestFollower(t, answering(leader.write))
		release(t, s)
		var writers sync.WaitGroup
		write(t, s, &writers, 1, nil)
		write(t, s, &writers, 1, make([]byte, groupBytes))
		write(t, s, &writers, 5, nil)
		write(t, s, &writers, 5, nil)
		began := time.Now()
		writers.Wait()
		if !slices.Equal(leader.sizes, []int{1, 1, 10}) {
			t.Errorf("the groups have %v requests, want 1, 1, and 10", leader.sizes)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("took %v, want 2s: the first two groups at once", took)
		}
	})
}

func TestSmallWritesDoNotWaitForALargeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader := &applyingAll{takes: time.Second, state: state.New()}
		s := newTestFollower(t, answering(leader.write))
		release(t, s)
		var writers sync.WaitGroup
		write(t, s, &writers, 1, make([]byte, 2*groupBytes))
		write(t, s, &writers, 5, nil)
		write(t, s, &writers, 5, nil)
		began := time.Now()
		writers.Wait()
		if took := time.Since(began); took != 2*time.Second || len(leader.sizes) != 3 || leader.sizes[0] != 1 {
			t.Errorf("groups of %v requests in %v, want the large one and some others at once, and the rest after a second", leader.sizes, took)
		}
	})
}

func TestAFullGroupStaysFullWhenItsRequestsAreGivenUp(t *testing.T) {
	s := newTestServer(t)
	waiting(t, s, groupBytes, groupBytes)
	w := &s.writes
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

// write begins n writes, and returns when each is on its way or waits.
func write(t *testing.T, s *Store, writers *sync.WaitGroup, n int, value []byte) {
	for range n {
		writers.Go(func() {
			if _, err := s.Set(t.Context(), "k", value); err != nil {
				t.Error(err)
			}
		})
	}
	synctest.Wait()
}

func TestAnAnswerThatDoesNotFitTheGroupIsUnknown(t *testing.T) {
	for name, frame := range map[string][]byte{
		"a result too few":  answerFrame(0, string(command.AppendResults(nil, nil))),
		"a result too many": answerFrame(0, string(command.AppendResults(nil, make([]command.Result, 2)))),
		"no results":        answerFrame(0, "nonsense"),
		"nothing":           answerFrame(0, ""),
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newTestFollower(t, answering(func(method, time.Duration, []byte) []byte { return frame }))
			waiting(t, s, 0)
			g := s.writes.take()
			s.writes.sendGroup(g)
			<-g.done
			if !errors.Is(g.err, ErrUnknown) {
				t.Errorf("%s: %v, want ErrUnknown", name, g.err)
			}
		})
	}
}

func TestAGroupWithoutALeaderIsUnsent(t *testing.T) {
	s := newTestServer(t)
	if _, err := s.send(emptyEntry); !errors.Is(err, errs.Unsent) {
		t.Errorf("got %v, want errs.Unsent", err)
	}
	s.court.reign = newTestReign(s, peerB, true)
	s.stop(ErrClosed)
	s.futures.drain(time.Second)
	if _, err := s.send(emptyEntry); !errors.Is(err, errs.Unsent) || !errors.Is(err, ErrClosed) {
		t.Errorf("on a leader that closes: %v, want errs.Unsent and ErrClosed", err)
	}
}

func TestAGroupIsGivenUpOnALeaderThatIsSilentOrNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestFollower(t, serveUntilEnd)
		began := time.Now()
		if _, err := s.send(emptyEntry); !errors.Is(err, ErrUnknown) || time.Since(began) != s.patience() {
			t.Errorf("after %v: %v, want ErrUnknown after %v", time.Since(began), err, s.patience())
		}
		time.AfterFunc(time.Second, func() { s.replaceReign(&reign{leader: roster.Peer{Server: "c#3", Addr: "c:1"}}) })
		began = time.Now()
		if _, err := s.send(emptyEntry); !errors.Is(err, ErrUnknown) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v, want ErrUnknown when the leader changes", time.Since(began), err)
		}
	})
}

func TestAGivenUpWriteSendsNoBytesOfItsCallersNextUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent string
		s := newTestFollower(t, answering(func(_ method, _ time.Duration, payload []byte) []byte {
			group, err := command.Decode(payload)
			if err != nil {
				t.Error(err)
			}
			sent = string(group[0].Ops[0].Value)
			return answerFrame(0, string(command.AppendResults(nil, make([]command.Result, 1))))
		}))
		ctx, cancel := context.WithCancel(t.Context())
		value := []byte("green")
		send := s.writes.send
		s.writes.send = sending(func(entry []byte) ([]command.Result, error) {
			cancel()
			time.Sleep(time.Second) // in which Set returns: value is its caller's again
			copy(value, "XXXXX")
			return send(func() []byte { return entry })
		})
		if _, err := s.Set(ctx, "color", value); !errors.Is(err, ErrUnknown) {
			t.Errorf("given up on its way: %v", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if sent != "green" {
			t.Errorf("the leader was sent %q, which nobody wrote", sent)
		}
	})
}

func TestWhatIsQueuedGoesAsOneGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader := &applyingAll{takes: time.Second, state: state.New()}
		s := newTestFollower(t, answering(leader.write))
		hold(s)
		var writers sync.WaitGroup
		for range 256 {
			writers.Go(func() { _, _ = s.Set(t.Context(), "k", nil) })
		}
		synctest.Wait()
		release(t, s)
		writers.Wait()
		if !slices.Equal(leader.sizes, []int{256}) {
			t.Errorf("256 queued requests went as %v", leader.sizes)
		}
	})
}

// A leader that cannot accept connections takes none, however long it is waited for.
func TestAWriteForWhichNoConnectionIsMadeWasNotApplied(t *testing.T) {
	for _, limit := range []time.Duration{time.Second, 10 * time.Second} { // less than an attempt takes, and more
		synctest.Test(t, func(t *testing.T) {
			lan := newLAN()
			s := newTestFollowerOn(t, lan, serveUntilEnd)
			lan.Isolate("b")
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := s.Set(ctx, "k", nil)
			if !errors.Is(err, ErrNoLeader) || errors.Is(err, ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after %v: %v, want ErrNoLeader", limit, err)
			}
			if limit > s.patience() && !strings.Contains(err.Error(), "no connection within 3s: node b: ") {
				t.Errorf("%v does not say what kept it", err)
			}
			time.Sleep(time.Minute) // the attempts end
		})
	}
}

func TestAWriteThatHasNoConnectionWhenTheStoreEndsWasNotApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		s := newTestFollowerOn(t, lan, serveUntilEnd)
		lan.Isolate("b")
		time.AfterFunc(time.Second, func() { s.end(errEnough) })
		if _, err := s.Set(t.Context(), "k", nil); errors.Is(err, ErrUnknown) || !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}

func TestAGroupThatIsAbandonedBeforeItIsSealedWasNotApplied(t *testing.T) {
	s := newTestServer(t)
	waiting(t, s, 1)
	g := s.writes.take()
	s.writes.send = func(seal func() []byte) ([]command.Result, error) {
		s.writes.abandon(ErrClosed)
		if seal() != nil {
			t.Error("it is sent")
		}
		return nil, nil
	}
	s.writes.sendGroup(g)
	if !errors.Is(g.err, errs.Unsent) || !errors.Is(g.err, ErrClosed) {
		t.Error(g.err)
	}
}
