package kvrafttest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
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

// A NetworkOption sets a property of a whole [Network].
type NetworkOption func(*Network)

// WithLatency sets how long bytes take over an edge that has no delay of its own; the default is 500 µs, a negative one is 0.
func WithLatency(d time.Duration) NetworkOption { return func(n *Network) { n.latency = max(d, 0) } }

// WithWindow sets how many bytes each direction of a connection holds that were written and not yet read. The default is
// 64 KiB, the least is 1.
func WithWindow(bytes int) NetworkOption { return func(n *Network) { n.window = max(bytes, 1) } }

// NewNetwork returns a healthy network without hosts: they come into being when they are named.
func NewNetwork(opts ...NetworkOption) *Network {
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

// Host is the network as one process on one host sees it. It satisfies the network seam of a store. After [Network.Reset] of
// its name, Listen and Dial fail with [net.ErrClosed].
type Host struct {
	network *Network
	name    string

	// guarded by network.mu
	dead      bool
	deaf      bool          // it accepts nothing
	mute      bool          // it dials nobody
	resumed   chan struct{} // closed when it goes on; nil: it is not paused
	late      []func()      // what it did while it was paused, for others to hear of afterwards
	listeners map[int]*listener
}

// resume ends a pause; mu is held.
func (h *Host) resume() {
	if h.resumed == nil {
		return
	}
	close(h.resumed)
	h.resumed = nil
	for _, f := range h.late {
		f()
	}
	h.late = nil
}

// awaitResumed returns when the host is not paused, or false when giveUp is closed before.
func (h *Host) awaitResumed(giveUp <-chan struct{}) bool {
	for {
		h.network.mu.Lock()
		resumed := h.resumed
		h.network.mu.Unlock()
		if resumed == nil {
			return true
		}
		select {
		case <-resumed:
		case <-giveUp:
			return false
		}
	}
}

// Listen opens a listener at "host:port", where the host is this one's name or empty; port 0 picks a free one. It fails with
// [syscall.EADDRINUSE] when the port is taken and [syscall.EADDRNOTAVAIL] for another host's name. The network address of
// listeners and connections is named "mem".
//
// A listener that holds 1024 connections nobody accepted refuses more; closing it resets those.
func (h *Host) Listen(addr string) (net.Listener, error) {
	at, err := parseAddress(addr)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: at.Network(), Err: err}
	}
	if at.host == "" {
		at.host = h.name
	}
	l, err := h.listen(at)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: at.Network(), Addr: at, Err: err}
	}
	return l, nil
}

func (h *Host) listen(at address) (*listener, error) {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	if h.dead {
		return nil, net.ErrClosed
	}
	if at.host != h.name {
		return nil, syscall.EADDRNOTAVAIL
	}
	if h.listeners[at.port] != nil {
		return nil, syscall.EADDRINUSE
	}
	if at.port == 0 {
		port, err := h.freePort()
		if err != nil {
			return nil, err
		}
		at.port = port
	}
	l := &listener{host: h, at: at, backlog: make(chan *conn, backlog), closed: make(chan struct{})}
	h.listeners[at.port] = l
	return l, nil
}

// freePort returns the next ephemeral port on which the host does not listen; mu is held.
func (h *Host) freePort() (int, error) {
	n := h.network
	for range lastEphemeral - firstEphemeral + 1 {
		n.lastPort++
		if n.lastPort > lastEphemeral {
			n.lastPort = firstEphemeral
		}
		if h.listeners[n.lastPort] == nil {
			return n.lastPort, nil
		}
	}
	return 0, syscall.EADDRNOTAVAIL
}

// Dial connects to a listener at "host:port". It takes one round trip, for which the edges must be open both ways; across a cut
// it waits until they are or ctx ends, and then fails with ctx.Err(). Where nobody listens it fails with
// [syscall.ECONNREFUSED] after that round trip.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	to, err := parseAddress(addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: to.Network(), Err: err}
	}
	if h.isMute() {
		return nil, &net.OpError{Op: "dial", Net: to.Network(), Addr: to, Err: syscall.EMFILE}
	}
	if h.awaitResumed(ctx.Done()) {
		err = h.roundTrip(ctx, to.host)
	}
	if !h.awaitResumed(ctx.Done()) {
		err = ctx.Err()
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: to.Network(), Addr: to, Err: err}
	}
	c, err := h.network.connect(h, to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: to.Network(), Addr: to, Err: err}
	}
	return c, nil
}

func (h *Host) isMute() bool {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	return h.mute
}

// roundTrip waits until both edges to another host have been open for as long as a message there and its answer take.
func (h *Host) roundTrip(ctx context.Context, to string) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, err := h.path(to)
		if err != nil {
			return err
		}
		arrived, err := p.travel(ctx)
		if arrived || err != nil {
			return err
		}
	}
}

// path is what a dial needs to know about the two edges between two hosts.
type path struct {
	open        bool
	delay       time.Duration // there and back
	there, back <-chan struct{}
}

func (h *Host) path(to string) (path, error) {
	n := h.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.dead {
		return path{}, net.ErrClosed
	}
	there, back := n.edge(route{h.name, to}), n.edge(route{to, h.name})
	return path{
		open:  !there.cut && !back.cut,
		delay: there.delay + back.delay,
		there: there.watch(),
		back:  back.watch(),
	}, nil
}

// travel waits out the delay of an open path. It returns false when the path changed meanwhile.
func (p path) travel(ctx context.Context) (bool, error) {
	var arrived <-chan time.Time
	if p.open {
		timer := time.NewTimer(p.delay)
		defer timer.Stop()
		arrived = timer.C
	}
	select {
	case <-arrived:
		return true, nil
	case <-p.there:
	case <-p.back:
	case <-ctx.Done():
	}
	return false, ctx.Err()
}

// route names an edge.
type route struct{ from, to string }

// edge is one direction between two hosts. Network.mu guards it.
type edge struct {
	delay   time.Duration
	cut     bool
	largest int                // a Write of more bytes stalls its stream; 0: none does
	ends    map[*conn]struct{} // the ends that receive over this edge and are not closed
	changed chan struct{}      // closed when the edge opens, is cut or loses a host; nil while nobody watches
}

func (e *edge) watch() <-chan struct{} {
	if e.changed == nil {
		e.changed = make(chan struct{})
	}
	return e.changed
}

func (e *edge) announce() {
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
}

func (e *edge) setCut(cut bool, now time.Time) {
	if cut == e.cut {
		return
	}
	for c := range e.ends {
		if cut {
			c.in.settle(now)
		}
		c.wake()
	}
	e.cut = cut
	e.announce()
}

// hurry lets everything on its way arrive at the given time or before.
func (e *edge) hurry(latest time.Time) {
	for c := range e.ends {
		c.in.stalled = false
		c.in.hurry(latest)
		c.wake()
	}
}

// abort resets the ends on a host that died.
func (e *edge) abort() {
	for c := range e.ends {
		c.shut(syscall.ECONNRESET, syscall.ECONNRESET)
	}
}

type listener struct {
	host    *Host
	at      address
	backlog chan *conn
	first   *conn // guarded by network.mu: of the backlog, for which there was no descriptor; nil: there is none
	closed  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	c := l.takeFirst()
	if c == nil {
		select {
		case c = <-l.backlog:
		case <-l.closed:
			return nil, l.failed(net.ErrClosed)
		}
	}
	if !l.host.awaitResumed(l.closed) {
		l.reset(c)
		return nil, l.failed(net.ErrClosed)
	}
	if l.putBack(c) {
		return nil, l.failed(syscall.EMFILE)
	}
	return c, nil
}

func (l *listener) failed(err error) error {
	return &net.OpError{Op: "accept", Net: l.at.Network(), Addr: l.at, Err: err}
}

// reset is for a connection that nobody will accept.
func (l *listener) reset(c *conn) {
	l.host.network.mu.Lock()
	defer l.host.network.mu.Unlock()
	c.shut(syscall.ECONNRESET, syscall.ECONNRESET)
}

func (l *listener) takeFirst() *conn {
	l.host.network.mu.Lock()
	defer l.host.network.mu.Unlock()
	c := l.first
	l.first = nil
	return c
}

// putBack reports whether there is no descriptor for a connection.
func (l *listener) putBack(c *conn) bool {
	l.host.network.mu.Lock()
	defer l.host.network.mu.Unlock()
	if !l.host.deaf {
		return false
	}
	l.first = c
	if l.host.listeners[l.at.port] != l { // closed meanwhile
		c.shut(syscall.ECONNRESET, syscall.ECONNRESET)
	}
	return true
}

func (l *listener) Close() error {
	l.host.network.mu.Lock()
	defer l.host.network.mu.Unlock()
	l.shut()
	return nil
}

// shut frees the address and resets what nobody accepted; mu is held.
func (l *listener) shut() {
	if l.host.listeners[l.at.port] != l {
		return // closed before
	}
	delete(l.host.listeners, l.at.port)
	close(l.closed)
	if l.first != nil {
		l.first.shut(syscall.ECONNRESET, syscall.ECONNRESET)
	}
	for {
		select {
		case c := <-l.backlog:
			c.shut(syscall.ECONNRESET, syscall.ECONNRESET)
		default:
			return
		}
	}
}

func (l *listener) Addr() net.Addr { return l.at }

// address is the place of a listener or of one end of a connection.
type address struct {
	host string
	port int
}

func parseAddress(s string) (address, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return address{}, err
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return address{}, fmt.Errorf("address %s: port: %w", s, err)
	}
	return address{host, int(p)}, nil
}

func (address) Network() string  { return "mem" }
func (a address) String() string { return net.JoinHostPort(a.host, strconv.Itoa(a.port)) }
