package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// A workload is what each of some clients does again and again: a call on a key
// that is chosen at random, each key as often as another.
type workload struct {
	op      operation
	clients int
	bytes   int   // of a value
	on      role  // the node that all clients call
	level   level // of reads
}

type operation string

const (
	write operation = "write"
	read  operation = "read"
	mix   operation = "90% read, 10% write"
)

func writes(clients, bytes int) workload {
	return workload{write, clients, bytes, leader, linearizable}
}

func reads(l level, on role, clients int) workload {
	return workload{read, clients, 100, on, l}
}

func (w workload) String() string {
	switch w.op {
	case write:
		if w.on == follower {
			return fmt.Sprintf("write %s through a follower × %d", size(w.bytes), w.clients)
		}
		return fmt.Sprintf("write %s × %d", size(w.bytes), w.clients)
	case read:
		return fmt.Sprintf("%s read, %s × %d", w.level, w.on, w.clients)
	default:
		return fmt.Sprintf("%s × %d", w.op, w.clients)
	}
}

// kind is the workload without its figures.
func (w workload) kind() string {
	if w.op == read {
		return fmt.Sprintf("%s %s", w.level, w.op)
	}
	return string(w.op)
}

func size(n int) string {
	if n >= 1<<10 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// keyCount keeps what three nodes in one process hold in memory within bounds.
func (w workload) keyCount(keys int) int {
	const most = 64 << 20
	return min(keys, most/w.bytes)
}

func (w workload) run(ctx context.Context, c cluster, keys []string, warmUp, d time.Duration) (run, error) {
	// A load before this one that never waits, of stale reads, may have kept the leader
	// from the processor for so long that there is none: it is waited for.
	anywhere, err := w.calls(c, keys)
	if err != nil {
		return run{}, err
	}
	if err := anywhere[0](ctx); err != nil {
		return run{}, err
	}
	calls, err := w.calls(c, keys) // on the leader, or on a follower
	if err != nil {
		return run{}, err
	}
	return measure(ctx, calls, warmUp, d)
}

// calls returns the clients. All values of one size are the same bytes.
func (w workload) calls(c cluster, keys []string) ([]call, error) {
	clients, err := c.clients(w.on, w.clients)
	if err != nil {
		return nil, err
	}
	keys = keys[:w.keyCount(len(keys))]
	v := newValue(w.bytes)
	calls := make([]call, len(clients))
	for i, client := range clients {
		rnd := rand.New(rand.NewPCG(uint64(i), 1))
		calls[i] = func(ctx context.Context) error {
			key := keys[rnd.IntN(len(keys))]
			if w.op == write || w.op == mix && rnd.IntN(10) == 0 {
				return client.set(ctx, key, v)
			}
			return client.get(ctx, key, w.level)
		}
	}
	return calls, nil
}
