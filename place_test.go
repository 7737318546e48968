package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// The leader and the original are on one side of a partition, the third node and the
// copy on the other. Both are two of three identities.
func TestACopyOfADataDirectoryGivesNoSideAMajority(t *testing.T) {
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, 3)
			leader := c.WaitLeader()
			original, other := (leader+1)%3, (leader+2)%3
			mustSet(t, c.Store(leader), "key", "value")
			c.Partition([]int{leader, original}, []int{other})
			duplicate := c.Copy(original)
			c.Partition([]int{leader, original}, []int{other, duplicate})
			time.Sleep(time.Minute)
			for _, i := range []int{other, duplicate} {
				if _, err := c.Store(i).Set(within(t, 10*time.Second), "key", []byte("on the side of the copy")); err == nil {
					t.Errorf("%s acknowledged a write on the side of the copy", c.Host(i))
				}
				if err := c.Store(i).Err(); err != nil {
					t.Errorf("%s has stopped, though it sees nobody else who could be the original: %v", c.Host(i), err)
				}
			}
			mustSet(t, c.Store(original), "key", "on the side of the original")
			c.Heal()
			wantStopped(t, c, duplicate)
			c.WaitReady(original, other)
			wantValue(t, c.Store(other), "key", "on the side of the original")
		})
	}
}

// wantStopped waits until a copy has been told that it is one.
func wantStopped(t *testing.T, c *kvrafttest.Cluster, i int) {
	t.Helper()
	eventually(t, "the copy stops", func() bool { return c.Store(i).Err() != nil })
	err := c.Store(i).Err()
	if !errors.Is(err, kvraft.ErrCopied) || !errors.Is(err, kvraft.ErrRefused) || !errors.Is(err, kvraft.ErrClosed) {
		t.Errorf("the copy stopped with %v", err)
	}
	if st := c.Store(i).Status(); st.State != kvraft.Stopped || !strings.Contains(st.Reason, "empty the data directory of the other") {
		t.Errorf("%+v", st)
	}
}

func TestACopyThatSeesItsOriginalStops(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, nodes)
			mustSet(t, c.Store(0), "key", "value")
			duplicate := c.Copy(0)
			wantStopped(t, c, duplicate)
			wantValue(t, c.Store(0), "key", "value")
		})
	}
}

// The copy is confirmed while nobody sees the original, which then is the one that has
// no place any more: whatever it has acknowledged before is with the others.
func TestTheOneThatIsConfirmedFirstKeepsThePlace(t *testing.T) {
	movesAlive(t)
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		original, other := (leader+1)%3, (leader+2)%3
		duplicate := c.Copy(original)
		wantStopped(t, c, duplicate)
		c.Isolate(other)
		mustSet(t, c.Store(leader), "key", "which the copy does not have")
		c.Heal()
		c.Isolate(original)
		duplicate = c.Copy(original)
		eventually(t, "the copy has the place", func() bool { return c.Store(duplicate).Status().Ready })
		wantValue(t, c.Store(duplicate), "key", "which the copy does not have")
		mustSet(t, c.Store(duplicate), "key", "after")
		c.Heal()
		eventually(t, "the original stops", func() bool { return errors.Is(c.Store(original).Err(), kvraft.ErrCopied) })
		wantValue(t, c.Store(other), "key", "after")
		c.Abandon()
	})
}

// Every permutation of the addresses of three nodes, and some of those of five.
func TestNodesThatComeBackWithEachOthersAddressesAreReady(t *testing.T) {
	movesAlive(t)
	random := rand.New(rand.NewPCG(seedOf(t), 0))
	for nodes, most := range map[int]int{2: 2, 3: 6, 5: scale(t, 10)} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, nodes)
				orders := permutations(nodes)
				random.Shuffle(len(orders), func(i, j int) { orders[i], orders[j] = orders[j], orders[i] })
				for n, order := range orders[:most] {
					key := fmt.Sprint("key-", n)
					mustSet(t, c.Store(n%nodes), key, "value")
					comeBack(t, c, order)
					wantValue(t, c.Store((n+1)%nodes), key, "value")
				}
			})
		})
	}
}

// comeBack stops all nodes and starts node i where node order[i] was.
func comeBack(t *testing.T, c *kvrafttest.Cluster, order []int) {
	t.Helper()
	for i := range order {
		c.Crash(i)
	}
	seen := make([]bool, len(order))
	for i := range order { // cycle by cycle
		var cycle []int
		for at := i; !seen[at]; at = order[at] {
			seen[at] = true
			cycle = append(cycle, at)
		}
		c.Exchange(cycle...)
	}
	for i := range order {
		c.Restart(i)
	}
	began := time.Now()
	for i := range order {
		c.WaitReady(i)
		if st := c.Store(i).Status(); st.Addr != c.Host(i)+":7000" {
			t.Errorf("%v: n%d is at %s, not at %s", order, i+1, st.Addr, c.Host(i))
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("%v: ready after %v", order, took)
	}
}

// permutations are all orders of the first n numbers.
func permutations(n int) (all [][]int) {
	if n == 0 {
		return [][]int{nil}
	}
	for _, shorter := range permutations(n - 1) {
		for at := range n {
			all = append(all, slices.Insert(slices.Clone(shorter), at, n-1))
		}
	}
	return all
}

// In clusters with copies of nodes that run no two sides acknowledge, and no version is
// given twice, whatever is cut, killed and moved; and at the end every node of the
// cluster is ready, and every copy has been told.
func TestHistoriesAreLinearizableWithCopiesAndExchangedAddresses(t *testing.T) {
	movesAlive(t)
	t.Parallel()
	const clusters, changesEach = 3, 16
	seed := seedOf(t)
	total, counts := 0, map[string]int{}
	for n := range scale(t, clusters) {
		history := kvrafttest.NewHistory()
		synctest.Test(t, func(t *testing.T) {
			p := newPlacesRun(t, rand.New(rand.NewPCG(seed, uint64(n))), counts)
			p.run(history, changesEach)
		})
		history.Check(t, time.Minute)
		total += history.Len()
		if t.Failed() {
			break
		}
	}
	t.Logf("%d calls in %d clusters; %v", total, scale(t, clusters), counts)
}

// placesRun is a cluster of which the nodes are copied and change their addresses. A
// copy may be asked as any node is.
type placesRun struct {
	*members
	copies map[int]int // of those that run: to their originals
}

func newPlacesRun(t *testing.T, random *rand.Rand, counts map[string]int) *placesRun {
	m := newMembersOf(t, random, 3+2*random.IntN(2))
	m.counts = counts
	return &placesRun{members: m, copies: map[int]int{}}
}

func (p *placesRun) run(history *kvrafttest.History, changes int) {
	ctx, stop := context.WithCancel(p.members.t.Context())
	var running sync.WaitGroup
	for i := range 9 {
		random := rand.New(rand.NewPCG(p.members.random.Uint64(), 0))
		running.Go(func() { p.members.client(ctx, random, history, i) })
	}
	for range changes {
		p.copyOne()
		p.cut()
		p.change()
		time.Sleep(time.Duration(p.members.random.IntN(20_000)) * time.Millisecond)
		p.mend()
	}
	stop()
	running.Wait()
}

// copyOne starts a copy of a node, half of the time. It is on the side of the partition
// that chance decides.
func (p *placesRun) copyOne() {
	if p.members.random.IntN(2) == 0 {
		return
	}
	original := p.members.random.IntN(p.size())
	if p.members.random.IntN(2) == 0 { // it shall not be seen at once
		p.members.Isolate(original)
	}
	p.members.did("copy", original)
	duplicate := p.members.Copy(original)
	p.copies[duplicate] = original
	p.members.refresh()
}

// size is the number of nodes without the copies.
func (p *placesRun) size() int { return len(p.members.list(func(int) bool { return true })) }

// cut divides the nodes and the copies at random.
func (p *placesRun) cut() {
	if p.members.random.IntN(3) == 0 {
		return
	}
	var sides [2][]int
	for i := range p.members.Len() {
		if p.members.Up(i) {
			side := p.members.random.IntN(2)
			sides[side] = append(sides[side], i)
		}
	}
	p.members.did("cut", sides[0]...)
	p.members.Partition(sides[0], sides[1])
}

// change kills nodes and starts some of them elsewhere. The original of a copy that runs
// goes on running: to the others a copy of a node that has died is that node.
func (p *placesRun) change() {
	free := p.members.list(func(i int) bool {
		for _, original := range p.copies {
			if original == i {
				return false
			}
		}
		return true
	})
	victim := free[p.members.random.IntN(len(free))]
	switch p.members.random.IntN(4) {
	case 0:
		p.members.down(victim)
	case 1:
		p.members.down(victim)
		p.members.did("move", victim)
		p.members.Move(victim)
		p.members.Restart(victim)
	case 2:
		p.members.random.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
		exchange := free[:1+p.members.random.IntN(len(free))]
		p.members.did("exchange", exchange...)
		for _, i := range exchange {
			p.kill(i)
		}
		p.members.Exchange(exchange...)
		for _, i := range exchange {
			p.members.Restart(i)
		}
	}
	p.members.refresh()
}

// kill crashes a node, however few are left.
func (p *placesRun) kill(i int) {
	p.members.mu.Lock()
	if len(p.members.stores) > 1 {
		delete(p.members.stores, i)
	}
	p.members.mu.Unlock()
	p.members.Crash(i)
}

// mend ends the faults. Of a node and its copy one is told then that it is the copy: the
// original, if the cluster has found the other in its place while it was cut off.
func (p *placesRun) mend() {
	p.members.Heal()
	for _, i := range p.members.list(func(i int) bool { return !p.members.Up(i) }) {
		p.members.Restart(i)
	}
	for duplicate, original := range p.copies {
		stopped := duplicate
		eventually(p.members.t, "one of the two is told", func() bool {
			if p.members.Store(original).Err() != nil {
				stopped = original
			}
			return p.members.Store(stopped).Err() != nil
		})
		if err := p.members.Store(stopped).Err(); !errors.Is(err, kvraft.ErrCopied) {
			p.members.t.Errorf("%s stopped with %v", p.members.Host(stopped), err)
		}
		p.members.mu.Lock()
		delete(p.members.stores, stopped)
		p.members.mu.Unlock()
		p.members.Stop(stopped)
		if stopped == original {
			p.members.did("the copy stays", original)
			p.members.Succeed(original, duplicate)
		}
		delete(p.copies, duplicate)
	}
	p.members.mend()
}

// The others know where a node that has moved is, but it does not know where they are: it
// has been given no address, and they have moved as well. They have called it.
func TestANodeAsksThoseWhoHaveCalledItForItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
		start := func(i int, host string, opts ...kvraft.Option) *kvraft.Store {
			s, err := kvraft.Open(dirs[i], append(opts, kvraft.WithID(fmt.Sprint("n", i)), kvraft.WithAddr(host+":1"), kvraft.WithNetwork(network.Host(host)))...)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		together := []kvraft.Option{kvraft.WithJoin("a:1", "b:1", "c:1"), kvraft.WithBootstrapExpect(3)}
		var stores []*kvraft.Store
		for i, host := range []string{"a", "b", "c"} {
			stores = append(stores, start(i, host, together...))
		}
		for _, s := range stores {
			eventually(t, "it is ready", func() bool { return s.Status().Ready })
		}
		for _, s := range stores {
			closeStore(t, s)
		}

		network.Block("late", "d")
		network.Block("late", "e")
		late := start(2, "late")
		elsewhere := kvraft.WithJoin("d:1", "e:1", "late:1")
		moved := []*kvraft.Store{start(0, "d", elsewhere), start(1, "e", elsewhere)}
		for _, s := range moved {
			eventually(t, "they are ready", func() bool { return s.Status().Ready })
		}
		network.Heal()
		eventually(t, "so is the one that is late", func() bool { return late.Status().Ready })
		for _, s := range append(moved, late) {
			closeStore(t, s)
		}
	})
}

// The one with the longest log does not know where another is that the third has confirmed,
// and the third is not confirmed yet: the two that have their places cannot elect anybody.
func TestANodeIsConfirmedAlthoughAMajorityHaveTheirPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		second, third := (leader+1)%3, (leader+2)%3
		c.Isolate(leader)
		ended, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := c.Store(leader).Set(ended, "key", []byte("in the log of one")); err == nil {
			t.Fatal("it was committed without the others")
		}
		for _, i := range []int{second, third} {
			c.Crash(i)
		}
		c.Isolate(third) // its old address is silent, which tells nothing
		for _, i := range []int{second, third} {
			c.Move(i)
			c.Restart(i)
		}
		eventually(t, "the second has its place", func() bool {
			return strings.HasPrefix(c.Store(second).Status().Reason, "no leader")
		})
		if reason := c.Store(third).Status().Reason; !strings.HasPrefix(reason, "waiting to be confirmed") {
			t.Fatalf("the third has its place, and the test shows nothing: %s", reason)
		}
		c.Heal()
		c.WaitReady(leader, second, third)
	})
}
