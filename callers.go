package kvraft

import (
	"maps"
	"time"

	"github.com/hashicorp/raft"
)

// caller is a node of this cluster, as its connections to this one tell.
type caller struct {
	at   string    // where it says that it is
	open int       // connections of it that are open
	led  time.Time // when it dialed last as a leader
}

// noteCaller remembers that a node of this cluster has dialed, and where it says
// that it is. It is not dialed there for that: who says so may be a copy.
func (p *port) noteCaller(conn *peerConn, h hello) {
	const most = 64 // nodes; whoever lies about them can only be refused at the address
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.callers) >= most { // make room for one that is here by those that are not
		maps.DeleteFunc(p.callers, func(_ raft.ServerID, c caller) bool { return c.open == 0 })
	}
	known, ok := p.callers[h.From]
	if _, open := p.conns[conn]; !open || !ok && len(p.callers) >= most {
		return
	}
	conn.from = h.From
	known.at, known.open = h.At, known.open+1
	if h.Leads {
		known.led = time.Now()
	}
	p.callers[h.From] = known
}

// callsFrom returns what is known of a node by the connections that it made.
func (p *port) callsFrom(id raft.ServerID) caller {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.callers[id]
}

// callerAddrs are the addresses of all nodes that have dialed.
func (p *port) callerAddrs() (addrs []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.callers {
		if c.at != "" {
			addrs = append(addrs, c.at)
		}
	}
	return addrs
}
