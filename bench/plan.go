package main

import (
	"context"
	"fmt"
)

// What is measured, and in which order.

var (
	allSystems   = []system{kvraftDefault, etcd, etcdGRPC, nats, natsFsync}
	mainSystems  = []system{kvraftDefault, etcd, nats}
	writerCounts = []int{1, 16, 64, 256, 1024}
	valueSizes   = []int{100, 1 << 10, 64 << 10}
	clusterSizes = []int{1, 3, 5, 7}
	costLoads    = []workload{writes(256, 100), reads(linearizable, leader, 256), reads(stale, leader, 256)}
)

// Of keys there are 10,000 unless it is about their number: more than stay in the
// caches of a processor, few enough to be written in a moment.
const (
	usualKeys  = 10_000
	fewestKeys = 1_000
	million    = 1_000_000
	mostKeys   = 10_000_000
)

// A section is a part of a run that can be asked for by its name.
type section struct {
	name string
	run  func(*bench, context.Context) error
}

// short is what the goals are about.
var short = []section{
	{"loads", (*bench).headlineLoads},
	{"logs", (*bench).logs},
	{"snapshot", (*bench).snapshots},
	{"memory", (*bench).ownMemory},
	{"keys", func(b *bench, ctx context.Context) error {
		return b.costs(ctx, []system{kvraftDefault}, []int{fewestKeys, b.many})
	}},
	{"restart", func(b *bench, ctx context.Context) error { return b.restart(ctx, kvraftDefault, newKeys(b.many)) }},
	{"failover", (*bench).killed},
}

var full = []section{
	{"loads", (*bench).allLoads},
	{"logs", (*bench).logs},
	{"snapshot", (*bench).snapshots},
	{"memory", (*bench).everyMemory},
	{"keys", (*bench).everyCost},
	{"clusters", (*bench).clusters},
	{"restart", (*bench).restarts},
	{"renewal", (*bench).renewals},
	{"failover", (*bench).failovers},
}

// besideWriters is the disk, in turn with what waits for it.
var besideWriters = visit{system: written, loads: []load{batches[0]}, nodes: 1, where: ", in turn with writers"}

func (b *bench) headlineLoads(ctx context.Context) error { return b.interleave(ctx, headlineVisits()) }

// headlineVisits have the reads first, while the state is small.
func headlineVisits() []visit {
	loads := append(readsOf(etcd), writes(1, 100), writes(256, 100), writes(1024, 100), writes(256, 1<<10), writes(16, 64<<10))
	return []visit{
		{system: kvraftDefault, loads: append([]load{post(256), get(256)}, loads...)},
		{system: etcd, loads: loads},
		{system: nats, loads: []load{writes(256, 100)}},
		{system: ungrouped, loads: []load{post(256)}},
		{system: empty, loads: []load{get(256)}},
		besideWriters,
	}
}

func (b *bench) allLoads(ctx context.Context) error {
	var visits []visit
	for _, s := range allSystems {
		visits = append(visits, visit{system: s, loads: loadsOf(s)})
	}
	return b.interleave(ctx, append(visits,
		visit{system: kvraftDefault, loads: []load{post(256), get(256)}},
		visit{system: ungrouped, loads: []load{post(256)}},
		visit{system: empty, loads: []load{get(256)}},
		besideWriters,
	))
}

// readsOf are those that a system has.
func readsOf(s system) (loads []load) {
	for _, on := range []role{leader, follower} {
		for _, l := range s.levels() {
			loads = append(loads, reads(l, on, 1), reads(l, on, 256))
		}
	}
	return loads
}

// loadsOf has the reads first, while the state is small.
func loadsOf(s system) []load {
	loads := readsOf(s)
	if s.freshest() == linearizable {
		loads = append(loads, workload{mix, 256, 100, leader, linearizable})
	}
	for _, size := range valueSizes {
		for _, writers := range writerCounts {
			loads = append(loads, writes(writers, size))
		}
	}
	return append(loads, workload{write, 256, 100, follower, linearizable})
}

func (b *bench) ownMemory(ctx context.Context) error {
	if err := b.keyMemory(ctx, kvraftDefault, b.many); err != nil {
		return err
	}
	return b.nodeMemory(ctx)
}

func (b *bench) everyMemory(ctx context.Context) error {
	if err := b.ownMemory(ctx); err != nil {
		return err
	}
	for _, s := range b.main() {
		if s.name == kvraftName {
			continue
		}
		if err := b.keyMemory(ctx, s, b.many); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) everyCost(ctx context.Context) error {
	var counts []int
	for n := fewestKeys; n <= b.many; n *= 10 {
		counts = append(counts, n)
	}
	return b.costs(ctx, b.main(), counts)
}

// costs is what an operation costs over more and more keys.
func (b *bench) costs(ctx context.Context, systems []system, counts []int) error {
	keys := newKeys(b.many)
	for round := range b.rounds {
		for i := range systems {
			s := systems[(i+round)%len(systems)]
			err := b.with(ctx, s, 3, func(c cluster) error {
				loaded := 0
				for _, n := range counts {
					if err := preload(ctx, c, keys[loaded:n], newValue(100)); err != nil {
						return err
					}
					loaded = n
					if err := b.apply(ctx, c, visit{system: s, keys: keys[:n], loads: costLoadsOf(s), where: overKeys(n)}, b.nth(round)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func costLoadsOf(s system) (loads []load) {
	for _, l := range costLoads {
		if l.op == write || l.level == stale || s.freshest() == linearizable {
			loads = append(loads, l)
		}
	}
	return loads
}

func overKeys(n int) string { return ", " + thousands(int64(n)) + " keys" }

func (b *bench) clusters(ctx context.Context) error {
	const mostNATS = 5 // copies of a stream
	var visits []visit
	for _, nodes := range clusterSizes {
		for _, s := range mainSystems {
			if s.name == nats.name && nodes > mostNATS {
				continue
			}
			v := visit{system: s, nodes: nodes, where: ofNodes(nodes), loads: []load{writes(256, 100)}}
			if s.freshest() == linearizable {
				v.loads = append(v.loads, reads(linearizable, leader, 256))
			}
			visits = append(visits, v)
		}
	}
	return b.interleave(ctx, visits)
}

func ofNodes(n int) string { return fmt.Sprintf(", nodes: %d", n) }

func (b *bench) restarts(ctx context.Context) error {
	for _, s := range b.main() {
		if err := b.restart(ctx, s, newKeys(b.many)); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (b *bench) failovers(ctx context.Context) error {
	for _, s := range b.main() {
		if err := b.failover(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return b.killed(ctx)
}
