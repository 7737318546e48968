package kvraft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/state"
)

func TestAnEntryWithoutAnIndexWasNotAppliedAndOneWithIsUnknown(t *testing.T) {
	disk := errors.New("disk: input/output error")
	for _, c := range []struct {
		err   error
		index uint64
		want  error
	}{
		{raft.ErrNotLeader, 0, errUnsent},
		{raft.ErrLeadershipTransferInProgress, 0, errUnsent},
		{raft.ErrEnqueueTimeout, 0, errUnsent},
		{raft.ErrRaftShutdown, 0, errUnsent},
		{disk, 0, errUnsent},
		{raft.ErrLeadershipLost, 7, ErrUnknown},
		{raft.ErrRaftShutdown, 7, ErrUnknown}, // it may be committed
		{raft.ErrAbortedByRestore, 7, ErrUnknown},
		{disk, 7, ErrUnknown}, // a failed fsync may have persisted
	} {
		got := applyError(c.err, c.index)
		if !errors.Is(got, c.want) || !errors.Is(got, c.err) || errors.Is(got, errUnsent) == errors.Is(got, ErrUnknown) {
			t.Errorf("%v at index %d is %v, want %v", c.err, c.index, got, c.want)
		}
	}
}

// waiting queues requests with values of so many bytes.
func (s *Store) waiting(sizes ...int) (all []*pending) {
	s.queue = make(chan *pending, len(sizes)+cap(s.queue))
	for i, size := range sizes {
		p := &pending{done: make(chan struct{}), encoded: command.AppendRequest(nil, &command.Request{
			ID: command.ID{byte(i)}, Ops: []command.Op{{Kind: command.Set, Key: "k", Value: make([]byte, size)}},
		})}
		s.queue <- p
		all = append(all, p)
	}
	return all
}

func TestAGroupIsWhatIsQueuedUpToItsSize(t *testing.T) {
	const half = groupBytes / 2
	for name, c := range map[string]struct {
		sizes []int
		want  int // requests in the first group
	}{
		"one":                           {[]int{1}, 1},
		"all that is there":             {slices.Repeat([]int{100}, 1000), 1000},
		"up to its bytes":               {[]int{half, half, 1}, 2},
		"a little less, and one more":   {[]int{groupBytes - 1000, 1, 1000, 1}, 3},
		"one that is larger goes alone": {[]int{8 << 20, 1}, 1},
		"behind small ones it goes too": {[]int{1, 8 << 20, 1}, 2},
	} {
		s := newTestServer(t)
		all := s.waiting(c.sizes...)
		group := s.gather(<-s.queue)
		if !slices.Equal(group, all[:c.want]) {
			t.Errorf("%s: the first group has %d requests, want %d", name, len(group), c.want)
		}
		if left := len(s.queue); left != len(all)-c.want {
			t.Errorf("%s: %d are left in the queue, want %d", name, left, len(all)-c.want)
		}
	}
}

func TestAGroupHasNoMoreThanItsNumberOfRequests(t *testing.T) {
	s := newTestServer(t)
	s.queue = make(chan *pending, groupRequests+10)
	s.waiting(make([]int, groupRequests+10)...)
	if n := len(s.gather(<-s.queue)); n != groupRequests {
		t.Errorf("%d requests in a group, want %d", n, groupRequests)
	}
}

func TestAWriteThatIsGivenUpBeforeAGroupTookItWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errEnough) })
		if _, err := s.enqueue(ctx, nil); !errors.Is(err, errUnsent) || !errors.Is(err, errEnough) {
			t.Errorf("got %v, want errUnsent and the context's cause", err)
		}
		select {
		case <-s.queue:
			t.Error("it is sent nevertheless")
		default:
		}
	})
}

func TestAWriteThatIsGivenUpOnItsWayIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		taken := make(chan []*pending, 1)
		go func() { taken <- s.gather(<-s.queue) }()
		time.AfterFunc(time.Second, func() { cancel(errEnough) })
		_, err := s.enqueue(ctx, nil)
		if !errors.Is(err, ErrUnknown) || errors.Is(err, errUnsent) || !errors.Is(err, errEnough) {
			t.Errorf("got %v, want ErrUnknown and the context's cause", err)
		}
		for _, p := range <-taken {
			p.finish(command.Result{}, nil) // nobody waits, and nothing breaks
		}
	})
}

func TestTheOutcomeOfAWriteIsItsSenders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		want := command.Result{Code: command.Conflict, Version: 9}
		for _, wantErr := range []error{nil, errEnough} {
			go func() { s.gather(<-s.queue)[0].finish(want, wantErr) }()
			if got, err := s.enqueue(t.Context(), nil); got != want || err != wantErr {
				t.Errorf("got %+v, %v, want %+v, %v", got, err, want, wantErr)
			}
		}
	})
}

func TestClosingRefusesWhatIsQueuedAndWaitsForWhatIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		type outcome struct {
			result command.Result
			err    error
		}
		enqueue := func(ctx context.Context) chan outcome {
			out := make(chan outcome, 1)
			go func() {
				result, err := s.enqueue(ctx, nil)
				out <- outcome{result, err}
			}()
			synctest.Wait()
			return out
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		sent, given := enqueue(t.Context()), enqueue(ctx)
		group := s.gather(<-s.queue)
		queued := enqueue(t.Context())

		s.stop(ErrClosed)
		if got := <-queued; !errors.Is(got.err, errUnsent) || !errors.Is(got.err, ErrClosed) {
			t.Errorf("in the queue: %v, want errUnsent and ErrClosed", got.err)
		}
		synctest.Wait()
		if len(sent) != 0 || len(given) != 0 {
			t.Fatal("closing did not wait for the outcome of what is on its way")
		}
		cancel(errEnough)
		if got := <-given; !errors.Is(got.err, ErrUnknown) || !errors.Is(got.err, errEnough) {
			t.Errorf("given up on its way: %v, want ErrUnknown", got.err)
		}
		for _, p := range group {
			p.finish(command.Result{Version: 5}, nil)
		}
		if got := <-sent; got.err != nil || got.result.Version != 5 {
			t.Errorf("on its way: %+v, want its outcome", got)
		}
	})
}

// sending makes s send its groups, until the test ends.
func sending(t *testing.T, s *Store) {
	s.work.Go(s.sendGroups)
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
		synctest.Wait() // all are queued
		sending(t, s)
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

func TestWhileTwoGroupsAreOnTheirWayTheNextGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader := &applyingAll{takes: time.Second, state: state.New()}
		s := newTestFollower(t, answering(leader.write))
		sending(t, s)
		var writers sync.WaitGroup
		write := func(n int) {
			for range n {
				writers.Go(func() {
					if _, err := s.Set(t.Context(), "k", nil); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		write(1)
		write(1)
		write(5)
		write(5)
		began := time.Now()
		writers.Wait()
		if len(leader.sizes) > 4 || leader.sizes[0] != 1 || leader.sizes[1] != 1 {
			t.Errorf("the groups have %v requests, want 1, 1, and 10 in at most two", leader.sizes)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("took %v, want 2s: two groups go at once", took)
		}
	})
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
			p := s.waiting(0)[0]
			s.sendGroup(s.gather(<-s.queue))
			<-p.done
			if !errors.Is(p.err, ErrUnknown) {
				t.Errorf("%s: %v, want ErrUnknown", name, p.err)
			}
		})
	}
}

func TestAGroupWithoutALeaderIsUnsent(t *testing.T) {
	s := newTestServer(t)
	if _, err := s.send(nil); !errors.Is(err, errUnsent) {
		t.Errorf("got %v, want errUnsent", err)
	}
	s.court.reign = newTestReign(s, peerB, true)
	s.stop(ErrClosed)
	s.futures.drain(time.Second)
	if _, err := s.send(nil); !errors.Is(err, errUnsent) || !errors.Is(err, ErrClosed) {
		t.Errorf("on a leader that closes: %v, want errUnsent and ErrClosed", err)
	}
}

func TestAGroupIsGivenUpOnALeaderThatIsSilentOrNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestFollower(t, serveUntilEnd)
		began := time.Now()
		if _, err := s.send(nil); !errors.Is(err, ErrUnknown) || time.Since(began) != s.patience() {
			t.Errorf("after %v: %v, want ErrUnknown after %v", time.Since(began), err, s.patience())
		}
		time.AfterFunc(time.Second, func() { s.replaceReign(&reign{leader: peer{"c#3", "c:1"}}) })
		began = time.Now()
		if _, err := s.send(nil); !errors.Is(err, ErrUnknown) || time.Since(began) != time.Second {
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
		done := make(chan error)
		go func() {
			_, err := s.Set(ctx, "color", value)
			done <- err
		}()
		group := s.gather(<-s.queue) // the sender takes it, and is not scheduled for a moment
		cancel()
		synctest.Wait()
		select {
		case err := <-done: // Set has returned: value is the caller's again
			t.Logf("Set: %v", err)
			copy(value, "XXXXX")
			s.sendGroup(group)
		default: // Set waits for the sender
			s.sendGroup(group)
			<-done
		}
		if sent != "green" {
			t.Errorf("the leader was sent %q, which nobody wrote", sent)
		}
	})
}

func TestWhatIsQueuedGoesAsOneGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader := &applyingAll{takes: time.Second, state: state.New()}
		s := newTestFollower(t, answering(leader.write))
		var writers sync.WaitGroup
		for range 256 {
			writers.Go(func() { _, _ = s.Set(t.Context(), "k", nil) })
		}
		synctest.Wait()
		sending(t, s)
		writers.Wait()
		if !slices.Equal(leader.sizes, []int{256}) {
			t.Errorf("256 queued requests went as %v", leader.sizes)
		}
	})
}
