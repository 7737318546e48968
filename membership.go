package kvraft

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// awaitOwnTerm waits until this node, as the leader, has in its state what its
// predecessors committed: its notes can then be relied on.
func (s *tracker) awaitOwnTerm(ctx context.Context) error {
	term, err := s.leaderTerm()
	if err != nil {
		return err
	}
	return s.state.AwaitTerm(ctx, term)
}

// lockMembership lets one change at a time through. A channel, not a mutex: it
// is held while the network is waited for. A change whose time is up before its turn
// has not begun.
func (s *members) lockMembership(ctx context.Context) (unlock func(), err error) {
	select {
	case s.changing <- struct{}{}:
		return func() { <-s.changing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: another change of the membership is under way: %w", errs.Unsent, errs.Ended(ctx))
	}
}

// Nodes returns the members as the leader knows them, sorted by id. Errors:
// ErrNoLeader, ErrClosed.
func (s *Store) Nodes(ctx context.Context) ([]Node, error) {
	var nodes []Node
	err := s.readThroughLeader(ctx, func(ctx context.Context, tenure *tenure) (err error) {
		if tenure.leads {
			nodes, err = s.nodesAsLeader(ctx)
			return err
		}
		nodes, err = wire.CallJSON[[]Node](ctx, s.port, tenure.leader, wire.CallNodes, wire.Raw(nil))
		return err
	})
	return nodes, err
}

func (s *Store) serveNodes(ctx context.Context, _ wire.Raw) ([]Node, error) {
	return s.nodesAsLeader(ctx)
}

func (s *Store) nodesAsLeader(ctx context.Context) ([]Node, error) {
	if _, err := s.rounds.Join(ctx); err != nil {
		return nil, err
	}
	return s.members(), nil
}

// members are those of the newest configuration that this node has.
func (s *Store) members() []Node {
	var nodes []Node
	for _, m := range s.configuration().Servers {
		nodes = append(nodes, s.member(m))
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.ID, b.ID) })
	return nodes
}

// member is a server as users see it.
func (s *Store) member(m raft.Server) Node {
	id := roster.UserID(m.ID)
	return Node{ID: id, Addr: roster.DialAddr(string(m.Address)), Voter: m.Suffrage == raft.Voter, Replica: s.isReplica(id)}
}

// asVoter is for sieve: a candidate that this node knows without a vote goes by
// this node's own id.
func (s *members) asVoter(candidate []byte) []byte {
	id := raft.ServerID(candidate)
	config := s.configuration()
	if s.lists(id) && !roster.IsVoter(config, id) {
		return []byte(s.server)
	}
	return candidate
}

func nodeOf(p roster.Peer) Node { return Node{ID: roster.UserID(p.Server), Addr: p.Addr} }
