package batch

import (
	"context"
	"sync"
	"time"
)

// A Gate counts what must be over before something is done, and keeps others out: for a
// while, with Hold, or for good, with Drain. The zero value is open.
type Gate struct {
	mu     sync.Mutex
	n      int           // guarded by mu
	closed bool          // guarded by mu: nobody enters any more
	held   chan struct{} // guarded by mu: who wants to enter waits until it is closed; nil: nobody has to
	empty  chan struct{} // guarded by mu: closed when n falls to 0; nil: nobody waits for that
}

// Enter reports whether the caller may go on; then it must call Leave.
func (g *Gate) Enter() bool {
	for {
		g.mu.Lock()
		held := g.held
		if g.closed || held == nil {
			defer g.mu.Unlock()
			if !g.closed {
				g.n++
			}
			return !g.closed
		}
		g.mu.Unlock()
		<-held // whoever holds lets go in time
	}
}

// Leave is called by who has entered, once.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	if g.n == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// Hold keeps who wants to enter waiting until release is called, once those who
// are in have left. It gives up after limit, and when somebody else holds.
func (g *Gate) Hold(ctx context.Context, limit time.Duration) (release func(), ok bool) {
	mine := make(chan struct{})
	g.mu.Lock()
	if g.closed || g.held != nil {
		g.mu.Unlock()
		return nil, false
	}
	g.held = mine
	g.mu.Unlock()
	release = func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.held == mine {
			g.held = nil
			close(mine)
		}
	}
	if !g.await(ctx, limit) {
		release()
		return nil, false
	}
	return release, true
}

// Drain lets nobody in any more and waits until all have left, at most for limit.
func (g *Gate) Drain(limit time.Duration) bool {
	g.mu.Lock()
	g.closed = true
	if g.held != nil {
		close(g.held)
		g.held = nil
	}
	g.mu.Unlock()
	return g.await(context.Background(), limit)
}

// await waits until all have left. Nobody may enter meanwhile.
func (g *Gate) await(ctx context.Context, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	g.mu.Lock()
	if g.n == 0 {
		g.mu.Unlock()
		return true
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	empty := g.empty
	g.mu.Unlock()
	select {
	case <-empty:
		return true
	case <-ctx.Done():
		return false
	}
}
