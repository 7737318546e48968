// Package memnet is a network in memory, for tests: hosts listen and dial on it, and it can be cut, slowed and healed. It
// knows nothing of stores, so that tests inside kvraft use it as well; those of other programs have it as package
// kvrafttest's.
//
// [Network] tells how a connection behaves, and [Host] is what a program listens and dials on. Everything is under the one
// lock of a Network, which is never held while a call waits, and no goroutine is started.
package memnet

import (
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	defaultLatency = 500 * time.Microsecond
	defaultWindow  = 64 << 10

	backlog        = 1024  // connections a listener holds that nobody has accepted
	firstEphemeral = 49152 // ports from here on are picked for dials and for Listen on port 0
	lastEphemeral  = 65535
)

// Network is an in-memory network of named hosts that can be cut, slowed and healed. Each host's view of it, [Network.Host],
// is what a store takes as its network: it listens and dials there, and everything between two hosts goes over the edges of
// this Network, one for each direction.
//
// A connection is a reliable ordered stream of bytes each way, as TCP is:
//
//   - Bytes arrive one latency after they were written, in order. Each direction holds at most one window of bytes that were
//     written and not yet read; a Write that does not fit waits.
//   - A cut edge stalls. It never loses, repeats or reorders a byte: what was on its way when the edge was cut and what was
//     written during the cut arrives, in order, at the moment the edge opens. What had arrived before the cut can be read
//     during it. Acknowledgements are not modelled: bytes of the open direction flow although the other one is cut.
//   - Close lets what was written arrive; after it the peer reads [io.EOF], and its writes fail with [syscall.ECONNRESET].
//     Where there is more to read, a method CloseWrite ends one direction, and not the other.
//   - A reset, by [Network.Reset] or [Network.Sever], arrives behind the bytes sent before it; then the peer's reads and
//     writes fail with [syscall.ECONNRESET].
//   - The news of a Close or a reset travels as bytes do: it takes the latency, and it stalls on a cut edge, so that a host
//     that died behind a partition looks merely silent until the partition heals.
//   - Deadlines and Close wake blocked calls. Errors are a [*net.OpError] around [os.ErrDeadlineExceeded], [net.ErrClosed]
//     or [syscall.ECONNRESET], except for io.EOF, which is returned as it is.
//
// [Network.GoDark] is the one fault that loses bytes: those of the connections that it is about, for ever.
//
// Cuts lie over each other: an edge is open when no [Network.Partition], [Network.Block] or [Network.Isolate] cuts it, and
// [Network.Heal] removes them all. They go by host name and hold for hosts that appear later. Nothing cuts a host from itself.
//
// A Network starts no goroutine and holds no lock while a call waits, so it runs under testing/synctest, where latencies and
// deadlines cost no real time; create it inside the bubble. Its methods may be called from any goroutine at any time.
type Network struct {
	latency time.Duration
	window  int

	mu       sync.Mutex // guards what follows and all hosts, edges, listeners and connections; never held while waiting
	hosts    map[string]*Host
	edges    map[route]*edge
	groups   [][]string
	blocked  map[route]bool
	isolated map[string]bool
	lastPort int
}

// A Option sets a property of a whole [Network].
type Option func(*Network)

// WithLatency sets how long bytes take over an edge that has no delay of its own; the default is 500 µs, a negative one is 0.
func WithLatency(d time.Duration) Option { return func(n *Network) { n.latency = max(d, 0) } }

// WithWindow sets how many bytes each direction of a connection holds that were written and not yet read. The default is
// 64 KiB, the least is 1.
func WithWindow(bytes int) Option { return func(n *Network) { n.window = max(bytes, 1) } }

// New returns a healthy network without hosts: they come into being when they are named.
func New(opts ...Option) *Network {
	n := &Network{
		latency:  defaultLatency,
		window:   defaultWindow,
		hosts:    map[string]*Host{},
		edges:    map[route]*edge{},
		blocked:  map[route]bool{},
		isolated: map[string]bool{},
		lastPort: lastEphemeral,
	}
	for _, opt := range opts {
		opt(n)
	}
	return n
}

// Host returns the network as the process on the named host sees it. Calls with one name return the same Host until
// [Network.Reset] ends that process; the next call returns the Host of its successor.
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[name]
	if h == nil {
		h = &Host{network: n, name: name, listeners: map[int]*listener{}}
		n.hosts[name] = h
	}
	return h
}

// Partition replaces the previous partition: from now on two hosts reach each other only if some group names both. The hosts
// that no group names form one more group. A host in several groups is a bridge between them. Partition without groups
// removes the partition; blocked edges and isolated hosts stay as they are.
func (n *Network) Partition(groups ...[]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.groups = nil
	for _, g := range groups {
		n.groups = append(n.groups, slices.Clone(g))
	}
	n.rewire()
}

// Block cuts one direction: what from sends to to stalls, and what to sends to from flows. Dials between the two hang.
func (n *Network) Block(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blocked[route{from, to}] = true
	n.rewire()
}

// Unblock undoes [Network.Block] of that direction, and nothing else.
func (n *Network) Unblock(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.blocked, route{from, to})
	n.rewire()
}

// Isolate cuts a host off from all others, both ways, until [Network.Heal].
func (n *Network) Isolate(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isolated[host] = true
	n.rewire()
}

// Exhaust leaves the process on a host without file descriptors, until [Network.Heal] or [Network.Reset]: it accepts no
// connection, though others make them, as their systems do, and unless dials it makes none either. Both fail with
// [syscall.EMFILE]. What it has open goes on.
func (n *Network) Exhaust(host string, dials bool) {
	h := n.Host(host)
	n.mu.Lock()
	defer n.mu.Unlock()
	h.deaf, h.mute = true, !dials
}

// Heal removes every partition, block, isolation and delay, lets large packets through and gives file descriptors back. What was stalled arrives at once, what was on its way within one
// latency of the network. Connections that were reset stay so.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.groups = nil
	clear(n.blocked)
	clear(n.isolated)
	for _, h := range n.hosts {
		h.deaf, h.mute = false, false
	}
	n.rewire()
	latest := time.Now().Add(n.latency)
	for _, e := range n.edges {
		e.delay, e.largest = n.latency, 0
		e.hurry(latest)
	}
}

// SetDelay sets the latency of one direction for the bytes written from now on, until [Network.Heal]; a negative one is 0.
// Bytes of one connection stay in order: behind slow ones that were written earlier, later ones wait.
func (n *Network) SetDelay(from, to string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.edge(route{from, to}).delay = max(d, 0)
}

// DropLarge loses large packets of one direction, until [Network.Heal], as a path does whose MTU is smaller than its ends
// believe: a Write of more than so many bytes stalls its connection in that direction, with all that follows it, while the
// other direction, other connections and new ones go on. Healed, what was stalled arrives.
func (n *Network) DropLarge(from, to string, over int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.edge(route{from, to}).largest = max(over, 1)
}

// Reset ends the process on a host, as kill -9 does: its listeners close and its ends of all connections fail at once with
// [syscall.ECONNRESET], peers learn of that as the edges allow, and dials to it are refused until a successor listens. Its
// [Host] is of no use any more, so that what is left of the process in memory reaches nobody; the successor takes a new one
// from [Network.Host]. Cuts and delays stay.
func (n *Network) Reset(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[host]
	if h == nil {
		return
	}
	delete(n.hosts, host)
	h.dead = true
	h.resume()
	for _, l := range h.listeners {
		l.shut()
	}
	for r, e := range n.edges {
		if r.to == host {
			e.abort()
		}
		if r.to == host || r.from == host {
			e.announce()
		}
	}
}

// Sever resets the connections between two hosts, as a firewall does that lost its table: each end learns of it over the
// edge from the other. New connections are possible at once.
func (n *Network) Sever(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for c := range n.edge(route{a, b}).ends { // b's ends; a connection without one is at its end anyway
		c.in.finish(syscall.ECONNRESET, now)
		c.out.finish(syscall.ECONNRESET, now)
	}
}

// Pause stops the process on a host as SIGSTOP does, as far as the network goes, until [Network.Resume] or [Network.Reset]:
// its calls of Read, Write and Accept wait, deadlines or not, and those of Dial until their context ends; what it closes
// stays open for others. Its system goes on: what was written arrives, others connect, and what they send waits in the
// window.
func (n *Network) Pause(host string) {
	h := n.Host(host)
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.resumed == nil {
		h.resumed = make(chan struct{})
	}
}

// Resume lets a paused process go on.
func (n *Network) Resume(host string) {
	h := n.Host(host)
	n.mu.Lock()
	defer n.mu.Unlock()
	h.resume()
	for r, e := range n.edges {
		if r.to != host {
			continue
		}
		for c := range e.ends {
			c.wake()
		}
	}
}

// GoDark loses in silence, for good, what is sent over the connections that are open now between two hosts, either way, with
// the news of their ends: a firewall between the two has lost its table, and drops what belongs to no connection that it
// knows. New connections work at once.
func (n *Network) GoDark(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for _, r := range []route{{a, b}, {b, a}} {
		for c := range n.edge(r).ends {
			c.in.darken(now)
			c.out.darken(now)
			c.wake()
		}
	}
}

// edge returns the edge of a route; mu is held.
func (n *Network) edge(r route) *edge {
	e := n.edges[r]
	if e == nil {
		e = &edge{delay: n.latency, cut: n.cuts(r), ends: map[*conn]struct{}{}}
		n.edges[r] = e
	}
	return e
}

// rewire brings every edge in line with the cuts; mu is held.
func (n *Network) rewire() {
	now := time.Now()
	for r, e := range n.edges {
		e.setCut(n.cuts(r), now)
	}
}

func (n *Network) cuts(r route) bool {
	if r.from == r.to {
		return false
	}
	return n.blocked[r] || n.isolated[r.from] || n.isolated[r.to] || n.separates(r)
}

func (n *Network) separates(r route) bool {
	named := false
	for _, g := range n.groups {
		from, to := slices.Contains(g, r.from), slices.Contains(g, r.to)
		if from && to {
			return false
		}
		named = named || from || to
	}
	return named
}

// connect makes a connection between a host and a listener, which finds its end in the backlog.
func (n *Network) connect(h *Host, to address) (*conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.dead {
		return nil, net.ErrClosed
	}
	peer := n.hosts[to.host]
	if peer == nil {
		return nil, syscall.ECONNREFUSED
	}
	l := peer.listeners[to.port]
	if l == nil || len(l.backlog) == cap(l.backlog) {
		return nil, syscall.ECONNREFUSED
	}
	port, err := h.freePort()
	if err != nil {
		return nil, err
	}
	near, far := newConns(h, peer, address{h.name, port}, to)
	l.backlog <- far // has room: only connect adds to it, with mu held
	return near, nil
}
