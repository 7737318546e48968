package kvraft

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// peerConn is a tracked connection. One that this node has made rests between its uses:
// it is closed when it rests for long, and not used again when one to the same node that
// was used later got no answer. A firewall that lost its table drops what comes over all
// of them, and says nothing.
type peerConn struct {
	net.Conn
	transport *transport
	from      raft.ServerID // guarded by transport.mu: who made it, if that is one of the cluster's nodes
	to        raft.ServerID // guarded by transport.mu: to whom this node made it, if it named the node
	once      sync.Once
	gone      chan struct{} // closed when its user has closed it
	leave     func()        // counts it no more; set before it is used, nil: it is not counted

	resting atomic.Int64  // since when, see transport.now; 0: it is in use; closedAtRest: see sweep
	answers *atomic.Int64 // connections to the node that were not used after it are not used again; nil: all are
}

const closedAtRest = -1

func (c *peerConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		c.transport.forget(c)
		close(c.gone)
	})
	return err
}

func (c *peerConn) isClosed() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// rest ends a use.
func (c *peerConn) rest() { c.resting.CompareAndSwap(0, c.transport.now()) }

// take begins a use, unless the connection is not to be used again.
func (c *peerConn) take() bool {
	since := c.resting.Load()
	return since != closedAtRest && !c.isStale(since) && c.resting.CompareAndSwap(since, 0)
}

func (c *peerConn) isStale(restingSince int64) bool {
	if restingSince == 0 || c.answers == nil {
		return false
	}
	return restingSince <= c.answers.Load() || c.transport.now()-restingSince > int64(restLimit)
}

// distrust is for a connection that got no answer to what was asked at a time: no other
// to that node is used again that was not used since, and they are closed.
func (c *peerConn) distrust(asked time.Time) {
	if c.answers == nil {
		return
	}
	at := int64(asked.Sub(c.transport.born))
	for {
		old := c.answers.Load()
		if old >= at {
			return
		}
		if c.answers.CompareAndSwap(old, at) {
			c.transport.sweep()
			return
		}
	}
}

// sweep closes the connections that have rested for too long, or are not trusted.
func (t *transport) sweep() {
	var stale []*peerConn
	t.mu.Lock()
	for conn := range t.conns {
		since := conn.resting.Load()
		if conn.isStale(since) && conn.resting.CompareAndSwap(since, closedAtRest) {
			stale = append(stale, conn)
		}
	}
	t.mu.Unlock()
	for _, conn := range stale {
		conn.Close()
	}
}

// now is the time since the transport was made, and never 0.
func (t *transport) now() int64 { return max(int64(time.Since(t.born)), 1) }

// forget is for a connection that is closed.
func (t *transport) forget(c *peerConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
	if from, known := t.callers[c.from]; known {
		from.open--
		t.callers[c.from] = from
	}
	if c.leave != nil {
		c.leave()
	}
}

// answersOf is peerConn.answers for connections to a node.
func (t *transport) answersOf(id raft.ServerID) *atomic.Int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.answers[id] == nil {
		t.answers[id] = new(atomic.Int64)
	}
	return t.answers[id]
}
