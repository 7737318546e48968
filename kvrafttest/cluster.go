package kvrafttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kvraft/kvraft"
)

// Cluster is a cluster of stores in one process, on a [Network] and on [Disk]s of
// its own. Nodes are numbered from 0; node i has the id and the host name "n1",
// "n2", ... for i = 0, 1, ..., and listens on port 7000. Move gives it another host.
//
// Store, Client, Len, Up, Leader and Network may be called from any goroutine, also
// while nodes come and go; the other methods are for one, that of the test. A method
// that cannot do its work fails the test.
type Cluster struct {
	tb      testing.TB
	network *Network
	dir     string
	opts    []kvraft.Option
	label   string // of the nodes' goroutines

	mu      sync.Mutex
	nodes   []*node       // written by the test's goroutine, with mu held
	changed chan struct{} // guarded by mu: closed and replaced when a node starts or ends

	abandoned bool
}

// node is one member: what stays of it across restarts, and the process.
type node struct {
	id    string
	host  string
	moves int
	gone  bool // removed from the cluster, or a copy
	opts  []kvraft.Option
	dir   string
	disk  *Disk

	inMemory bool // by kvraft.WithInMemory: the disk is not used

	store *kvraft.Store // nil while it is down; written by the test's goroutine, with Cluster.mu held
	last  *kvraft.Store // of its latest life; likewise
	alive *process
}

// New starts n nodes, with opts for each of them, and returns when all of them
// vote and are ready. Inside a [testing/synctest] bubble the cluster lives in
// virtual time: minutes of it take milliseconds, and what waits for a timeout
// does not wait.
//
// When the test ends, New's cleanup ends all faults, restarts the nodes that are
// down, waits until all nodes hold the same state at the same log index, closes
// them, and makes sure that none of their goroutines is left. Each of these
// fails the test if it cannot be had.
func New(tb testing.TB, n int, opts ...kvraft.Option) *Cluster {
	tb.Helper()
	c := &Cluster{
		tb:      tb,
		network: NewNetwork(),
		dir:     tb.TempDir(),
		opts:    opts,
		changed: make(chan struct{}),
	}
	c.label = fmt.Sprintf("%p", c)
	tb.Cleanup(c.finish)
	for range n {
		c.Add()
	}
	return c
}

// Add starts one more node, with opts beside those of New, which joins the others,
// and returns its number when it is ready.
func (c *Cluster) Add(opts ...kvraft.Option) int {
	c.tb.Helper()
	i := c.Launch(opts...)
	c.WaitReady(i)
	return i
}

// Launch is Add without waiting for the node to be ready.
func (c *Cluster) Launch(opts ...kvraft.Option) int {
	c.tb.Helper()
	i := len(c.nodes)
	id := fmt.Sprintf("n%d", i+1)
	c.include(&node{id: id, host: id, opts: opts, dir: filepath.Join(c.dir, id), disk: NewDisk()})
	c.start(i)
	return i
}

// include adds a node that has yet to start.
func (c *Cluster) include(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, n)
}

// started notes the store of a node that has started, and ended that it has none.
func (c *Cluster) started(n *node, store *kvraft.Store) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.store, n.last = store, store
	c.tell()
}

func (c *Cluster) ended(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.store = nil
	c.tell()
}

// tell lets those look again that wait for a node to start; mu is held.
func (c *Cluster) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// running is the store of node i, nil while it is down, and closed when that may have
// changed.
func (c *Cluster) running(i int) (store *kvraft.Store, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].store, c.changed
}

// runs is the store of node i for what needs a node that is up.
func (c *Cluster) runs(i int) *kvraft.Store {
	c.tb.Helper()
	store, _ := c.running(i)
	if store == nil {
		c.tb.Fatalf("node %s is down", c.nodes[i].id)
	}
	return store
}

func (c *Cluster) start(i int) {
	c.tb.Helper()
	n := c.nodes[i]
	n.alive = &process{host: c.network.Host(n.host), buried: make(chan struct{})}
	own := []kvraft.Option{kvraft.WithID(n.id), kvraft.WithAddr(n.host + ":7000"), kvraft.WithNetwork(n.alive)}
	rest := slices.Concat(c.opts, n.opts)
	if peers := c.peers(i); len(peers) > 0 { // else it is the first, and forms the cluster
		rest = append(rest, kvraft.WithJoin(peers...))
	}
	var store *kvraft.Store
	var err error
	pprof.Do(context.Background(), pprof.Labels("kvrafttest", c.label), func(context.Context) {
		if !n.inMemory {
			store, err = kvraft.Open(n.dir, slices.Concat(own, []kvraft.Option{kvraft.WithLogStore(n.disk.Open())}, rest)...)
		}
		if n.inMemory || n.last == nil && errors.Is(err, kvraft.ErrInvalid) { // that has no disk, if it is what was asked for
			other, otherErr := kvraft.Open(n.dir, slices.Concat(own, []kvraft.Option{kvraft.WithInMemory()}, rest)...)
			if otherErr == nil || n.inMemory {
				store, err, n.inMemory = other, otherErr, true
			}
		}
	})
	if err != nil {
		c.tb.Fatalf("start node %s: %v", n.id, err)
	}
	c.started(n, store)
}

func (c *Cluster) peers(except int) []string {
	var addrs []string
	for i, n := range c.nodes {
		if i != except && !n.gone {
			addrs = append(addrs, n.host+":7000")
		}
	}
	return addrs
}

// Len returns the number of nodes, those that are down and those that were removed
// included.
func (c *Cluster) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.nodes)
}

// Store returns the store of node i. A restart replaces it: while the node is down it is
// the one before, of which each call fails with [kvraft.ErrClosed]. See Client for calls
// that follow the node.
func (c *Cluster) Store(i int) *kvraft.Store {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].last
}

// Network returns the network, for faults that Cluster has no method for. Hosts
// go by the names that Host returns.
func (c *Cluster) Network() *Network { return c.network }

// Host returns the name of the host that node i is on: its id, unless it has moved.
func (c *Cluster) Host(i int) string { return c.nodes[i].host }

// Disk returns the disk of node i, for faults in its log store.
func (c *Cluster) Disk(i int) *Disk { return c.nodes[i].disk }

// Up reports whether node i is running.
func (c *Cluster) Up(i int) bool {
	store, _ := c.running(i)
	return store != nil
}

// Leader returns the number of the node that leads: of those that believe to, the
// one with the highest term. It is false when none does.
func (c *Cluster) Leader() (int, bool) {
	leader, term := -1, uint64(0)
	for i := range c.Len() {
		store, _ := c.running(i)
		if store == nil {
			continue
		}
		if st := store.Status(); st.State == kvraft.Leading && st.Term > term {
			leader, term = i, st.Term
		}
	}
	return leader, leader >= 0
}

// WaitLeader waits until a node leads and is ready to serve, and returns its
// number. A leader that was cut off a moment ago may be returned until its lease
// ends; to wait for its successor use WaitLeaderOtherThan.
func (c *Cluster) WaitLeader() int {
	c.tb.Helper()
	return c.WaitLeaderOtherThan(-1)
}

// WaitLeaderOtherThan is WaitLeader for any node but i.
func (c *Cluster) WaitLeaderOtherThan(i int) int {
	c.tb.Helper()
	leader := -1
	c.wait("a leader", func() string {
		var ok bool
		if leader, ok = c.Leader(); !ok || leader == i {
			return "there is none"
		}
		return c.Store(leader).Status().Reason
	})
	return leader
}

// WaitReady waits until the given nodes are ready.
func (c *Cluster) WaitReady(nodes ...int) {
	c.tb.Helper()
	for _, i := range nodes {
		c.wait(c.nodes[i].id, func() string { return c.Store(i).Status().Reason })
	}
}

// WaitConverged waits until all running nodes hold the same state at the same log
// index.
func (c *Cluster) WaitConverged() {
	c.tb.Helper()
	c.wait("equal states", func() string {
		index, sum, first := uint64(0), [32]byte{}, true
		for _, n := range c.nodes {
			if n.store == nil || n.gone {
				continue
			}
			i, h := n.store.Hash()
			switch {
			case first:
				index, sum, first = i, h, false
			case i != index:
				return fmt.Sprintf("%s is at log index %d, another node at %d", n.id, i, index)
			case h != sum:
				c.tb.Fatalf("the states differ at log index %d", index)
			}
		}
		return ""
	})
}

// patience is how long anything is waited for.
const patience = 2 * time.Minute

// wait polls; missing says what is missing, and "" that nothing is.
func (c *Cluster) wait(what string, missing func() string) {
	c.tb.Helper()
	const poll = 2 * time.Millisecond
	began := time.Now()
	for {
		reason := missing()
		if reason == "" {
			return
		}
		if time.Since(began) > patience {
			c.tb.Fatalf("waited %v for %s: %s\n%s", patience, what, reason, c.describe())
		}
		time.Sleep(poll)
	}
}

// describe is what the nodes know, a line for each.
func (c *Cluster) describe() string {
	var lines []string
	for _, n := range c.nodes {
		switch {
		case n.gone:
		case n.store == nil:
			lines = append(lines, n.id+" is down")
		default:
			lines = append(lines, fmt.Sprintf("%s on %s: %+v", n.id, n.host, n.store.Status()))
		}
	}
	return strings.Join(lines, "\n")
}

// Abandon makes the cleanup leave out the check that all nodes come to hold the
// same state, for a test that ends with a cluster that cannot have a leader.
func (c *Cluster) Abandon() { c.abandoned = true }

// finish is the check at the end of every test.
func (c *Cluster) finish() {
	c.Heal()
	for i := range c.nodes {
		c.Resume(i)
	}
	defer c.checkGoroutines()
	defer c.stopAll()
	if c.tb.Failed() || c.abandoned {
		return // more failures would only hide the first
	}
	for i, n := range c.nodes {
		if n.gone {
			continue
		}
		n.disk.SetFault(nil)
		if n.store != nil && n.store.Err() != nil { // stopped by a fault of its disk
			c.Stop(i)
		}
		if n.store == nil {
			c.Restart(i)
		}
	}
	c.WaitLeader()
	for i, n := range c.nodes {
		if !n.gone {
			c.WaitReady(i)
		}
	}
	c.WaitConverged()
}

func (c *Cluster) stopAll() {
	for _, n := range c.nodes {
		if n.store == nil {
			continue
		}
		if err := n.store.Close(); err != nil {
			c.tb.Errorf("close node %s: %v", n.id, err)
		}
		c.ended(n)
	}
}

// checkGoroutines finds the cluster's goroutines by the label that they inherit.
// A goroutine that Close has waited for may take a moment to be gone.
func (c *Cluster) checkGoroutines() {
	var left string
	for range 1000 {
		if left = goroutines(c.label); left == "" {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.tb.Errorf("goroutines are left after all nodes were closed:\n%s", left)
}

func goroutines(label string) string {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return err.Error()
	}
	var left []string
	for _, stack := range strings.Split(profile.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("%q:%q", "kvrafttest", label)) {
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}

// process is one life of a node on its host. When it is dead it reaches nobody.
type process struct {
	host   *Host
	dead   atomic.Bool
	buried chan struct{} // closed when its connections are reset: nobody hears any more that it is dead
}

var errDead = &net.OpError{Op: "dial", Net: "kvrafttest", Err: syscall.ENETDOWN}

func (p *process) Listen(addr string) (net.Listener, error) { return p.host.Listen(addr) }

func (p *process) Dial(ctx context.Context, addr string) (net.Conn, error) {
	var conn net.Conn
	var err error
	if !p.dead.Load() {
		conn, err = p.host.Dial(ctx, addr)
	}
	if !p.dead.Load() {
		return conn, err
	}
	<-p.buried
	if conn != nil {
		return nil, errors.Join(errDead, conn.Close())
	}
	return nil, errDead
}
