package kvraft

import (
	"maps"
	"net"
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
	port   *port
	from   raft.ServerID // guarded by port.mu: who made it, if that is one of the cluster's nodes
	to     raft.ServerID // guarded by port.mu: to whom this node made it, if it named the node
	closed atomic.Bool   // by its user
	leave  func()        // counts it no more; set before it is used, nil: it is not counted

	resting atomic.Int64  // since when, see port.now; 0: it is in use; closedAtRest: see sweep
	answers *atomic.Int64 // connections to the node that were not used after it are not used again; nil: all are
}

const closedAtRest = -1

func (c *peerConn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	err := c.Conn.Close()
	c.port.forget(c)
	return err
}

func (c *peerConn) isClosed() bool { return c.closed.Load() }

// rest ends a use.
func (c *peerConn) rest() { c.resting.CompareAndSwap(0, c.port.now()) }

// take begins a use, unless the connection is not to be used again.
func (c *peerConn) take() bool {
	since := c.resting.Load()
	return since != closedAtRest && !c.isStale(since) && c.resting.CompareAndSwap(since, 0)
}

func (c *peerConn) isStale(restingSince int64) bool {
	if restingSince == 0 || c.answers == nil {
		return false
	}
	return restingSince <= c.answers.Load() || c.port.now()-restingSince > int64(restLimit)
}

// distrust is for a connection that got no answer to what was asked at a time: no other
// to that node is used again that was not used since, and they are closed.
func (c *peerConn) distrust(asked time.Time) {
	if c.answers == nil {
		return
	}
	at := int64(asked.Sub(c.port.born))
	for {
		old := c.answers.Load()
		if old >= at {
			return
		}
		if c.answers.CompareAndSwap(old, at) {
			c.port.sweep()
			return
		}
	}
}

// sweep closes the connections that have rested for too long, or are not trusted.
func (p *port) sweep() {
	var stale []*peerConn
	p.mu.Lock()
	for conn := range p.conns {
		since := conn.resting.Load()
		if conn.isStale(since) && conn.resting.CompareAndSwap(since, closedAtRest) {
			stale = append(stale, conn)
		}
	}
	p.mu.Unlock()
	for _, conn := range stale {
		conn.Close()
	}
}

// now is the time since the port was made, and never 0.
func (p *port) now() int64 { return max(int64(time.Since(p.born)), 1) }

// forget is for a connection that is closed.
func (p *port) forget(c *peerConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	if from, known := p.callers[c.from]; known {
		from.open--
		p.callers[c.from] = from
	}
	if c.leave != nil {
		c.leave()
	}
}

// answersOf is peerConn.answers for connections to a node.
func (p *port) answersOf(id raft.ServerID) *atomic.Int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answers[id] == nil {
		p.answers[id] = new(atomic.Int64)
	}
	return p.answers[id]
}

// track counts raw among the connections that cut closes, until it is closed, and calls
// leave then; it closes raw itself when the port is closed.
func (p *port) track(raw net.Conn, leave func()) (*peerConn, error) {
	conn := &peerConn{Conn: raw, port: p, leave: leave}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		raw.Close()
		if leave != nil {
			leave()
		}
		return nil, net.ErrClosed
	}
	p.conns[conn] = struct{}{}
	return conn, nil
}

// connections counts those that are open.
func (p *port) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// keepOnly closes the connections that were made to other nodes than these, and those that
// nobody has used for long. raft's transport would keep what it has to nodes that are gone.
func (p *port) keepOnly(nodes map[raft.ServerID]bool) {
	p.mu.Lock()
	var others []*peerConn
	for conn := range p.conns {
		if conn.to != "" && !nodes[conn.to] {
			others = append(others, conn)
		}
	}
	maps.DeleteFunc(p.answers, func(id raft.ServerID, _ *atomic.Int64) bool { return !nodes[id] })
	p.mu.Unlock()
	for _, conn := range others {
		conn.Close()
	}
	p.sweep()
	p.pool.keepOnly(nodes)
}
