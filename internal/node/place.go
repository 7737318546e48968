package node

import (
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/roster"
)

// IsPlaced reports whether this node may act: it runs where its configuration has it, or
// was confirmed elsewhere, see package place.
func (n *Node) IsPlaced() bool { return n.placed.Load() }

// PlaceChanged holds a signal when IsPlaced has changed. One may receive from it.
func (n *Node) PlaceChanged() <-chan struct{} { return n.placeChanged }

// TakePlace lets this node act.
func (n *Node) TakePlace() {
	if !n.placed.Swap(true) {
		n.tellPlace()
	}
}

// LosePlace is for a node that another has turned away, because that finds it at another
// address. It closes all connections.
func (n *Node) LosePlace(at string) {
	if !n.placed.Swap(false) {
		return
	}
	n.Log.Warn("others find this node at another address: it has to be confirmed", "addr", n.Addr, "other", at)
	n.Port.KeepOnly(nil)
	n.tellPlace()
}

func (n *Node) tellPlace() {
	select {
	case n.placeChanged <- struct{}{}:
	default:
	}
}

// ConfiguredAt is the address that the configuration has for this node; empty: it is no
// member.
func (n *Node) ConfiguredAt() string {
	return roster.AddressOf(n.Configuration(), n.Server)
}

// Promised returns the promise for a member, as long as it holds: until the
// configuration has it elsewhere.
func (n *Node) Promised(id raft.ServerID) (disk.PlacePromise, bool) {
	p, ok := n.Stable().Record().Places[id]
	return p, ok && roster.AddressOf(n.Configuration(), id) == p.From
}

// AddressOf is where a member is dialed that the configuration has at addr: there, unless
// this node has promised to find it elsewhere.
func (n *Node) AddressOf(id raft.ServerID, addr string) string {
	if p, ok := n.Promised(id); ok && p.From == addr {
		return p.To
	}
	return roster.DialAddr(addr)
}
