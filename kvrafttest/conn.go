package kvrafttest

import (
	"io"
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
	err           error // why this end is of no use any more: net.ErrClosed or a reset; guarded by network.mu
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
		c.writes.wait(&c.network.mu, earlier(c.writes.deadline, c.in.nextEnd()), now)
	}
}

func (c *conn) writeError(now time.Time) error {
	switch {
	case c.err != nil:
		return c.err
	case c.writes.expired(now):
		return os.ErrDeadlineExceeded
	case c.in.ended(now):
		return syscall.ECONNRESET
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

// stream is one direction of a connection. Network.mu guards it.
type stream struct {
	edge           *edge
	window         int
	writer, reader *conn
	stalled        bool // behind a large packet that was lost
	dark           bool // for good, see Network.GoDark
	used           int  // bytes written and not read, those included that nobody will read
	data           queue[byte]
	marks          queue[mark] // when data arrives
	end            error       // what the reader meets behind the data: io.EOF, a reset, or nil while the stream is open
	endDue         time.Time
}

// mark says that the next n bytes arrive at due; a due of zero says that they have, and no cut withholds them.
type mark struct {
	n   int
	due time.Time
}

// write takes as much of b as the window holds.
func (s *stream) write(b []byte, now time.Time) int {
	if s.edge.largest > 0 && len(b) > s.edge.largest && !s.stalled {
		s.settle(now)
		s.stalled = true
	}
	b = b[:min(len(b), s.window-s.used)]
	if len(b) == 0 {
		return 0
	}
	s.used += len(b)
	if s.end != nil || s.reader.err != nil {
		return len(b) // nobody will read them, of which the writer has not heard
	}
	due := s.due(now)
	if s.marks.empty() && !s.held() {
		s.reader.reads.wakeAt(due, now)
	}
	s.data.push(b...)
	if last := s.marks.last(); last != nil && last.due.Equal(due) {
		last.n += len(b)
	} else {
		s.marks.push(mark{len(b), due})
	}
	return len(b)
}

// read moves bytes that have arrived to b.
func (s *stream) read(b []byte, now time.Time) int {
	n := 0
	for n < len(b) && !s.marks.empty() {
		m := &s.marks.items()[0]
		if !s.arrived(m.due, now) {
			break
		}
		k := min(m.n, len(b)-n)
		n += k
		m.n -= k
		if m.n == 0 {
			s.marks.pop(1)
		}
	}
	copy(b, s.data.items()[:n])
	s.data.pop(n)
	s.used -= n
	return n
}

// finish ends the stream behind what was written. Only the first end counts.
func (s *stream) finish(end error, now time.Time) {
	if s.end != nil {
		return
	}
	s.end, s.endDue = end, s.due(now)
	if !s.held() {
		s.reader.reads.wakeAt(s.endDue, now)
		s.reader.writes.wakeAt(s.endDue, now)
	}
}

// discard forgets what a closed reader will not read. It stays in used: the writer may fill the window, no more, until it
// learns that the reader is gone.
func (s *stream) discard() {
	delete(s.edge.ends, s.reader)
	s.data, s.marks = queue[byte]{}, queue[mark]{}
}

// due returns when what is sent now arrives: not before what was sent earlier.
func (s *stream) due(now time.Time) time.Time {
	due := now.Add(s.edge.delay)
	if last := s.marks.last(); last != nil && last.due.After(due) {
		return last.due
	}
	return due
}

func (s *stream) arrived(due, now time.Time) bool {
	return due.IsZero() || !s.held() && !now.Before(due)
}

// held says that nothing arrives.
func (s *stream) held() bool { return s.edge.cut || s.stalled || s.dark }

// ended says whether the end has arrived, perhaps with data before it that is not read yet.
func (s *stream) ended(now time.Time) bool {
	return s.end != nil && s.arrived(s.endDue, now)
}

// next returns when more data or the end arrives; zero: unknown.
func (s *stream) next() time.Time {
	if !s.marks.empty() && !s.held() {
		return s.marks.items()[0].due
	}
	return s.nextEnd()
}

// nextEnd returns when the end arrives; zero: unknown.
func (s *stream) nextEnd() time.Time {
	if s.held() {
		return time.Time{}
	}
	return s.endDue
}

// settle marks what has arrived before the edge is cut.
func (s *stream) settle(now time.Time) {
	for i, m := range s.marks.items() {
		if s.arrived(m.due, now) {
			s.marks.items()[i].due = time.Time{}
		}
	}
	if s.ended(now) {
		s.endDue = time.Time{}
	}
}

// darken loses what has not arrived, and what will be written.
func (s *stream) darken(now time.Time) {
	s.settle(now)
	s.dark = true
}

// hurry lets everything on its way arrive at latest.
func (s *stream) hurry(latest time.Time) {
	for i, m := range s.marks.items() {
		if m.due.After(latest) {
			s.marks.items()[i].due = latest
		}
	}
	if s.endDue.After(latest) {
		s.endDue = latest
	}
}

// queue is a slice that grows at its end and shrinks at its front, and reuses its room.
type queue[T any] struct {
	all  []T
	head int // items before it are gone
}

func (q *queue[T]) items() []T  { return q.all[q.head:] }
func (q *queue[T]) empty() bool { return q.head == len(q.all) }

func (q *queue[T]) last() *T {
	if q.empty() {
		return nil
	}
	return &q.all[len(q.all)-1]
}

func (q *queue[T]) push(items ...T) {
	if len(q.all)+len(items) > cap(q.all) && q.head > len(q.all)/2 { // moving less than has gone keeps it cheap
		q.all = q.all[:copy(q.all, q.items())]
		q.head = 0
	}
	q.all = append(q.all, items...)
}

func (q *queue[T]) pop(n int) {
	q.head += n
	if q.empty() {
		q.all, q.head = q.all[:0], 0
	}
}
