package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-metrics"

	"github.com/kvraft/kvraft"
)

func fsmSnapshot(keys int) string     { return "FSM.Snapshot" + overKeys(keys) }
func persisted(keys int) string       { return "a snapshot on its way to disk" + overKeys(keys) }
func withoutSnapshot(keys int) string { return writes(256, 100).String() + ", paced" + overKeys(keys) }
func duringSnapshot(keys int) string {
	return withoutSnapshot(keys) + ", while a snapshot is persisted"
}

// snapshots measures how long the state machine stands still for a snapshot, and
// what writers notice of it until it is written and the log compacted.
//
// On three machines each node has cores and a disk of its own. So here one node
// takes snapshots: the leader. The writers keep to a schedule of a quarter of what
// they can do; at the limit their p99.9 would tell the length of a queue.
func (b *bench) snapshots(ctx context.Context) error {
	const every, never = 16 << 20, 1 << 50
	keys := newKeys(b.many)
	seen, err := watchSnapshots()
	if err != nil {
		return err
	}
	system := kvraftWith(func(node int) []kvraft.Option {
		if node == 0 {
			return []kvraft.Option{kvraft.WithSnapshots(kvraft.Snapshots{EveryBytes: every})}
		}
		return []kvraft.Option{kvraft.WithSnapshots(kvraft.Snapshots{EveryBytes: never})}
	})
	err = b.with(ctx, system, 3, func(c cluster) error {
		store := c.(*kvraftCluster).stores[0]
		if err := store.TransferLeadership(ctx, nodeName(0)); err != nil {
			return err
		}
		if err := preload(ctx, c, keys, newValue(100)); err != nil {
			return err
		}
		free, err := writes(256, 100).run(ctx, c, keys, b.warmUp, b.duration)
		if err != nil {
			return err
		}
		for range 2 { // the second time nothing is due any more
			if err := seen.rest(ctx); err != nil {
				return err
			}
			if err := fill(ctx, c, every/16); err != nil {
				return err
			}
		}
		for due := seen.begun(); seen.begun() == due; { // from here on it is known when the next one is
			if err := fill(ctx, c, every/16); err != nil {
				return err
			}
		}
		if err := seen.rest(ctx); err != nil {
			return err
		}
		since := 0
		for range b.rounds {
			if since, err = b.snapshot(ctx, c, seen, every-since, keys, free.perSecond/4); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, seen.stop())
}

// snapshot lets a snapshot become due, after so many bytes of log, while writers
// write so many times a second. It returns how many they wrote after it was.
func (b *bench) snapshot(ctx context.Context, c cluster, seen *snapshotsSeen, due int, keys []string, perSecond float64) (since int, err error) {
	const request, least = 150, 4 << 20 // bytes of log: for one write, and by writers before the snapshot
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("no snapshot was taken"))
	defer cancel()
	calls, err := writes(256, 100).calls(c, keys)
	if err != nil {
		return 0, err
	}
	before := b.warmUp + 2*b.duration
	if err := fill(ctx, c, due-max(least, int(perSecond*before.Seconds())*request)); err != nil {
		return 0, err
	}
	begun := time.Now()
	done, err := paced(ctx, calls, perSecond, seen.next())
	if err != nil {
		return 0, err
	}
	last := seen.last()
	without, during := newHistogram(), newHistogram()
	for _, one := range done {
		switch {
		case one.end.After(last.begin) && one.begin.Before(last.end):
			record(during, one.end.Sub(one.begin))
		case one.begin.After(begun.Add(b.warmUp)) && one.end.Before(last.begin):
			record(without, one.end.Sub(one.begin))
		}
	}
	if without.TotalCount() < 1000 || during.TotalCount() < 1000 {
		return 0, fmt.Errorf("%d writes without a snapshot and %d with one are too few for a p99.9", without.TotalCount(), during.TotalCount())
	}
	b.figures.add(name{fsmSnapshot(len(keys)), kvraftName, took}, last.standstill.Seconds())
	b.figures.add(name{persisted(len(keys)), kvraftName, took}, last.end.Sub(last.begin).Seconds())
	b.figures.addRun(withoutSnapshot(len(keys)), kvraftName, run{perSecond, without})
	b.figures.addRun(duringSnapshot(len(keys)), kvraftName, run{perSecond, during})
	b.say("a snapshot: stood still for %v, persisted in %v; write p99.9 %v, before it %v", latency(last.standstill), latency(last.end.Sub(last.begin)),
		latency(time.Duration(during.ValueAtQuantile(99.9))), latency(time.Duration(without.ValueAtQuantile(99.9))))
	return int(during.TotalCount()) * request, nil
}

// fill writes so many bytes of log.
func fill(ctx context.Context, c cluster, n int) error {
	const filler = 256 << 10
	return setEach(ctx, c, slices.Repeat([]string{"filler"}, max(n/filler, 0)), newValue(filler))
}

// rest waits until no snapshot is under way.
func (s *snapshotsSeen) rest(ctx context.Context) error {
	for s.begun() > 0 && s.last().end.IsZero() {
		next := s.next()
		if !s.last().end.IsZero() {
			return nil
		}
		if err := wait(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// snapshotSeen is a snapshot that a node has taken.
type snapshotSeen struct {
	standstill time.Duration // FSM.Snapshot: what the state machine did not apply anything for
	begin, end time.Time     // the latter when it was written and the log compacted
}

// snapshotsSeen learns of snapshots by raft's metrics, the only place to tell how
// long FSM.Snapshot took.
type snapshotsSeen struct {
	metrics.BlackholeSink

	mu      sync.Mutex
	all     []snapshotSeen  // guarded by mu: the last may be under way
	waiting []chan struct{} // guarded by mu: closed when one has ended
}

func watchSnapshots() (*snapshotsSeen, error) {
	seen := &snapshotsSeen{}
	return seen, sendMetricsTo(seen)
}

// stop leaves raft's metrics to nobody again.
func (s *snapshotsSeen) stop() error { return sendMetricsTo(&metrics.BlackholeSink{}) }

func sendMetricsTo(sink metrics.MetricSink) error {
	config := metrics.DefaultConfig("")
	config.EnableRuntimeMetrics = false // which would need a goroutine
	_, err := metrics.NewGlobal(config, sink)
	return err
}

// AddSampleWithLabels gets a time in milliseconds that has just passed.
func (s *snapshotsSeen) AddSampleWithLabels(key []string, ms float32, _ []metrics.Label) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch strings.Join(key, ".") {
	case "raft.fsm.snapshot":
		standstill := time.Duration(float64(ms) * float64(time.Millisecond))
		s.all = append(s.all, snapshotSeen{standstill: standstill, begin: now.Add(-standstill)})
	case "raft.snapshot.takeSnapshot":
		s.all[len(s.all)-1].end = now
		for _, w := range s.waiting {
			close(w)
		}
		s.waiting = nil
	}
}

// begun counts the snapshots.
func (s *snapshotsSeen) begun() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

func (s *snapshotsSeen) last() snapshotSeen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[len(s.all)-1]
}

// next is closed when the next snapshot has ended.
func (s *snapshotsSeen) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := make(chan struct{})
	s.waiting = append(s.waiting, w)
	return w
}
