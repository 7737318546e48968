package kvraft_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// Nodes join, are removed, lead, crash, lose their disks and move to other
// addresses, one thing in the middle of another, while the network is cut and
// clients read and write. What the clients saw must be linearizable; no term may
// have two leaders; there must be one cluster; and at the end all replicas must be
// equal.
func TestHistoriesAreLinearizableWhileTheMembershipChanges(t *testing.T) {
	t.Parallel()
	const clusters, changesEach = 10, 30
	seed := seedOf(t)
	total, counts := 0, map[string]int{}
	for n := range scale(t, clusters) {
		history := kvrafttest.NewHistory()
		synctest.Test(t, func(t *testing.T) {
			m := newMembers(t, rand.New(rand.NewPCG(seed, uint64(n))))
			m.run(history, changesEach)
			for what, times := range m.counts {
				counts[what] += times
			}
		})
		history.Check(t, time.Minute)
		total += history.Len()
		if t.Failed() {
			break
		}
	}
	t.Logf("%d calls in %d clusters; %v", total, scale(t, clusters), counts)
}

// seedOf is a new seed, or that of an earlier run.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("KVRAFT_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("KVRAFT_SEED=%d", seed)
	return seed
}

// member.Members is a cluster whose membership changes.
type members struct {
	*kvrafttest.Cluster
	t      *testing.T
	random *rand.Rand
	counts map[string]int // of the changes
	story  []string       // what was done, for when it fails

	mu      sync.Mutex
	stores  map[int]*kvraft.Store // guarded by mu: those that are up
	cluster string                // guarded by mu

	terms   sync.Mutex
	leaders map[uint64]raft.ServerID // guarded by terms: by term
}

func newMembers(t *testing.T, random *rand.Rand) *members { return newMembersOf(t, random, 3) }

func newMembersOf(t *testing.T, random *rand.Rand, nodes int) *members {
	m := &members{t: t, random: random, counts: map[string]int{}, stores: map[int]*kvraft.Store{}, leaders: map[uint64]raft.ServerID{}}
	m.Cluster = kvrafttest.New(t, nodes, kvraft.WithTiming(kvraft.Timing{Commit: 50 * time.Millisecond}),
		kvraft.WithSnapshots(kvraft.Snapshots{EveryBytes: 16 << 10, TrailingBytes: 4 << 10}))
	m.refresh()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(strings.Join(m.story, "; "))
		}
	})
	return m
}

func (m *members) did(what string, nodes ...int) {
	m.counts[what]++
	m.story = append(m.story, what)
	for _, i := range nodes {
		m.story[len(m.story)-1] += fmt.Sprint(" n", i+1)
	}
}

// refresh lets the clients and the watcher see which nodes are up.
func (m *members) refresh() {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := slices.Collect(maps.Values(m.stores))
	clear(m.stores)
	for i := range m.Len() {
		if !m.Up(i) {
			continue
		}
		m.stores[i] = m.Store(i)
		if !slices.Contains(old, m.stores[i]) {
			m.follow(m.stores[i])
		}
	}
}

// follow looks for a second leader in a term. The observer runs in raft's own
// goroutine, at the moment at which the node becomes the leader.
func (m *members) follow(s *kvraft.Store) {
	server := s.ServerID()
	s.Raft().RegisterObserver(raft.NewObserver(nil, false, func(o *raft.Observation) bool {
		if state, ok := o.Data.(raft.RaftState); !ok || state != raft.Leader {
			return false
		}
		term := o.Raft.CurrentTerm()
		m.terms.Lock()
		defer m.terms.Unlock()
		if other := m.leaders[term]; other != "" {
			m.t.Errorf("%s and %s led in term %d", other, server, term)
		}
		m.leaders[term] = server
		return false
	}))
}

func (m *members) run(history *kvrafttest.History, changes int) {
	ctx, stop := context.WithCancel(m.t.Context())
	var running sync.WaitGroup
	running.Go(func() { m.watch(ctx) })
	for i := range 9 {
		random := rand.New(rand.NewPCG(m.random.Uint64(), 0))
		running.Go(func() { m.client(ctx, random, history, i) })
	}
	for range changes {
		m.disturb()
		m.change()
		time.Sleep(time.Duration(m.random.IntN(1000)) * time.Millisecond)
		m.mend()
	}
	stop()
	running.Wait()
}

// watch looks for a second cluster.
func (m *members) watch(ctx context.Context) {
	for ctx.Err() == nil {
		m.mu.Lock()
		for _, s := range m.stores {
			m.look(s)
		}
		m.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
	}
}

func (m *members) look(s *kvraft.Store) {
	st := s.Status()
	if m.cluster == "" {
		m.cluster = st.Cluster
	}
	if st.Cluster != "" && st.Cluster != m.cluster {
		m.t.Errorf("%s is in cluster %s, others in %s", st.ID, st.Cluster, m.cluster)
	}
}

// any is one of the nodes that are up.
func (m *members) any(random *rand.Rand) *kvraft.Store {
	m.mu.Lock()
	defer m.mu.Unlock()
	up := slices.Sorted(maps.Keys(m.stores))
	return m.stores[up[random.IntN(len(up))]]
}

func (m *members) client(ctx context.Context, random *rand.Rand, history *kvrafttest.History, number int) {
	seen := map[string]uint64{}
	for n := 0; ctx.Err() == nil; n++ {
		key, value := fmt.Sprint("key-", (number+random.IntN(4))%9), fmt.Sprintf("%d-%d", number, n)
		call, cancel := context.WithTimeout(ctx, time.Duration(1+random.IntN(8))*time.Second)
		store := m.any(random)
		switch random.IntN(6) {
		case 0, 1, 2:
			if entry, err := history.Get(call, store, key); err == nil {
				seen[key] = entry.Version
			}
		case 3, 4:
			history.Set(call, store, key, value)
		case 5:
			history.SetIf(call, store, key, value, seen[key])
		}
		cancel()
		time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
	}
}

// disturb cuts a node off for the time of a change, or one way, or nobody.
func (m *members) disturb() {
	up := m.list(m.Up)
	a, b := up[m.random.IntN(len(up))], up[m.random.IntN(len(up))]
	switch m.random.IntN(6) {
	case 0:
		m.did("isolate", a)
		m.Isolate(a)
	case 1:
		m.did("block", a, b)
		m.Block(a, b)
	}
}

func (m *members) list(is func(int) bool) (nodes []int) {
	for i := range m.Len() {
		if !m.Removed(i) && is(i) {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

func (m *members) isVoter(i int) bool { return m.Up(i) && m.Store(i).Status().Voter }

// change begins a change and often does another before it is over.
func (m *members) change() {
	here := m.list(func(int) bool { return true })
	victim := here[m.random.IntN(len(here))]
	if leader, ok := m.Leader(); ok && m.random.IntN(2) == 0 {
		victim = leader
	}
	switch kind := m.random.IntN(6); {
	case kind == 0 && len(here) < 7:
		m.did("join")
		var opts []kvraft.Option
		if m.random.IntN(4) == 0 {
			opts = append(opts, kvraft.WithReplica())
		}
		i := m.Launch(opts...)
		m.refresh()
		if m.random.IntN(4) == 0 {
			m.did("join as a replica", i)
			ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
			defer cancel()
			joining := make(chan struct{})
			defer func() { <-joining }()
			through := m.any(m.random)
			go func() {
				defer close(joining)
				_ = through.Join(ctx, fmt.Sprint("n", i+1), fmt.Sprintf("n%d:7000", i+1), kvraft.Replica) // it may be a voter already
			}()
		}
		if m.random.IntN(2) == 0 {
			time.Sleep(time.Duration(m.random.IntN(20)) * time.Millisecond)
			m.down(victim)
		}
	case kind == 1 && len(m.list(m.isVoter)) > 3:
		m.did("remove", victim)
		m.remove(victim)
	case kind == 2:
		m.did("transfer to", victim)
		ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Second)
		defer cancel()
		if err := m.any(m.random).TransferLeadership(ctx, fmt.Sprint("n", victim+1)); err != nil {
			m.did("which could not be")
		}
	case kind == 3:
		m.down(victim)
		m.did("wipe", victim)
		m.Wipe(victim)
	case kind == 4 && !kvraft.Raced: // see movesAlive
		m.down(victim)
		m.did("move", victim)
		m.Move(victim)
	default:
		m.down(victim)
	}
}

func (m *members) down(i int) {
	if len(m.list(m.Up)) < 2 {
		return // somebody must be left to call
	}
	m.mu.Lock()
	delete(m.stores, i)
	m.mu.Unlock()
	if m.random.IntN(3) == 0 {
		m.did("stop", i)
		m.Stop(i)
	} else {
		m.did("crash", i)
		m.Crash(i)
	}
}

// remove asks for a removal, and now and then kills the leader in its middle.
func (m *members) remove(i int) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	defer cancel()
	through := m.any(m.random)
	asked := make(chan error, 1)
	var opts []kvraft.RemoveOption
	if m.random.IntN(3) == 0 {
		m.did("which may return")
		opts = append(opts, kvraft.MayReturn)
	}
	go func() { asked <- through.Remove(ctx, fmt.Sprint("n", i+1), opts...) }()
	time.Sleep(time.Duration(m.random.IntN(10)) * time.Millisecond)
	if leader, ok := m.Leader(); ok && leader != i && m.random.IntN(2) == 0 {
		m.down(leader)
	}
	<-asked // whatever it was: it is asked for again
	m.mend(i)
	m.Remove(i)
	m.refresh()
}

// mend ends the faults and waits until all are well, but for those that are being
// removed.
func (m *members) mend(removing ...int) {
	m.did("mend")
	m.Heal()
	for _, i := range m.list(func(i int) bool { return !m.Up(i) }) {
		m.Restart(i)
	}
	m.refresh()
	for _, i := range m.list(m.Up) {
		if !slices.Contains(removing, i) {
			m.WaitReady(i)
		}
	}
}
