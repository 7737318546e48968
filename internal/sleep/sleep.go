// Package sleep has the pauses of loops that a context ends. It holds nothing, and starts
// nothing.
package sleep

import (
	"context"
	"time"
)

// For waits for d, and reports whether it has: false when ctx ended before.
func For(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Backoff is how long to wait between attempts: each time for twice as long.
type Backoff struct {
	Next time.Duration // the next wait
	Most time.Duration // the longest
}

// Wait waits as [For] does.
func (b *Backoff) Wait(ctx context.Context) bool {
	d := b.Next
	b.Next = min(2*b.Next, b.Most)
	return For(ctx, d)
}
