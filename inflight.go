package kvraft

import (
	"sync"
	"time"
)

// inflight counts what must be over before something is shut down, and lets
// nothing in once it drains.
type inflight struct {
	mu     sync.Mutex
	n      int           // guarded by mu
	closed bool          // guarded by mu
	empty  chan struct{} // closed when closed and n is 0
}

func newInflight() *inflight { return &inflight{empty: make(chan struct{})} }

// enter reports whether the caller may go on; then it must leave.
func (f *inflight) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.n++
	return true
}

func (f *inflight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	if f.closed && f.n == 0 {
		close(f.empty)
	}
}

// drain lets nobody in any more and waits until all have left, at most for limit.
func (f *inflight) drain(limit time.Duration) bool {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		if f.n == 0 {
			close(f.empty)
		}
	}
	f.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-f.empty:
	case <-timer.C:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n == 0
}
