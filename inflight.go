package kvraft

import (
	"context"
	"sync"
	"time"
)

// inflight counts what must be over before something is done, and keeps others
// out: for a while, with hold, or for good, with drain.
type inflight struct {
	mu     sync.Mutex
	n      int           // guarded by mu
	closed bool          // guarded by mu: nobody enters any more
	held   chan struct{} // guarded by mu: who wants to enter waits until it is closed; nil: nobody has to
	empty  chan struct{} // guarded by mu: closed when n falls to 0; nil: nobody waits for that
}

func newInflight() *inflight { return new(inflight) }

// enter reports whether the caller may go on; then it must leave.
func (f *inflight) enter() bool {
	for {
		f.mu.Lock()
		held := f.held
		if f.closed || held == nil {
			defer f.mu.Unlock()
			if !f.closed {
				f.n++
			}
			return !f.closed
		}
		f.mu.Unlock()
		<-held // whoever holds lets go in time
	}
}

func (f *inflight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	if f.n == 0 && f.empty != nil {
		close(f.empty)
		f.empty = nil
	}
}

// hold keeps who wants to enter waiting until release is called, once those who
// are in have left. It gives up after limit, and when somebody else holds.
func (f *inflight) hold(ctx context.Context, limit time.Duration) (release func(), ok bool) {
	mine := make(chan struct{})
	f.mu.Lock()
	if f.closed || f.held != nil {
		f.mu.Unlock()
		return nil, false
	}
	f.held = mine
	f.mu.Unlock()
	release = func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.held == mine {
			f.held = nil
			close(mine)
		}
	}
	if !f.await(ctx, limit) {
		release()
		return nil, false
	}
	return release, true
}

// drain lets nobody in any more and waits until all have left, at most for limit.
func (f *inflight) drain(limit time.Duration) bool {
	f.mu.Lock()
	f.closed = true
	if f.held != nil {
		close(f.held)
		f.held = nil
	}
	f.mu.Unlock()
	return f.await(context.Background(), limit)
}

// await waits until all have left. Nobody may enter meanwhile.
func (f *inflight) await(ctx context.Context, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	f.mu.Lock()
	if f.n == 0 {
		f.mu.Unlock()
		return true
	}
	if f.empty == nil {
		f.empty = make(chan struct{})
	}
	empty := f.empty
	f.mu.Unlock()
	select {
	case <-empty:
		return true
	case <-ctx.Done():
		return false
	}
}
