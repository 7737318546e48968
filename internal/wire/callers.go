package wire

import (
	"maps"
	"time"

	"github.com/hashicorp/raft"
)

// Caller is a node of this cluster, as its connections to this one tell.
type Caller struct {
	At   string    // where it says that it is
	Open int       // connections of it that are open
	Led  time.Time // when it dialed last as a leader
}

// noteCaller remembers that a node of this cluster has dialed, and where it says
// that it is. It is not dialed there for that: who says so may be a copy.
func (p *Port) noteCaller(conn *Conn, h Hello) {
	const most = 64 // nodes; whoever lies about them can only be refused at the address
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.callers) >= most { // make room for one that is here by those that are not
		maps.DeleteFunc(p.callers, func(_ raft.ServerID, c Caller) bool { return c.Open == 0 })
	}
	known, ok := p.callers[h.From]
	if _, open := p.conns[conn]; !open || !ok && len(p.callers) >= most {
		return
	}
	conn.from = h.From
	known.At, known.Open = h.At, known.Open+1
	if h.Leads {
		known.Led = time.Now()
	}
	p.callers[h.From] = known
}

// CallsFrom returns what is known of a node by the connections that it made.
func (p *Port) CallsFrom(id raft.ServerID) Caller {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.callers[id]
}

// CallerAddrs are the addresses of all nodes that have dialed.
func (p *Port) CallerAddrs() (addrs []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.callers {
		if c.At != "" {
			addrs = append(addrs, c.At)
		}
	}
	return addrs
}
