package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/kvraft/kvraft/internal/connlimit"
	"github.com/kvraft/kvraft/internal/errs"
)

const (
	maxWaiting  = 4096            // connections that nobody has accepted, as in the queue of a system; a quarter of the process's descriptors at most
	longestWait = 5 * time.Second // for each of them
)

// others is the listener for the connections that open otherwise than with a
// handshake. Each waits in the goroutine that has accepted it from the network.
type others struct {
	shared bool         // or else they are refused
	peers  net.Listener // where they come from
	conns  chan net.Conn
	places chan struct{}   // a token for each connection that waits
	ctx    context.Context // ends with Close, and with the port
	cancel context.CancelFunc
}

func newOthers(port context.Context, shared bool, peers net.Listener) *others {
	ctx, cancel := context.WithCancel(port)
	return &others{
		shared: shared,
		peers:  peers,
		conns:  make(chan net.Conn),
		places: make(chan struct{}, connlimit.Within(maxWaiting, 4)),
		ctx:    ctx,
		cancel: cancel,
	}
}

func (o *others) Addr() net.Addr { return o.peers.Addr() }

func (o *others) Close() error {
	o.cancel()
	return nil
}

func (o *others) Accept() (net.Conn, error) {
	if !o.shared {
		return nil, fmt.Errorf("%w: the store was opened without WithSharedPort", errs.Invalid)
	}
	if o.ctx.Err() != nil { // whatever waits
		return nil, net.ErrClosed
	}
	select {
	case conn := <-o.conns:
		return conn, nil
	case <-o.ctx.Done():
		return nil, net.ErrClosed
	}
}

// hand waits until conn is accepted. The error says why it was not.
func (o *others) hand(conn net.Conn) error {
	select {
	case o.places <- struct{}{}:
		defer func() { <-o.places }()
	default:
		return errors.New("not a kvraft peer, and too many others wait to be accepted")
	}
	timer := time.NewTimer(longestWait)
	defer timer.Stop()
	select {
	case o.conns <- conn:
		return nil
	case <-timer.C:
		return errors.New("not a kvraft peer, and nobody accepts others")
	case <-o.ctx.Done():
		return errors.New("not a kvraft peer, and the listener for others is closed")
	}
}

// otherConn is a connection with what was read of it put back.
type otherConn struct {
	net.Conn
	mu     sync.Mutex
	unread []byte // guarded by mu
}

func (c *otherConn) Read(b []byte) (int, error) {
	if n := c.readAgain(b); n > 0 {
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *otherConn) readAgain(b []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := copy(b, c.unread)
	c.unread = c.unread[n:]
	return n
}

// SetLinger lets the HTTP server end a connection at once whose client takes nothing.
func (c *otherConn) SetLinger(seconds int) error {
	if conn, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return conn.SetLinger(seconds)
	}
	return errors.ErrUnsupported
}

// CloseWrite is what net/http ends an answer with that the client may still be
// sending to.
func (c *otherConn) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}
