package raftnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/wire"
)

// leastRate is what the whole of a message must have come at, in bytes per second: a sender
// must not hold up whoever reads it with a byte now and then. wire.MessageTimeout is granted
// beside that.
const leastRate = 16 << 10

// messageConn bounds each message of an accepted raft connection. raft's
// transport reads without any deadline, and a snapshot that stalls half-way
// would hold raft's main goroutine for good. Between messages, after an answer
// was written, a connection may be idle for longer. It has one user at a time.
type messageConn struct {
	net.Conn
	inMessage bool
	read      int64         // bytes of the message
	waited    time.Duration // for them: not what its user did meanwhile
	failed    error         // of a read: raft goes on to read what it has given up
}

func (c *messageConn) Read(b []byte) (int, error) {
	if c.failed != nil {
		return 0, c.failed
	}
	began, limit := time.Now(), wire.IdleLimit
	if c.inMessage {
		limit = min(wire.MessageTimeout, wire.MessageTimeout+time.Duration(c.read)*time.Second/leastRate-c.waited)
	}
	if err := c.SetReadDeadline(began.Add(limit)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if c.inMessage {
		c.waited += time.Since(began)
	}
	c.inMessage = true
	c.read += int64(n)
	if errors.Is(err, net.ErrClosed) {
		err = io.EOF // cut by this node: not the error that raft would log it as
	}
	c.failed = err
	return n, err
}

func (c *messageConn) Write(b []byte) (int, error) {
	c.inMessage, c.read, c.waited = false, 0, 0
	if err := c.SetWriteDeadline(time.Now().Add(wire.MessageTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// stream is the port as raft's stream layer, for what raft sends. What others send
// goes to server.
type stream struct {
	port   *wire.Port
	closed chan struct{}
}

// Accept waits until raft has closed the stream.
func (s stream) Accept() (net.Conn, error) {
	<-s.closed
	return nil, net.ErrClosed
}

// Close is called by raft's transport, once. The connections are the port's.
func (s stream) Close() error {
	close(s.closed)
	return nil
}

func (s stream) Addr() net.Addr { return peerAddr(s.port.Addr()) }

// Dial connects to a target as Transport writes it.
func (s stream) Dial(target raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	at := strings.LastIndexByte(string(target), '@')
	if at < 0 {
		return nil, fmt.Errorf("dial %s: no node is named", target)
	}
	ctx, cancel := context.WithTimeout(s.port.Context(), timeout)
	defer cancel()
	redial := func(ctx context.Context) (*wire.Conn, error) {
		conn, _, err := s.port.Dial(ctx, string(target[at+1:]), wire.ForRaft, raft.ServerID(target[:at]))
		return conn, err
	}
	conn, err := redial(ctx)
	if err != nil {
		return nil, err
	}
	return &patientConn{Conn: conn, owner: s.port, redial: redial}, nil
}

// patientConn is a connection that raft has made. raft sets one deadline for a
// message and its answer, however large it is, and would send a large entry over a
// slow link again and again. Here each piece of the message has that time, and the
// answer has more by what was written.
//
// raft keeps a few of them for its next messages. One that was not used for long, or
// since another to the same node got no answer, is made anew before a message is
// trusted to it: three that have gone dark would cost as many elections. It has one
// user at a time.
//
// An answer is a few numbers, an address and perhaps an error. The decoder would read
// what a length in it says, up to 4 GiB.
type patientConn struct {
	*wire.Conn
	owner    *wire.Port
	redial   func(context.Context) (*wire.Conn, error)
	patience time.Duration // 0: no deadline
	written  int           // bytes of the message, so far
	read     int           // bytes of the answer, so far
	began    time.Time     // the message
}

// SetDeadline begins a message.
func (c *patientConn) SetDeadline(t time.Time) error {
	c.patience, c.written, c.read = 0, 0, 0
	if !t.IsZero() {
		c.began = time.Now()
		c.patience = max(time.Until(t), 1)
		if err := c.renew(t); err != nil {
			return err // and raft will find the connection closed
		}
	}
	return c.Conn.SetDeadline(t)
}

func (c *patientConn) renew(deadline time.Time) error {
	if c.Reuse() {
		return nil
	}
	c.Close()
	ctx, cancel := context.WithDeadline(c.owner.Context(), deadline)
	defer cancel()
	conn, err := c.redial(ctx)
	if err == nil {
		c.Conn = conn
	}
	return err
}

// note keeps what the end of a read or a write tells of the connection.
func (c *patientConn) note(err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.Distrust(c.began)
	case err == nil:
		c.Rest()
	}
}

func (c *patientConn) deadline() (t time.Time) {
	if c.patience > 0 {
		t = time.Now().Add(c.patience + time.Duration(c.written)*wire.PerByte)
	}
	return t
}

func (c *patientConn) Write(b []byte) (n int, err error) {
	const piece = 64 << 10
	for part := range slices.Chunk(b, piece) {
		if err := c.SetWriteDeadline(c.deadline()); err != nil {
			return n, err
		}
		wrote, err := c.Conn.Write(part)
		n, c.written = n+wrote, c.written+wrote
		if err != nil {
			c.note(err)
			return n, err
		}
	}
	return n, nil
}

func (c *patientConn) Read(b []byte) (int, error) {
	const longest = 64 << 10
	if c.read >= longest {
		return 0, fmt.Errorf("an answer of more than %d bytes", longest)
	}
	if err := c.SetReadDeadline(c.deadline()); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b[:min(len(b), longest-c.read)])
	c.read += n
	c.note(err)
	return n, err
}

type peerAddr string

func (a peerAddr) Network() string { return "kvraft" }

func (a peerAddr) String() string { return string(a) }

// meant is the address that stream.Dial takes apart.
func meant(id raft.ServerID, addr raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(id) + "@" + addr
}
