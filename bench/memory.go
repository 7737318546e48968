package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/kvraft/kvraft"
)

const memoryPerKey = "memory per key of 16 B with a value of 100 B"

const keysEnv = "KVRAFT_BENCH_KEYS" // a keysConfig, as JSON

// keysConfig is for a process of its own: what another cluster has left on the heap
// would go away in the middle.
type keysConfig struct {
	System, Dir string
	Keys        int
}

// keyMemory measures what a key costs on the heap of one node.
func (b *bench) keyMemory(ctx context.Context, s system, n int) error {
	child, err := again(ctx, keysEnv, keysConfig{s.name, b.dir, n})
	if err != nil {
		return err
	}
	answer, err := child.Output()
	if err != nil {
		return fmt.Errorf("memory per key: %w", err)
	}
	var each float64
	if err := json.Unmarshal(answer, &each); err != nil {
		return fmt.Errorf("memory per key: %w", err)
	}
	b.figures.add(name{memoryPerKey, s.name, memory}, each)
	b.say("%s: %.0f B per key", s.name, each)
	return nil
}

// run prints the heap with so many keys, less the heap with next to none, by their
// number. What else the node keeps is the same both times. The keys come in no order,
// which is how trees are filled in practice.
func (k keysConfig) run(ctx context.Context) error {
	b := &bench{dir: k.Dir, say: func(string, ...any) {}}
	s := allSystems[slices.IndexFunc(allSystems, func(s system) bool { return s.name == k.System })]
	if s.name == kvraftName { // how much of the log a snapshot leaves in memory goes by the moment
		s = kvraftWith(func(int) []kvraft.Option {
			return []kvraft.Option{kvraft.WithSnapshots(kvraft.Snapshots{EveryBytes: 1 << 50})}
		})
	}
	keys := newKeys(k.Keys)
	rnd := rand.New(rand.NewPCG(1, 2))
	rnd.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	few := keys[:min(1000, len(keys)/2)]
	return b.with(ctx, s, 1, func(c cluster) error {
		if err := fillWindows(ctx, c, few); err != nil {
			return err
		}
		before := quietHeap()
		if err := errors.Join(preload(ctx, c, keys, newValue(100)), fillWindows(ctx, c, few)); err != nil {
			return err
		}
		after := quietHeap()
		runtime.KeepAlive(keys) // they are in both
		fmt.Println(float64(after-before) / float64(len(keys)-len(few)))
		return nil
	})
}

// fillWindows leaves a node with nothing but these writes in what it keeps of the
// latest ones: kvraft's cache of the log, its history for watchers and the requests it
// remembers, etcd's entries for slow followers.
func fillWindows(ctx context.Context, c cluster, keys []string) error {
	const bytes, filler, requests = 96 << 20, 512 << 10, 1 << 17
	if _, bounded := c.(*kvraftCluster); bounded { // by bytes; etcd counts entries
		if err := setEach(ctx, c, slices.Repeat([]string{"filler"}, bytes/filler), newValue(filler)); err != nil {
			return err
		}
	}
	return setEach(ctx, c, slices.Repeat(keys, requests/len(keys)+1), newValue(100))
}

// quietHeap is the heap without garbage, when it has not shrunk for a while: what the
// load has set off, a snapshot for example, is over.
func quietHeap() int64 {
	const pause, quiet, most = 250 * time.Millisecond, 6, 40
	last := liveHeap()
	for same, tries := 0, 0; same < quiet && tries < most; tries++ {
		time.Sleep(pause)
		now := liveHeap()
		if same++; now < last-last/100 {
			same = 0
		}
		last = now
	}
	return last
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC() // what the first has found, the second frees: finalizers and pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
