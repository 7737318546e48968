package batch

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/kvraft/kvraft/internal/sleep"
)

// PerKey bounds what is under way at one time for each key, so that a node that does not
// answer cannot gather questions, say.
type PerKey[K comparable] struct {
	Most int // for one key; set before use

	mu  sync.Mutex
	out map[K]int // guarded by mu
}

// Acquire reports whether one more may begin; then its end calls release.
func (p *PerKey[K]) Acquire(key K) (release func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out[key] >= p.Most {
		return nil, false
	}
	if p.out == nil {
		p.out = make(map[K]int)
	}
	p.out[key]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.out[key]--; p.out[key] == 0 {
			delete(p.out, key)
		}
	}, true
}

// Spacing keeps what is done for one key apart in time. The zero value is ready for use.
type Spacing[K comparable] struct {
	mu   sync.Mutex
	next map[K]time.Time // guarded by mu: when it may be done again
}

// Await waits until it has been a while since the last turn of a key. It reports false,
// and there is no turn, when ctx ends before.
func (s *Spacing[K]) Await(ctx context.Context, key K, space time.Duration) bool {
	wait := s.reserve(ctx, key, space)
	return wait >= 0 && sleep.For(ctx, wait)
}

// reserve returns how long it is until the turn, or a negative time if ctx ends before.
func (s *Spacing[K]) reserve(ctx context.Context, key K, space time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(s.next, func(_ K, at time.Time) bool { return at.Before(now) })
	at, busy := s.next[key]
	if !busy {
		at = now
	}
	if limit, ok := ctx.Deadline(); ok && at.After(limit) {
		return -1
	}
	if s.next == nil {
		s.next = make(map[K]time.Time)
	}
	s.next[key] = at.Add(space)
	return at.Sub(now)
}
