package kvraft

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// transport owns the listener and every connection of a node.
type transport struct {
	network   Network
	listener  net.Listener
	advertise string
	self      func() self
	serve     func(net.Conn, hello) // one RPC connection, until it ends
	log       hclog.Logger

	raftConns chan net.Conn // accepted for raft, see raftStream
	running   sync.WaitGroup

	ctx    context.Context // ends with cut
	cancel context.CancelFunc

	mu          sync.Mutex
	conns       map[*peerConn]struct{}   // guarded by mu
	closed      bool                     // guarded by mu
	refused     string                   // guarded by mu: whom and why, the last time
	stranger    hello                    // guarded by mu: the last of another cluster
	strangerAt  time.Time                // guarded by mu
	whereabouts map[raft.ServerID]string // guarded by mu: addresses that nodes of this cluster gave
}

func newTransport(o *options, listener net.Listener, me func() self) *transport {
	ctx, cancel := context.WithCancel(context.Background())
	return &transport{
		network:   o.network,
		listener:  listener,
		advertise: o.advertise,
		self:      me,
		log:       o.logger.Named("peer"),
		raftConns: make(chan net.Conn),
		ctx:       ctx,
		cancel:    cancel,
		conns:     make(map[*peerConn]struct{}),

		whereabouts: make(map[raft.ServerID]string),
	}
}

// start begins to accept. serve handles the RPC connections.
func (t *transport) start(serve func(net.Conn, hello)) {
	t.serve = serve
	t.running.Go(t.accept)
}

// cut closes the listener and every connection, and does not wait.
func (t *transport) cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	t.cancel()
	t.listener.Close()
	for conn := range t.conns {
		conn.Conn.Close()
	}
}

// close cuts and waits for what was served.
func (t *transport) close() {
	t.cut()
	t.running.Wait()
}

func (t *transport) accept() {
	const longest = time.Second
	wait := 5 * time.Millisecond
	for {
		conn, err := t.listener.Accept()
		switch {
		case err == nil:
			wait = 5 * time.Millisecond
			t.running.Go(func() { t.handle(conn) })
			continue
		case t.ctx.Err() != nil:
			return
		}
		t.log.Error("accept", "error", err) // out of file descriptors, say: it passes
		select {
		case <-time.After(wait):
			wait = min(2*wait, longest)
		case <-t.ctx.Done():
			return
		}
	}
}

func (t *transport) handle(raw net.Conn) {
	conn, err := t.track(raw)
	if err != nil {
		return
	}
	h, err := t.acceptHandshake(conn)
	if err != nil {
		t.noteRefusal(raw.RemoteAddr(), h, err)
		conn.Close()
		return
	}
	if h.For == forRPC {
		defer conn.Close()
		t.serve(conn, h)
		return
	}
	t.handToRaft(conn)
}

// noteRefusal logs a refusal, but not each time that the same dialer tries again.
func (t *transport) noteRefusal(from net.Addr, h hello, reason error) {
	text := string(h.From) + ": " + reason.Error()
	t.mu.Lock()
	repeated := t.refused == text
	t.refused = text
	if h.Cluster != "" && h.Cluster != t.self().cluster {
		t.stranger, t.strangerAt = h, time.Now()
	}
	t.mu.Unlock()
	level := hclog.Warn
	if repeated {
		level = hclog.Debug
	}
	t.log.Log(level, "refused a connection", "from", from, "node", h.From, "reason", reason)
}

// lastStranger returns what a node of another cluster said when it took this node
// for one of its own a moment ago.
func (t *transport) lastStranger() (hello, bool) {
	const moment = time.Minute
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stranger, t.stranger.Cluster != "" && time.Since(t.strangerAt) < moment
}

// handToRaft gives the connection to raft's transport, and waits until that has
// closed it.
func (t *transport) handToRaft(conn *peerConn) {
	select {
	case t.raftConns <- &messageConn{Conn: conn}:
		<-conn.gone
	case <-t.ctx.Done():
		conn.Close()
	}
}

// noteAddress remembers where a node of this cluster says that it is. A node that
// comes back at another address must be found there before there is a leader to
// write it into the configuration: its vote may be what a leader needs.
func (t *transport) noteAddress(h hello) {
	const most = 64 // nodes; whoever lies about them can only be refused at the address
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.whereabouts[h.From]; known || len(t.whereabouts) < most {
		t.whereabouts[h.From] = h.At
	}
}

// addressOf is where to dial a node that the configuration has at addr.
func (t *transport) addressOf(id raft.ServerID, addr string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at := t.whereabouts[id]; at != "" {
		return at
	}
	return addr
}

// forgetAddress makes the configuration count again.
func (t *transport) forgetAddress(id raft.ServerID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.whereabouts, id)
}

// dial connects to a node and shakes hands: to the node to, which the
// configuration has at addr, or to whoever is at addr. The connection is the
// caller's to close. An error means that nothing was asked of the other side.
func (t *transport) dial(ctx context.Context, addr string, purpose string, to raft.ServerID) (net.Conn, welcome, error) {
	if to == "" {
		return t.dialAt(ctx, addr, purpose, to)
	}
	conn, w, err := t.dialAt(ctx, t.addressOf(to, addr), purpose, to)
	if err != nil {
		t.forgetAddress(to)
	}
	return conn, w, err
}

func (t *transport) dialAt(ctx context.Context, addr string, purpose string, to raft.ServerID) (net.Conn, welcome, error) {
	connecting, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	raw, err := t.network.Dial(connecting, addr)
	if t.ctx.Err() != nil { // whether or not it ended the dialing
		if err == nil {
			raw.Close()
		}
		return nil, welcome{}, net.ErrClosed
	}
	if err != nil {
		return nil, welcome{}, err
	}
	conn, err := t.track(raw)
	if err != nil {
		return nil, welcome{}, err
	}
	w, err := t.dialHandshake(ctx, conn, purpose, to)
	if err != nil {
		conn.Close()
		return nil, w, fmt.Errorf("handshake with %s: %w", addr, err)
	}
	return conn, w, nil
}

// track counts raw among the connections that cut closes; it closes raw itself
// when the transport is closed.
func (t *transport) track(raw net.Conn) (*peerConn, error) {
	conn := &peerConn{Conn: raw, transport: t, gone: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		raw.Close()
		return nil, net.ErrClosed
	}
	t.conns[conn] = struct{}{}
	return conn, nil
}

// peerConn is a tracked connection.
type peerConn struct {
	net.Conn
	transport *transport
	once      sync.Once
	gone      chan struct{} // closed when its user has closed it
}

func (c *peerConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		c.transport.mu.Lock()
		delete(c.transport.conns, c)
		c.transport.mu.Unlock()
		close(c.gone)
	})
	return err
}
