package kvraft_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// scale is how much of a long test to run: a tenth with -short or under the race
// detector, and any multiple in KVRAFT_SCALE.
func scale(t *testing.T, n int) int {
	t.Helper()
	if text := os.Getenv("KVRAFT_SCALE"); text != "" {
		factor, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatalf("KVRAFT_SCALE: %v", err)
		}
		return max(1, int(float64(n)*factor))
	}
	if testing.Short() || kvraft.Raced {
		return n / 10
	}
	return n
}

// few is how often to repeat what takes minutes of virtual time: n times, or a quarter of
// that with -short or under the race detector, and twice at the least.
func few(n int) int {
	if testing.Short() || kvraft.Raced {
		return max(2, n/4)
	}
	return n
}

// Clients on every node read and write a few keys while the network is cut, nodes
// crash, lose their disks, are slow or hand leadership over. What the clients saw
// must be linearizable, and at the end all replicas must be equal.
func TestHistoriesAreLinearizableUnderFaults(t *testing.T) {
	t.Parallel()
	const clusters, faultsEach = 10, 50 // 500 cuts, and other faults during half of them
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("KVRAFT_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("KVRAFT_SEED=%d", seed)
	total := 0
	for n := range scale(t, clusters) {
		history := kvrafttest.NewHistory()
		synctest.Test(t, func(t *testing.T) {
			chaos(t, rand.New(rand.NewPCG(seed, uint64(n))), history, few(faultsEach))
		})
		history.Check(t, time.Minute)
		total += history.Len()
		if t.Failed() {
			break
		}
	}
	t.Logf("%d calls in %d clusters", total, scale(t, clusters))
}

func chaos(t *testing.T, random *rand.Rand, history *kvrafttest.History, faults int) {
	nodes := 3 + 2*random.IntN(2)
	c := kvrafttest.New(t, nodes, kvraft.WithTiming(kvraft.Timing{Commit: 50 * time.Millisecond}),
		kvraft.WithSnapshots(kvraft.Snapshots{EveryBytes: 64 << 10, TrailingBytes: 16 << 10}))
	ctx, stop := context.WithCancel(t.Context())
	stores := make([]atomic.Pointer[kvraft.Store], nodes)
	for i := range stores {
		stores[i].Store(c.Store(i))
	}
	var clients sync.WaitGroup
	for i := range 3 * nodes {
		clientRandom := rand.New(rand.NewPCG(random.Uint64(), 0))
		clients.Go(func() { client(ctx, clientRandom, history, &stores[i%nodes], i) })
	}
	for range faults {
		time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
		cut(random, c)
		time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
		if random.IntN(2) == 0 {
			strike(t, random, c)
		}
		time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
		c.Heal()
		mend(c, stores)
	}
	c.Add() // a late member, and what it saw is compared at the end
	time.Sleep(3 * time.Second)
	stop()
	clients.Wait()
}

// client makes calls until ctx ends, on four keys that it shares with a few
// others.
func client(ctx context.Context, random *rand.Rand, history *kvrafttest.History, store *atomic.Pointer[kvraft.Store], number int) {
	const keys = 12
	seen := map[string]uint64{}
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprint("key-", (number+4*random.IntN(3))%keys)
		value := fmt.Sprintf("%d-%d", number, n)
		call, cancel := context.WithTimeout(ctx, time.Duration(1+random.IntN(8))*time.Second)
		switch random.IntN(10) {
		case 0, 1, 2, 3:
			if entry, err := history.Get(call, store.Load(), key); err == nil {
				seen[key] = entry.Version
			}
		case 4, 5:
			history.Set(call, store.Load(), key, value)
		case 6:
			history.SetIf(call, store.Load(), key, value, seen[key])
		case 7:
			history.Delete(call, store.Load(), key)
		case 8:
			history.Batch(call, store.Load(), map[string]string{key: value, fmt.Sprint("key-", random.IntN(keys)): value})
		case 9:
			history.View(call, store.Load(), key, fmt.Sprint("key-", random.IntN(keys)), fmt.Sprint("key-", random.IntN(keys)))
		}
		cancel()
		time.Sleep(time.Duration(random.IntN(85)) * time.Millisecond)
	}
}

// pick prefers the leader, as there is most to lose.
func pick(random *rand.Rand, c *kvrafttest.Cluster) (victim, other int) {
	victim = random.IntN(c.Len())
	if leader, ok := c.Leader(); ok && random.IntN(2) == 0 {
		victim = leader
	}
	return victim, (victim + 1 + random.IntN(c.Len()-1)) % c.Len()
}

// cut partitions the network, one way or the other.
func cut(random *rand.Rand, c *kvrafttest.Cluster) {
	victim, other := pick(random, c)
	switch random.IntN(5) {
	case 0, 1:
		c.Isolate(victim)
	case 2:
		c.Partition([]int{victim, other})
	case 3:
		c.Block(victim, other)
	case 4:
		for i := range c.Len() { // the victim is heard by nobody, or hears nobody
			if random.IntN(2) == 0 {
				c.Block(victim, i)
			} else {
				c.Block(i, victim)
			}
		}
	}
}

// strike does one more thing to the cluster, for as long as the cut lasts.
func strike(t *testing.T, random *rand.Rand, c *kvrafttest.Cluster) {
	victim, other := pick(random, c)
	switch random.IntN(6) {
	case 0:
		c.Crash(victim)
	case 1:
		c.Stop(victim)
	case 2:
		c.Crash(victim)
		c.Wipe(victim)
	case 3: // what the victim sends is late
		for i := range c.Len() {
			c.Network().SetDelay(fmt.Sprint("n", victim+1), fmt.Sprint("n", i+1), time.Duration(random.IntN(800))*time.Millisecond)
		}
	case 4: // a disk that is slow, or stands still for a while
		slow := []time.Duration{20 * time.Millisecond, 200 * time.Millisecond, 3 * time.Second}[random.IntN(3)]
		c.Disk(victim).SetFault(func(kvrafttest.Operation) error { time.Sleep(slow); return nil })
	case 5:
		if err := c.Store(victim).HandOverTo(c.Store(other)); err != nil {
			t.Logf("hand over: %v", err) // the cut may be between them
		}
	}
}

// mend undoes what Heal does not.
func mend(c *kvrafttest.Cluster, stores []atomic.Pointer[kvraft.Store]) {
	for i := range c.Len() {
		c.Disk(i).SetFault(nil)
		if !c.Up(i) {
			c.Restart(i)
			stores[i].Store(c.Store(i))
			c.WaitReady(i)
		}
	}
}
