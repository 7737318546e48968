package node

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// Probe asks who is at an address. It waits for wire.HandshakeTimeout at most.
func (n *Node) Probe(ctx context.Context, addr string) (wire.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, wire.HandshakeTimeout)
	defer cancel()
	return n.Port.Ping(ctx, roster.Peer{Addr: addr})
}

// ProbeSoon is Probe for where somebody was that is likely to be gone: several of those
// must not take all the time that there is for a call. It waits for a heartbeat at most.
func (n *Node) ProbeSoon(ctx context.Context, addr string) (wire.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, n.Timing.Heartbeat)
	defer cancel()
	return n.Probe(ctx, addr)
}

// Silent probes other nodes, all at once, and says of which there was no answer within a
// heartbeat, and why.
func (n *Node) Silent(ctx context.Context, nodes []raft.Server) (which []string) {
	ctx, cancel := context.WithTimeout(ctx, n.Timing.Heartbeat)
	defer cancel()
	others := slices.DeleteFunc(slices.Clone(nodes), func(m raft.Server) bool { return m.ID == n.Server })
	_, failures := AskAll(others, func(m raft.Server) (wire.Welcome, error) {
		return n.Port.Ping(ctx, roster.Peer{Server: m.ID, Addr: string(m.Address)})
	})
	for i, err := range failures {
		if m := others[i]; err != nil {
			which = append(which, fmt.Sprintf("%s at %s (%v)", roster.UserID(m.ID), roster.DialAddr(string(m.Address)), err))
		}
	}
	slices.Sort(which)
	return which
}

// AskAll asks all at once, and waits for all the answers, which are in the order of what
// was asked.
func AskAll[Q, A any](all []Q, ask func(Q) (A, error)) ([]A, []error) {
	answers, failures := make([]A, len(all)), make([]error, len(all))
	var asking sync.WaitGroup
	for i, q := range all {
		asking.Go(func() { answers[i], failures[i] = ask(q) })
	}
	asking.Wait()
	return answers, failures
}
