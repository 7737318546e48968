package kvraft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/connlimit"
	"github.com/kvraft/kvraft/internal/loglimit"
	"github.com/kvraft/kvraft/internal/roster"
)

// transport owns the listener and every connection of a node, but those that it hands
// out, see sharedport.go.
type transport struct {
	network   Network
	listener  net.Listener
	advertise string
	process   string // see welcome
	born      time.Time
	self      func() self
	leads     func() bool           // this node is the leader, as far as it knows
	knows     func(opening) error   // what speaks against a dialer where one is nameless; see legacy.go
	samples   func() []sample       // of this node's log
	places    placeHooks            // see place.go
	serve     func(net.Conn, hello) // one connection that is not raft's, until it ends
	log       hclog.Logger
	lines     *loglimit.Limiter // of log

	accepted  atomic.Uint64                 // connections
	shortage  atomic.Pointer[acceptFailure] // the last one, if nothing was accepted since
	reserve   reserve                       // see shortage.go
	raftConns chan net.Conn                 // accepted for raft, see raftStream
	others    *others                       // accepted for neither raft nor serve
	limit     *connlimit.Limiter            // of what is accepted
	refusing  chan struct{}                 // holds a token for each connection over the limit that is told so
	running   sync.WaitGroup

	ctx    context.Context // ends with cut
	cancel context.CancelFunc

	mu         sync.Mutex
	conns      map[*peerConn]struct{}          // guarded by mu
	closed     bool                            // guarded by mu
	stranger   hello                           // guarded by mu: the last of another cluster
	strangerAt time.Time                       // guarded by mu
	callers    map[raft.ServerID]caller        // guarded by mu: nodes of this cluster that have dialed this one
	answers    map[raft.ServerID]*atomic.Int64 // guarded by mu: see peerConn
}

// caller is a node of this cluster, as its connections to this one tell.
type caller struct {
	at   string    // where it says that it is
	open int       // connections of it that are open
	led  time.Time // when it dialed last as a leader
}

func newTransport(o *options, listener net.Listener, me func() self) *transport {
	ctx, cancel := context.WithCancel(context.Background())
	t := &transport{
		network:   o.network,
		listener:  listener,
		advertise: o.advertise,
		process:   roster.NewIdentity(),
		born:      time.Now(),
		self:      me,
		leads:     func() bool { return false },
		knows:     func(o opening) error { return fmt.Errorf("node %s is not known", o.From) },
		samples:   func() []sample { return nil },
		places:    everywhere{},
		log:       o.logger.Named("peer"),
		lines:     loglimit.New(time.Minute),
		raftConns: make(chan net.Conn),
		others:    newOthers(o.sharePort, listener, ctx.Done()),
		ctx:       ctx,
		cancel:    cancel,
		conns:     make(map[*peerConn]struct{}),
		limit:     connLimits(),
		refusing:  make(chan struct{}, maxRefusing),
		answers:   make(map[raft.ServerID]*atomic.Int64),

		callers: make(map[raft.ServerID]caller),
	}
	t.reserve.fill()
	return t
}

// start begins to accept. serve handles the connections that are not raft's.
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
	t.reserve.empty()
}

// acceptFailure is an Accept that has failed.
type acceptFailure struct {
	at  time.Time
	err error
}

const longestAcceptWait = time.Second

func (t *transport) accept() {
	wait := 5 * time.Millisecond
	for {
		conn, err := t.listener.Accept()
		switch {
		case err == nil:
			wait = 5 * time.Millisecond
			t.accepted.Add(1)
			t.shortage.Store(nil)
			t.running.Go(func() { t.handle(conn) })
			continue
		case t.ctx.Err() != nil:
			return
		}
		t.shortage.Store(&acceptFailure{time.Now(), err})
		if missed, ok := t.lines.Allow("accept"); ok { // out of file descriptors, say: it passes
			t.log.Error("accept", "error", err, "others", missed)
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, longestAcceptWait)
		case <-t.ctx.Done():
			return
		}
	}
}

func (t *transport) handle(raw net.Conn) {
	leave, err := t.limit.Enter(raw.RemoteAddr())
	if err != nil {
		t.refuseOne(raw, err)
		return
	}
	conn, err := t.track(raw, leave)
	if err != nil {
		return
	}
	h, err := t.acceptHandshake(conn)
	if other, ok := err.(foreign); ok && t.others.shared {
		t.handOut(conn, other.head)
		return
	}
	if err != nil {
		t.noteRefusal(t.refusalKind(h, err), raw.RemoteAddr(), h, err)
		conn.Close()
		return
	}
	if h.To != "" || h.Cluster != "" && h.Cluster == t.self().cluster {
		t.noteCaller(conn, h)
	}
	if h.For != forRaft {
		defer conn.Close()
		t.serve(conn, h)
		return
	}
	t.handToRaft(conn)
}

// refuseOne tells who is one too many, if not too many are told just now: it costs the
// descriptors that it is about.
func (t *transport) refuseOne(raw net.Conn, reason error) {
	defer raw.Close()
	t.noteRefusal("too many", raw.RemoteAddr(), hello{}, reason)
	select {
	case t.refusing <- struct{}{}:
		defer func() { <-t.refusing }()
	default:
		return
	}
	if raw.SetDeadline(time.Now().Add(time.Second)) == nil && writeHandshake(raw, welcome{Refused: reason.Error()}) == nil {
		_, _ = io.CopyN(io.Discard, raw, maxHandshake) // or what it sends would end the connection before it has read that
	}
}

// handOut gives the connection away, with what was read of it: cut does not close
// it any more.
func (t *transport) handOut(conn *peerConn, head []byte) {
	conn.leave() // those that wait to be accepted have a limit of their own
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	delete(t.conns, conn)
	t.mu.Unlock()
	err := conn.Conn.SetDeadline(time.Time{})
	if err == nil {
		err = t.others.hand(&otherConn{Conn: conn.Conn, unread: head})
	}
	if err == nil {
		return
	}
	conn.Conn.Close()
	t.noteRefusal(err.Error(), conn.RemoteAddr(), hello{}, err)
}

// noteRefusal logs a refusal, unless there have been others of its kind a moment ago.
// What is cut because the node closes is none.
func (t *transport) noteRefusal(kind string, from net.Addr, h hello, reason error) {
	if t.ctx.Err() != nil {
		return
	}
	if me := t.self(); h.Cluster != "" && h.Cluster != me.cluster && roster.UserID(h.To) == roster.UserID(me.server) {
		t.mu.Lock()
		t.stranger, t.strangerAt = h, time.Now()
		t.mu.Unlock()
	}
	missed, ok := t.lines.Allow(kind)
	if !ok {
		return
	}
	log := t.log.Warn
	if kind == broken || kind == early {
		log = t.log.Debug
	}
	log("refused a connection", "from", from, "node", plain(string(h.From)), "reason", plain(reason.Error()), "others", missed)
}

// Kinds of refusals that no warning is due for.
const (
	broken = "broken" // its dialer has thought better of it
	early  = "early"  // this node has yet to hear that it is in the dialer's cluster
)

// refusalKind tells refusals apart by what is wrong, and not by what the dialer says.
func (t *transport) refusalKind(h hello, reason error) string {
	me := t.self()
	_, isForeign := reason.(foreign)
	var netErr net.Error
	switch {
	case isForeign:
		return "foreign"
	case errors.Is(reason, errVersion):
		return "version"
	case errors.Is(reason, io.EOF), errors.Is(reason, io.ErrUnexpectedEOF), errors.As(reason, &netErr):
		return broken
	case me.cluster == "" && h.To == me.server && !roster.HasNoIdentity(me.server):
		return early
	case h.Cluster != me.cluster:
		return "cluster"
	case h.To != me.server:
		return "node"
	}
	return "other"
}

// plain is what a stranger says as it can be logged.
func plain(text string) string { return loglimit.Plain(text, 256) }

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

// noteCaller remembers that a node of this cluster has dialed, and where it says
// that it is. It is not dialed there for that: who says so may be a copy.
func (t *transport) noteCaller(conn *peerConn, h hello) {
	const most = 64 // nodes; whoever lies about them can only be refused at the address
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.callers) >= most { // make room for one that is here by those that are not
		maps.DeleteFunc(t.callers, func(_ raft.ServerID, c caller) bool { return c.open == 0 })
	}
	known, ok := t.callers[h.From]
	if _, open := t.conns[conn]; !open || !ok && len(t.callers) >= most {
		return
	}
	conn.from = h.From
	known.at, known.open = h.At, known.open+1
	if h.Leads {
		known.led = time.Now()
	}
	t.callers[h.From] = known
}

// callsFrom returns what is known of a node by the connections that it made.
func (t *transport) callsFrom(id raft.ServerID) caller {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.callers[id]
}

// callerAddrs are the addresses of all nodes that have dialed.
func (t *transport) callerAddrs() (addrs []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.callers {
		if c.at != "" {
			addrs = append(addrs, c.at)
		}
	}
	return addrs
}

// dial connects to a node and shakes hands: to the node to, which the
// configuration has at addr, or to whoever is at addr. The connection is the
// caller's to close. An error means that nothing was asked of the other side.
func (t *transport) dial(ctx context.Context, addr string, purpose string, to raft.ServerID) (*peerConn, welcome, error) {
	if purpose == forRaft && !t.places.isPlaced() {
		return nil, welcome{}, errUnplaced
	}
	if to != "" {
		addr = t.places.addressOf(to, addr)
	}
	return t.dialAt(ctx, roster.DialAddr(addr), purpose, to)
}

// keepOnly closes the connections that were made to other nodes than these. raft's
// transport would keep what it has to nodes that are gone.
func (t *transport) keepOnly(nodes map[raft.ServerID]bool) {
	t.mu.Lock()
	var others []*peerConn
	for conn := range t.conns {
		if conn.to != "" && !nodes[conn.to] {
			others = append(others, conn)
		}
	}
	maps.DeleteFunc(t.answers, func(id raft.ServerID, _ *atomic.Int64) bool { return !nodes[id] })
	t.mu.Unlock()
	for _, conn := range others {
		conn.Close()
	}
}

func (t *transport) dialAt(ctx context.Context, addr string, purpose string, to raft.ServerID) (*peerConn, welcome, error) {
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
	conn, err := t.track(raw, nil)
	if err != nil {
		return nil, welcome{}, err
	}
	w, err := t.dialHandshake(ctx, conn, purpose, to)
	if err != nil {
		conn.Close()
		return nil, w, fmt.Errorf("handshake with %s: %w", addr, err)
	}
	if to != "" {
		conn.answers = t.answersOf(to)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	conn.to = to
	return conn, w, nil
}

// track counts raw among the connections that cut closes, until it is closed, and calls
// leave then; it closes raw itself when the transport is closed.
func (t *transport) track(raw net.Conn, leave func()) (*peerConn, error) {
	conn := &peerConn{Conn: raw, transport: t, gone: make(chan struct{}), leave: leave}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		raw.Close()
		if leave != nil {
			leave()
		}
		return nil, net.ErrClosed
	}
	t.conns[conn] = struct{}{}
	return conn, nil
}
