package kvraft

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// turns spaces what is done for a node.
type turns struct {
	mu   sync.Mutex
	next map[raft.ServerID]time.Time // guarded by mu: when it may be done again
}

// await waits until it has been a while since the last turn of a node. It reports false,
// and there is no turn, when ctx ends before.
func (t *turns) await(ctx context.Context, id raft.ServerID, space time.Duration) bool {
	wait := t.reserve(ctx, id, space)
	if wait < 0 {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// reserve returns how long it is until the turn, or a negative time if ctx ends before.
func (t *turns) reserve(ctx context.Context, id raft.ServerID, space time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(t.next, func(_ raft.ServerID, at time.Time) bool { return at.Before(now) })
	at, busy := t.next[id]
	if !busy {
		at = now
	}
	if limit, ok := ctx.Deadline(); ok && at.After(limit) {
		return -1
	}
	if t.next == nil {
		t.next = make(map[raft.ServerID]time.Time)
	}
	t.next[id] = at.Add(space)
	return at.Sub(now)
}
