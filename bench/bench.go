package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"time"
)

// bench is one run of this program.
type bench struct {
	dir      string // on the disk under test
	rounds   int
	many     int           // keys for what is about their number
	chosen   []string      // names of the systems to measure; nil: all
	warmUp   time.Duration // of each measurement
	duration time.Duration // likewise, after it
	say      func(format string, args ...any)
	figures  figures
}

// A load is what clients do to a cluster while it is measured.
type load interface {
	fmt.Stringer
	run(ctx context.Context, c cluster, keys []string, warmUp, d time.Duration) (run, error)
}

// A visit is one start of a system and what is measured of it.
type visit struct {
	system system
	loads  []load
	nodes  int      // 0: three
	keys   []string // that are there before; nil: the usual ones
	where  string   // what the names of the figures end in
}

// interleave makes all visits in each round, so that a disk or a machine that
// becomes slower does not do so to one system alone. Each round begins with another
// system. Only the one that is measured runs.
func (b *bench) interleave(ctx context.Context, visits []visit) error {
	visits = slices.DeleteFunc(visits, func(v visit) bool { return !b.chooses(v.system) })
	usual := newKeys(usualKeys)
	for round := range b.rounds {
		for i := range visits {
			v := visits[(i+round)%len(visits)]
			v.nodes = cmp.Or(v.nodes, 3)
			if v.keys == nil {
				v.keys = usual
			}
			err := b.visit(ctx, v, b.nth(round))
			if err != nil && ctx.Err() == nil { // such as a leader that changed; what was measured before counts too
				b.say("%s: %v; once more", v.system.name, err)
				err = b.visit(ctx, v, b.nth(round))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", v.system.name, err)
			}
		}
	}
	return nil
}

// chooses tells whether a system is to be measured. What is none, such as the disk, is
// measured when all are.
func (b *bench) chooses(s system) bool { return b.chosen == nil || slices.Contains(b.chosen, s.name) }

func (b *bench) main() []system {
	return slices.DeleteFunc(slices.Clone(mainSystems), func(s system) bool { return !b.chooses(s) })
}

func (b *bench) nth(round int) string { return fmt.Sprintf("round %d of %d", round+1, b.rounds) }

func (b *bench) visit(ctx context.Context, v visit, round string) error {
	return b.with(ctx, v.system, v.nodes, func(c cluster) error {
		if err := preload(ctx, c, v.keys, newValue(100)); err != nil {
			return err
		}
		return b.apply(ctx, c, v, round)
	})
}

// apply puts the cluster under one load after the other.
func (b *bench) apply(ctx context.Context, c cluster, v visit, round string) error {
	for _, l := range v.loads {
		r, err := l.run(ctx, c, v.keys, b.warmUp, b.duration)
		if err != nil {
			return fmt.Errorf("%s: %w", l, err)
		}
		what := l.String() + v.where
		b.figures.addRun(what, v.system.name, r)
		b.say("%s: %s: %s: %s/s, p50 %s", round, v.system.name, what, rate.format(r.perSecond), latency(r.quantile(50)))
	}
	return nil
}

// with opens a system in an empty directory, and leaves nothing of it.
func (b *bench) with(ctx context.Context, s system, nodes int, use func(cluster) error) error {
	return b.inDir(s, nodes, func(at site) error {
		c, err := open(ctx, s, at)
		if err != nil {
			return err
		}
		return errors.Join(use(c), c.close())
	})
}

// inDir is with for what opens the system itself.
func (b *bench) inDir(s system, nodes int, use func(site) error) (err error) {
	dir, err := os.MkdirTemp(b.dir, "")
	if err != nil {
		return err
	}
	at, err := newSite(dir, nodes)
	if err != nil {
		return err
	}
	before := runtime.NumGoroutine()
	err = errors.Join(use(at), os.RemoveAll(dir))
	b.settle(s, before)
	return err
}

func open(ctx context.Context, s system, at site) (cluster, error) {
	const patience = time.Minute
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not there within %v", patience))
	defer cancel()
	return s.open(ctx, at)
}

// settle waits until nothing is left of a system that would disturb the next one:
// goroutines, garbage, and what the file system has yet to write.
func (b *bench) settle(s system, before int) {
	const patience = 5 * time.Second
	for began := time.Now(); runtime.NumGoroutine() > before && time.Since(began) < patience; {
		time.Sleep(10 * time.Millisecond)
	}
	if left := runtime.NumGoroutine() - before; left > 0 {
		b.say("%s leaves %d goroutines behind", s.name, left)
	}
	debug.FreeOSMemory()
	syncDisks()
}
