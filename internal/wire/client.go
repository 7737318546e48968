package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

// pool holds the connections for calls that are not in use.
type pool struct {
	mu   sync.Mutex
	idle map[roster.Peer][]*Conn // guarded by mu; the last one was used last
}

// Client is a connection to a node, for one call.
type Client struct {
	port *Port
	to   roster.Peer
	conn *Conn
}

// Call asks a node and waits for its answer. An errs.Unsent means that the question
// never left.
func (p *Port) Call(ctx context.Context, to roster.Peer, m Method, payload []byte) ([]byte, error) {
	c, err := p.connect(ctx, to)
	if err != nil {
		return nil, err
	}
	return c.ask(ctx, question{m, payload, 0})
}

// CallWithin is Call for an answer that has to begin within a time, and has more by its
// size: ErrSlow tells that this was not enough.
func (p *Port) CallWithin(ctx context.Context, within time.Duration, to roster.Peer, m Method, payload []byte) ([]byte, error) {
	c, err := p.ConnectWithin(ctx, within, to)
	if err != nil {
		return nil, err
	}
	return c.ask(ctx, question{m, payload, within})
}

func (p *Port) connect(ctx context.Context, to roster.Peer) (Client, error) {
	if ctx.Err() != nil {
		return Client{}, fmt.Errorf("%w: %w", errs.Unsent, errs.Ended(ctx))
	}
	if conn := p.pool.take(to); conn != nil {
		return Client{p, to, conn}, nil
	}
	conn, _, err := p.Dial(ctx, to.Addr, ForRPC, to.Server)
	if err != nil {
		return Client{}, fmt.Errorf("%w: node %s: %w", errs.Unsent, roster.UserID(to.Server), err)
	}
	return Client{p, to, conn}, nil
}

// ConnectWithin connects to a node, or gives up after a time, which is not its caller's.
// The error is an errs.Unsent.
func (p *Port) ConnectWithin(ctx context.Context, within time.Duration, to roster.Peer) (Client, error) {
	soon, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := p.connect(soon, to)
	if err != nil && soon.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: no connection within %v: %s", errs.Unsent, within, errs.Reason(err))
	}
	return c, err
}

// Call makes the call that the connection is for.
func (c Client) Call(ctx context.Context, m Method, payload []byte) ([]byte, error) {
	return c.ask(ctx, question{m, payload, 0})
}

// Release is for a connection on which there is nothing to ask after all.
func (c Client) Release() { c.port.pool.give(c.to, c.conn) }

func (c Client) ask(ctx context.Context, q question) ([]byte, error) {
	began := time.Now()
	answer, alive, err := exchange(ctx, c.conn, q)
	if alive {
		c.Release()
		return answer, err
	}
	c.conn.Close()
	const little = 100 * time.Millisecond // in which no answer tells nothing
	switch {
	case ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded):
		c.conn.Distrust(time.Now()) // it broke: the others are likely to be as dead
	case time.Since(began) > little:
		c.conn.Distrust(began)
	}
	return nil, fmt.Errorf("%w: node %s: %w", errs.Unknown, roster.UserID(c.to.Server), err)
}

// take returns the connection that was used last, or nil: if that is not to be used
// again, none of the others is.
func (p *pool) take(to roster.Peer) *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	conns := p.idle[to]
	last := len(conns) - 1
	if last >= 0 && conns[last].Reuse() {
		p.idle[to] = conns[:last]
		return conns[last]
	}
	for _, conn := range conns {
		conn.Close()
	}
	delete(p.idle, to)
	return nil
}

func (p *pool) give(to roster.Peer, conn *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle[to]) >= maxIdle {
		conn.Close()
		return
	}
	conn.Rest()
	p.idle[to] = append(p.idle[to], conn)
}

// dropClosed forgets the connections that the port has closed.
func (p *pool) dropClosed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for to, conns := range p.idle {
		p.idle[to] = slices.DeleteFunc(conns, (*Conn).isClosed)
		if len(p.idle[to]) == 0 {
			delete(p.idle, to)
		}
	}
}

// question is a call as it is made.
type question struct {
	method  Method
	payload []byte
	within  time.Duration // in which the answer is to begin; 0: as long as the context
}

// ErrSlow is an answer that has begun and did not arrive in its time.
var ErrSlow = errors.New("an answer that takes too long")

// exchange makes one call on conn. Unless alive, the connection cannot be used
// again, and err says why.
func exchange(ctx context.Context, conn net.Conn, q question) (answer []byte, alive bool, err error) {
	limit := MaxCall
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	if q.within > 0 {
		limit = min(limit, q.within)
	}
	head := make([]byte, 9)
	head[0] = byte(q.method)
	binary.BigEndian.PutUint32(head[1:], uint32(max(limit.Milliseconds(), 1)))
	binary.BigEndian.PutUint32(head[5:], uint32(len(q.payload)))

	release := interruptible(ctx, conn)
	var code byte
	if err = writeFrame(conn, head, q.payload); err == nil {
		code, answer, err = readAnswer(ctx, conn, q.within)
	}
	if err := release(err); err != nil {
		return nil, false, err
	}
	if code != 0 {
		return nil, true, errs.Decode(code, string(answer))
	}
	return answer, true, nil
}

func readAnswer(ctx context.Context, conn net.Conn, within time.Duration) (code byte, answer []byte, err error) {
	if err := allow(ctx, conn, within); err != nil {
		return 0, nil, err
	}
	var head [5]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxAnswer {
		return 0, nil, fmt.Errorf("an answer of %d bytes, the limit is %d", n, maxAnswer)
	}
	if within == 0 {
		answer, err = readFrame(conn, n, noLimit)
		return head[0], answer, err
	}
	if err := allow(ctx, conn, within+time.Duration(n)*PerByte); err != nil {
		return 0, nil, err
	}
	answer, err = readFrame(conn, n, noLimit)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, nil, fmt.Errorf("%w: %w", ErrSlow, err)
	}
	return head[0], answer, errors.Join(err, conn.SetReadDeadline(time.Time{}))
}

func noLimit(int) bool { return true }

// allow lets reads from conn take a time, if any is given, but not beyond ctx: that may
// have set a deadline of its own.
func allow(ctx context.Context, conn net.Conn, d time.Duration) error {
	if d == 0 {
		return nil
	}
	if err := conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	return ctx.Err()
}
