package memnet

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"
)

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
