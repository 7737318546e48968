package memnet

import (
	"io"
	"math"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// conn is one end of a connection.
type conn struct {
	network       *Network
	host          *Host // that this end is on
	local, remote net.Addr
	in, out       *stream
	reads, writes side
	halfClosed    bool  // guarded by network.mu: this end writes no more
	err           error // why this end is of no use any more: net.ErrClosed or a reset; guarded by network.mu
}

// Pipe returns the two ends of a connection without latency that takes all that is written to it. Both have a method
// CloseWrite, as those of a Network do.
func Pipe() (near, far net.Conn) {
	n := New(WithLatency(0), WithWindow(math.MaxInt))
	a, b := n.Host("near"), n.Host("far")
	n.mu.Lock()
	defer n.mu.Unlock()
	return newConns(a, b, address{"near", firstEphemeral}, address{"far", firstEphemeral})
}

// newConns returns the two ends of a new connection; mu is held.
func newConns(dialer, acceptor *Host, local, remote address) (near, far *conn) {
	n := dialer.network
	near = &conn{network: n, host: dialer, local: local, remote: remote, reads: newSide(), writes: newSide()}
	far = &conn{network: n, host: acceptor, local: remote, remote: local, reads: newSide(), writes: newSide()}
	there := &stream{edge: n.edge(route{dialer.name, acceptor.name}), window: n.window, writer: near, reader: far}
	back := &stream{edge: n.edge(route{acceptor.name, dialer.name}), window: n.window, writer: far, reader: near}
	near.in, near.out = back, there
	far.in, far.out = there, back
	there.edge.ends[far] = struct{}{}
	back.edge.ends[near] = struct{}{}
	return near, far
}

func (c *conn) Read(b []byte) (int, error) {
	c.reads.enter()
	defer c.reads.leave()
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	for {
		now := time.Now()
		if c.isPaused() {
			c.reads.wait(&c.network.mu, time.Time{}, now)
			continue
		}
		n, err := c.tryRead(b, now)
		if n > 0 || len(b) == 0 || err != nil {
			return n, c.wrap("read", err)
		}
		c.reads.wait(&c.network.mu, earlier(c.reads.deadline, c.in.next()), now)
	}
}

// tryRead reads what has arrived. It returns 0 and no error when the caller has to wait.
func (c *conn) tryRead(b []byte, now time.Time) (int, error) {
	switch {
	case c.err != nil:
		return 0, c.err
	case len(b) == 0:
		return 0, nil
	case c.reads.expired(now):
		return 0, os.ErrDeadlineExceeded
	}
	n := c.in.read(b, now)
	if n > 0 {
		c.in.writer.writes.wake()
		return n, nil
	}
	if c.in.ended(now) { // it arrives last
		return 0, c.in.end
	}
	return 0, nil
}

func (c *conn) Write(b []byte) (int, error) {
	c.writes.enter()
	defer c.writes.leave()
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	done := 0
	for {
		now := time.Now()
		if c.isPaused() {
			c.writes.wait(&c.network.mu, time.Time{}, now)
			continue
		}
		if err := c.writeError(now); err != nil {
			return done, c.wrap("write", err)
		}
		done += c.out.write(b[done:], now)
		if done == len(b) {
			return done, nil
		}
		c.writes.wait(&c.network.mu, earlier(c.writes.deadline, c.in.unlessHeld(c.in.goneDue)), now)
	}
}

func (c *conn) writeError(now time.Time) error {
	switch {
	case c.err != nil:
		return c.err
	case c.writes.expired(now):
		return os.ErrDeadlineExceeded
	case c.in.left(now):
		return syscall.ECONNRESET
	case c.halfClosed:
		return syscall.EPIPE
	}
	return nil
}

func (c *conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: err}
}

func (c *conn) Close() error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	c.shut(net.ErrClosed, io.EOF)
	return nil
}

// CloseWrite lets what was written arrive; after it the peer reads io.EOF, and may go on writing.
func (c *conn) CloseWrite() error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	if c.err != nil {
		return c.wrap("close", c.err)
	}
	c.halfClosed = true
	c.out.finishWriting(io.EOF, time.Now())
	return nil
}

// isPaused says that the process at this end waits in its calls, but for those on an end that is of no use any more; mu is
// held.
func (c *conn) isPaused() bool { return c.host.resumed != nil && c.err == nil }

// shut makes this end fail with err and lets the peer, in its time, meet end; mu is held.
func (c *conn) shut(err, end error) {
	c.err = err
	c.in.discard()
	if c.host.resumed != nil && !c.host.dead { // it would have closed it later
		c.host.late = append(c.host.late, func() { c.out.finish(end, time.Now()) })
	} else {
		c.out.finish(end, time.Now())
	}
	c.wake()
}

// wake lets blocked calls look again; mu is held.
func (c *conn) wake() {
	c.reads.wake()
	c.writes.wake()
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error      { return c.setDeadlines(t, &c.reads, &c.writes) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.setDeadlines(t, &c.reads) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.writes) }

func (c *conn) setDeadlines(t time.Time, sides ...*side) error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	if c.err == net.ErrClosed {
		return c.wrap("set", c.err)
	}
	now := time.Now()
	for _, s := range sides {
		s.deadline = t
		if !t.IsZero() {
			s.wakeAt(t, now) // a call that waits for a deadline put off sees it when the old one passes
		}
	}
	return nil
}

// side is the reading or the writing side of one end. Calls on it take turns, as they do on a socket, so that at most one
// waits; that one sleeps until a time or until it is woken.
type side struct {
	turn chan struct{} // full while a call is in progress; whoever waits for it is let in when that call ends
	woke chan struct{}

	// guarded by Network.mu
	deadline time.Time
	waiting  bool
	until    time.Time // when the waiting call looks again; zero: only when woken
	timer    *time.Timer
}

func newSide() side {
	return side{turn: make(chan struct{}, 1), woke: make(chan struct{}, 1)}
}

func (s *side) enter() { s.turn <- struct{}{} }
func (s *side) leave() { <-s.turn }

func (s *side) expired(now time.Time) bool {
	return !s.deadline.IsZero() && !now.Before(s.deadline)
}

// wait releases mu until the given time, zero for none, or until the side is woken.
func (s *side) wait(mu *sync.Mutex, until, now time.Time) {
	if s.timer == nil {
		s.timer = time.NewTimer(0)
		s.timer.Stop()
	}
	s.until = until
	if !until.IsZero() {
		s.timer.Reset(until.Sub(now))
	}
	s.waiting = true
	mu.Unlock()
	select {
	case <-s.timer.C:
	case <-s.woke:
	}
	mu.Lock()
	s.timer.Stop()
	if !s.waiting { // woken, perhaps after the timer had fired
		select {
		case <-s.woke:
		default:
		}
	}
	s.waiting = false
}

// wake lets the waiting call, if there is one, look again now.
func (s *side) wake() {
	if s.waiting {
		s.waiting = false
		s.woke <- struct{}{} // has room: the call that waits takes it before it waits again
	}
}

// wakeAt lets the waiting call, if there is one, look again at the given time or before. It spares the call from waking only
// to learn how long to wait.
func (s *side) wakeAt(at, now time.Time) {
	switch {
	case !s.waiting:
	case !at.After(now):
		s.wake()
	case s.until.IsZero() || at.Before(s.until):
		s.until = at
		s.timer.Reset(at.Sub(now))
	}
}

// earlier returns the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
