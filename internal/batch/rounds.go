package batch

import (
	"context"
	"sync"

	"github.com/kvraft/kvraft/internal/errs"
)

// Rounds batch readers, those of a leader or of a follower. One round is under way at a
// time; a reader that arrives meanwhile waits for the next one, since the questions of
// the present one may have been answered before the read began.
type Rounds struct {
	run   func() (uint64, error)
	spawn func(func()) bool

	mu      sync.Mutex
	next    *round // guarded by mu: gathers readers until the round before it ends
	running bool   // guarded by mu
}

type round struct {
	done  chan struct{}
	index uint64 // valid after done: the state has reached it, and it is enough for the readers
	err   error  // likewise
}

// NewRounds returns Rounds of which run is one: it returns the index that the readers'
// state is to have, and is bounded in time. It is called by one goroutine at a time, which
// is started with spawn; that returns false when it is too late to start one.
func NewRounds(run func() (uint64, error), spawn func(func()) bool) *Rounds {
	return &Rounds{run: run, spawn: spawn}
}

// Join takes part in a round that begins after the call.
func (r *Rounds) Join(ctx context.Context) (index uint64, err error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	if !r.running {
		r.running = r.spawn(r.runAll)
	}
	running := r.running
	r.mu.Unlock()
	if !running {
		return 0, errs.Closed
	}
	select {
	case <-mine.done:
		return mine.index, mine.err
	case <-ctx.Done():
		return 0, errs.Ended(ctx)
	}
}

func (r *Rounds) runAll() {
	for {
		r.mu.Lock()
		now := r.next
		r.next = nil
		r.running = now != nil
		r.mu.Unlock()
		if now == nil {
			return
		}
		now.index, now.err = r.run()
		close(now.done)
	}
}
