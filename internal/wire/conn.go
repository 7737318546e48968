package wire

import (
	"maps"
	"net"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Conn is a tracked connection. One that this node has made rests between its uses:
// it is closed when it rests for long, and not used again when one to the same node that
// was used later got no answer. A firewall that lost its table drops what comes over all
// of them, and says nothing.
type Conn struct {
	net.Conn          // protected, if the port's are
	raw      net.Conn // the same without: a node that closes does not wait to say goodbye
	port     *Port
	from     raft.ServerID // guarded by Port.mu: who made it, if that is one of the cluster's nodes
	to       raft.ServerID // guarded by Port.mu: to whom this node made it, if it named the node
	closed   atomic.Bool   // by its user
	leave    func()        // counts it no more

	resting atomic.Int64  // since when, see Port.now; 0: it is in use; closedAtRest: see sweep
	answers *atomic.Int64 // connections to the node that were not used after it are not used again; nil: all are
}

const closedAtRest = -1

func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	err := c.raw.Close()
	c.port.forget(c)
	return err
}

func (c *Conn) isClosed() bool { return c.closed.Load() }

// Rest ends a use.
func (c *Conn) Rest() { c.resting.CompareAndSwap(0, c.port.now()) }

// Reuse begins a use, unless the connection is not to be used again.
func (c *Conn) Reuse() bool {
	since := c.resting.Load()
	return since != closedAtRest && !c.isStale(since) && c.resting.CompareAndSwap(since, 0)
}

func (c *Conn) isStale(restingSince int64) bool {
	if restingSince == 0 || c.answers == nil {
		return false
	}
	return restingSince <= c.answers.Load() || c.port.now()-restingSince > int64(restLimit)
}

// Distrust is for a connection that got no answer to what was asked at a time: no other
// to that node is used again that was not used since, and they are closed.
func (c *Conn) Distrust(asked time.Time) {
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
func (p *Port) sweep() {
	var stale []*Conn
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
func (p *Port) now() int64 { return max(int64(time.Since(p.born)), 1) }

// forget is for a connection that is closed.
func (p *Port) forget(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	if from, known := p.callers[c.from]; known {
		from.Open--
		p.callers[c.from] = from
	}
	c.leave()
}

// answersOf is Conn.answers for connections to a node.
func (p *Port) answersOf(id raft.ServerID) *atomic.Int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answers[id] == nil {
		p.answers[id] = new(atomic.Int64)
	}
	return p.answers[id]
}

// track counts raw among the connections that cut closes, until it is closed, and calls
// leave then; it closes raw itself when the port is closed.
func (p *Port) track(raw net.Conn, leave func()) (*Conn, error) {
	conn := &Conn{Conn: raw, raw: raw, port: p, leave: leave}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		raw.Close()
		leave()
		return nil, net.ErrClosed
	}
	p.conns[conn] = struct{}{}
	return conn, nil
}

// Connections counts those that are open.
func (p *Port) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// KeepOnly closes the connections that were made to other nodes than these, and those that
// nobody has used for long. raft's transport would keep what it has to nodes that are gone.
func (p *Port) KeepOnly(nodes map[raft.ServerID]bool) {
	p.mu.Lock()
	var others []*Conn
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
	p.pool.dropClosed()
}
