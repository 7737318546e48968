package kvraft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// memNet is a network in memory, without delays: it runs in virtual time.
type memNet struct {
	hangs string // dials of this address hang until their context ends

	mu        sync.Mutex
	listeners map[string]*memListener // guarded by mu
	dials     int                     // guarded by mu
}

func (n *memNet) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &memListener{addr: peerAddr(addr), conns: make(chan net.Conn), closed: make(chan struct{})}
	n.listeners = maps.Clone(n.listeners)
	if n.listeners == nil {
		n.listeners = map[string]*memListener{}
	}
	n.listeners[addr] = l
	return l, nil
}

func (n *memNet) Dial(ctx context.Context, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dials++
	l := n.listeners[addr]
	n.mu.Unlock()
	if addr == n.hangs {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if l == nil {
		return nil, fmt.Errorf("dial %s: %w", addr, syscall.ECONNREFUSED)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	near, far := memPipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, fmt.Errorf("dial %s: %w", addr, syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// dialed says how often anybody dialed.
func (n *memNet) dialed() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

type memListener struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *memListener) Addr() net.Addr { return l.addr }
func (l *memListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *memListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// memConn is one end of a connection in memory. It buffers without limit, and
// its deadlines wake what blocks.
type memConn struct{ in, out *memStream }

// memStream is one direction of a connection.
type memStream struct {
	mu           sync.Mutex
	changed      *sync.Cond
	data         []byte    // guarded by mu
	ended, gone  bool      // guarded by mu: the writer, the reader has closed
	reads, sends time.Time // guarded by mu: deadlines; zero: none
}

func memPipe() (a, b net.Conn) {
	newStream := func() *memStream {
		s := new(memStream)
		s.changed = sync.NewCond(&s.mu)
		return s
	}
	there, back := newStream(), newStream()
	return &memConn{back, there}, &memConn{there, back}
}

func past(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

func (c *memConn) Read(b []byte) (int, error) {
	s := c.in
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.gone:
			return 0, net.ErrClosed
		case past(s.reads):
			return 0, os.ErrDeadlineExceeded
		case len(s.data) > 0:
			n := copy(b, s.data)
			s.data = s.data[n:]
			return n, nil
		case s.ended:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

func (c *memConn) Write(b []byte) (int, error) {
	s := c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return 0, net.ErrClosed
	case past(s.sends):
		return 0, os.ErrDeadlineExceeded
	case s.gone:
		return 0, syscall.ECONNRESET
	}
	s.data = append(s.data, b...)
	s.changed.Broadcast()
	return len(b), nil
}

func (s *memStream) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.changed.Broadcast()
}

func (c *memConn) Close() error {
	c.in.change(func() { c.in.gone = true })
	c.CloseWrite()
	return nil
}

// CloseWrite ends what the other side reads, and goes on reading.
func (c *memConn) CloseWrite() { c.out.change(func() { c.out.ended = true }) }

func (c *memConn) SetReadDeadline(d time.Time) error {
	c.in.change(func() { c.in.reads = d })
	if !d.IsZero() {
		time.AfterFunc(time.Until(d), func() { c.in.change(func() {}) })
	}
	return c.open()
}

func (c *memConn) SetWriteDeadline(d time.Time) error {
	c.out.change(func() { c.out.sends = d })
	return c.open()
}

func (c *memConn) SetDeadline(d time.Time) error {
	return errors.Join(c.SetReadDeadline(d), c.SetWriteDeadline(d))
}

func (c *memConn) open() error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if c.in.gone {
		return net.ErrClosed
	}
	return nil
}

// received is what has arrived and was not read, also after Close.
func (c *memConn) received() []byte {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return bytes.Clone(c.in.data)
}

func (c *memConn) LocalAddr() net.Addr  { return peerAddr("near") }
func (c *memConn) RemoteAddr() net.Addr { return peerAddr("far") }
