package serf

// Alive counts the processes that are, this one included.
func (g *Gossip) Alive() int { return len(g.alive()) }
