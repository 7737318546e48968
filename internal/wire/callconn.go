package wire

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/kvraft/kvraft/internal/errs"
	"golang.org/x/sync/semaphore"
)

// callConn is a connection on which another node makes calls, one at a time. It is
// used by the goroutine that serves it.
type callConn struct {
	net.Conn
	in      *bufio.Reader // of paced
	paced   *pacedReader
	unnamed bool                // the caller names no node
	budget  *semaphore.Weighted // bytes of callBytes
	held    int64               // of budget, for the present call
}

// call is what a caller asks.
type call struct {
	method  Method
	unnamed bool // the caller names no node
	timeout time.Duration
	payload []byte
}

var (
	errTooLong = fmt.Errorf("%w: a call over its limit", errs.TooLarge)
	errNoRoom  = fmt.Errorf("%w: the calls that are under way here take all the memory they may", errs.Unsent)
)

func newCallConn(conn net.Conn, unnamed bool, budget *semaphore.Weighted) *callConn {
	paced := &pacedReader{conn: conn}
	return &callConn{Conn: conn, in: bufio.NewReaderSize(paced, 4<<10), paced: paced, unnamed: unnamed, budget: budget}
}

// serveOne answers a call, or returns why there will be none.
func (c *callConn) serveOne(ctx context.Context, serve func(context.Context, call) ([]byte, error)) error {
	defer c.release()
	q, refusal, err := c.next()
	if err != nil {
		return err
	}
	var answer []byte
	if refusal == nil {
		answer, refusal = c.serve(ctx, q, serve)
	}
	if refusal == nil && !c.hold(len(answer)) {
		refusal = errNoRoom
	}
	var code byte
	if refusal != nil {
		var text string
		code, text = errs.Encode(refusal)
		answer = []byte(text)
	}
	if err := c.answer(code, answer); err != nil {
		return err
	}
	if errors.Is(refusal, errTooLong) { // the rest of it is not read
		return refusal
	}
	return nil
}

// next waits for a call to begin and reads it. A refusal is to be answered.
func (c *callConn) next() (q call, refusal, err error) {
	limit := IdleLimit
	if c.unnamed {
		limit = unnamedLimit
	}
	c.paced.await(limit)
	if _, err := c.in.Peek(1); err != nil {
		return q, nil, err
	}
	c.paced.begin()
	var head [9]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return q, nil, err
	}
	q.method, q.unnamed = Method(head[0]), c.unnamed
	q.timeout = min(time.Duration(binary.BigEndian.Uint32(head[1:]))*time.Millisecond, MaxCall)
	n := binary.BigEndian.Uint32(head[5:])
	if n > q.method.limit(q.unnamed) {
		return q, errTooLong, nil
	}
	q.payload, err = readFrame(c.in, n, c.hold)
	if errors.Is(err, errNoRoom) {
		return q, errNoRoom, nil
	}
	return q, nil, err
}

// hold takes so many bytes of the budget in all, for this call, and few as they come.
func (c *callConn) hold(bytes int) bool {
	more := int64(bytes) - c.held
	if bytes <= firstBytes || more <= 0 {
		return true
	}
	if !c.budget.TryAcquire(more) {
		return false
	}
	c.held += more
	return true
}

func (c *callConn) release() {
	c.budget.Release(c.held)
	c.held = 0
}

// serve ends a call when its time is up or its caller has gone.
func (c *callConn) serve(ctx context.Context, q call, serve func(context.Context, call) ([]byte, error)) ([]byte, error) {
	const soon = 100 * time.Millisecond // most calls have ended by then
	// An answer that says what became of a call must arrive before its caller gives up.
	ctx, cancel := context.WithTimeout(ctx, q.timeout-min(q.timeout/8, 100*time.Millisecond))
	defer cancel()
	if err := c.paced.pause(); err != nil {
		return nil, err
	}
	watched := make(chan struct{})
	timer := time.AfterFunc(soon, func() {
		defer close(watched)
		if _, err := c.in.Peek(1); err != nil {
			cancel()
		}
	})
	defer func() {
		if !timer.Stop() {
			_ = c.SetReadDeadline(time.Unix(1, 0)) // it fails where there is no connection any more
			<-watched
		}
	}()
	return serve(ctx, q)
}

func (c *callConn) answer(code byte, answer []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{code}, uint32(len(answer)))
	limit := MessageTimeout + time.Duration(len(answer))*PerByte
	if err := c.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	return writeFrame(c, head, answer)
}

// writeFrame writes what is small in one piece, and copies nothing that is large.
func writeFrame(w io.Writer, head, payload []byte) error {
	if len(payload) <= firstBytes {
		_, err := w.Write(append(head, payload...))
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err := w.Write(payload)
	return err
}

// readFrame takes memory by what arrives: four times as much at most, and a little at
// first. Where hold refuses that, the rest is read and thrown away.
func readFrame(r io.Reader, n uint32, hold func(bytes int) bool) ([]byte, error) {
	payload := make([]byte, 0, min(n, firstBytes))
	for {
		had := len(payload)
		payload = payload[:cap(payload)]
		if _, err := io.ReadFull(r, payload[had:]); err != nil {
			return nil, err
		}
		if len(payload) == int(n) {
			return payload, nil
		}
		size := min(int(n), 4*cap(payload))
		if !hold(size) {
			left := int64(n) - int64(len(payload))
			payload = nil
			_, err := io.CopyN(io.Discard, r, left)
			return nil, errors.Join(errNoRoom, err)
		}
		payload = append(make([]byte, 0, size), payload...)
	}
}

// pacedReader reads messages from a connection: each may be long in coming, and then
// arrives at a rate. It has one user at a time.
type pacedReader struct {
	conn   net.Conn
	paused bool          // reads have no deadline, or one that another has set
	wait   time.Duration // for a message to begin; 0: it has
	began  time.Time     // when it has
	bytes  int           // of it, so far
}

// await gives the next message so much time to begin.
func (r *pacedReader) await(limit time.Duration) { *r = pacedReader{conn: r.conn, wait: limit} }

// begin tells that the message has begun.
func (r *pacedReader) begin() { r.wait, r.began = 0, time.Now() }

// pause lets reads take as long as they do.
func (r *pacedReader) pause() error {
	r.paused = true
	return r.conn.SetReadDeadline(time.Time{})
}

func (r *pacedReader) Read(b []byte) (int, error) {
	deadline := time.Now().Add(r.wait)
	if r.wait == 0 {
		deadline = r.began.Add(MessageTimeout + time.Duration(r.bytes)*PerByte)
	}
	if !r.paused {
		if err := r.conn.SetReadDeadline(deadline); err != nil {
			return 0, err
		}
	}
	n, err := r.conn.Read(b)
	r.bytes += n
	return n, err
}
