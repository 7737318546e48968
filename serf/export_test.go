package serf

import "net"

// Alive counts the processes that are, this one included.
func (g *Gossip) Alive() int { return len(g.alive()) }

// Advertised is the address that the others are told.
func (g *Gossip) Advertised() net.IP { return g.serf.LocalMember().Addr }
