package kvraft

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/member"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// JoinOption qualifies Join: it is a [JoinFlag].
type JoinOption interface{ qualify(*joinOptions) }

type joinOptions struct{ flags JoinFlag }

// JoinFlag is a JoinOption without a value.
type JoinFlag byte

const (
	// Replica makes Join admit a node that stays without a vote: it has the whole
	// state and takes every call, but does not count for the quorum, so that it makes
	// no write slower and no majority harder. It is for reads near their readers. To
	// make it a voter, join it again without Replica; a voter becomes a replica only by
	// being removed, emptied and joined again.
	Replica JoinFlag = 1 << iota
)

func (f JoinFlag) qualify(o *joinOptions) { o.flags |= f }

func (o joinOptions) role() string {
	if o.flags&Replica != 0 {
		return member.RoleReplica
	}
	return member.RoleVoter
}

// Join admits the node id, which must be reachable under the peer address addr,
// to the cluster, and returns when it votes; with [Replica], when it has caught
// up. It may be called on any member, and again: joining a member is nothing. The
// node must be empty and opened with WithJoin, or be a member already that has
// moved to addr.
//
// Errors: ErrUnreachable when nobody answers there, ErrRefused when another node
// answers, the id belongs to a live member, or the node belongs to another cluster,
// ErrRemoved when it was removed from this one, ErrCopied when it runs on a copy of a
// member's data; ErrInvalid, ErrNoLeader, ErrClosed;
// ErrUnknown when ctx ended while the node was being admitted, which goes on.
func (s *Store) Join(ctx context.Context, id, addr string, opts ...JoinOption) error {
	if err := errors.Join(checkID(id), roster.CheckReachable("address", addr)); err != nil {
		return err
	}
	return s.members.Join(ctx, member.JoinRequest{ID: id, Addr: addr, Role: gather[joinOptions](opts).role()})
}

// RemoveOption qualifies Remove: it is a [RemoveFlag].
type RemoveOption interface{ qualify(*removeOptions) }

type removeOptions struct{ flags RemoveFlag }

// RemoveFlag is a RemoveOption without a value.
type RemoveFlag byte

const (
	// Force makes Remove go on although it takes the majority away from the voters
	// that answer, and with it every write and linearizable read until others answer.
	Force RemoveFlag = 1 << iota

	// MayReturn makes Remove a leave: the node is a member no more, but may be admitted
	// again with the data that it has. It asks for that when it is opened with the
	// addresses of members, and as long as it runs unless it has removed itself. Of more
	// than 1,024 that have left, the first ones count as removed.
	MayReturn

	// IfSilent makes Remove refuse a node that answers the leader. It is for programs
	// that remove what they take for dead.
	IfSilent
)

func (f RemoveFlag) qualify(o *removeOptions) { o.flags |= f }

func (o removeOptions) has(f RemoveFlag) bool { return o.flags&f != 0 }

// Remove takes the node id out of the cluster, whether it runs or not, and returns
// when that is committed. It may be called on any member, for any member: a leader
// hands leadership over first. Unless [MayReturn] is given, the node can not join
// again with the data that it has, and stops when it finds out: see ErrRemoved. To
// remove again what was removed is nothing, for the latest 1,024.
//
// Errors: ErrRefused for the only voter, for one that answers if [IfSilent] is
// given, and when those that answer would be no majority of the voters that remain,
// unless [Force] is given; ErrNotFound when no member has the id; ErrInvalid,
// ErrNoLeader, ErrClosed; ErrUnknown when ctx ended while the node was being
// removed.
func (s *Store) Remove(ctx context.Context, id string, opts ...RemoveOption) error {
	if err := checkID(id); err != nil {
		return err
	}
	o := gather[removeOptions](opts)
	req := member.RemoveRequest{ID: id, Force: o.has(Force), MayReturn: o.has(MayReturn), IfSilent: o.has(IfSilent)}
	if id == s.node.ID && req.MayReturn {
		return s.joiner.Leave(ctx, req)
	}
	return s.members.Remove(ctx, req)
}

// TransferLeadership makes the voter id the leader, or with an empty id any other
// voter than the present leader, and returns when it leads. It may be called on
// any member. Writes wait meanwhile, some milliseconds, and none fails for it. If
// id leads already it does nothing.
//
// Errors: ErrNotFound when no member has the id, ErrRefused when it does not vote
// or there is no other voter, ErrUnreachable when it does not answer; ErrNoLeader,
// ErrInvalid, ErrClosed; ErrUnknown when ctx ended before it was known to lead.
func (s *Store) TransferLeadership(ctx context.Context, id string) error {
	if id != "" {
		if err := checkID(id); err != nil {
			return err
		}
	}
	return s.members.Transfer(ctx, id)
}

// Nodes returns the members as the leader knows them, sorted by id. Errors:
// ErrNoLeader, ErrClosed.
func (s *Store) Nodes(ctx context.Context) ([]Node, error) {
	var nodes []Node
	err := s.lead.ReadThroughLeader(ctx, func(ctx context.Context, tenure *lead.Tenure) (err error) {
		if tenure.Leads {
			nodes, err = s.serveNodes(ctx, nil)
			return err
		}
		nodes, err = wire.CallJSON[[]Node](ctx, s.node.Port, tenure.Leader, wire.CallNodes, wire.Raw(nil))
		return err
	})
	return nodes, err
}

func (s *Store) serveNodes(ctx context.Context, _ wire.Raw) ([]Node, error) {
	if _, err := s.lead.Rounds.Join(ctx); err != nil {
		return nil, err
	}
	return s.nodesOf(s.node.Configuration()), nil
}

// nodesOf are the members of a configuration, sorted by id.
func (s *Store) nodesOf(config raft.Configuration) []Node {
	var nodes []Node
	for _, m := range config.Servers {
		nodes = append(nodes, s.nodeOf(m.ID, string(m.Address), m.Suffrage == raft.Voter))
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.ID, b.ID) })
	return nodes
}

// nodeOf is a server as users see it.
func (s *Store) nodeOf(server raft.ServerID, addr string, voter bool) Node {
	id := roster.UserID(server)
	return Node{ID: id, Addr: roster.DialAddr(addr), Voter: voter, Replica: s.members.IsReplica(id)}
}

// Leader returns the leader that this node knows, and false if there is none at
// the moment.
func (s *Store) Leader() (Node, bool) {
	r := s.lead.Tenure()
	return s.leaderOf(r), r.Leader != roster.Peer{}
}

// leaderOf is the leader as users see it.
func (s *Store) leaderOf(r *lead.Tenure) Node {
	if r.Leader == (roster.Peer{}) {
		return Node{}
	}
	// Voters have elected it, of whom this node may not know yet. It has no vote while its
	// own removal is under way.
	voter := roster.IsVoter(s.node.Configuration(), r.Leader.Server) || !s.node.Lists(r.Leader.Server)
	return s.nodeOf(r.Leader.Server, r.Leader.Addr, voter)
}

// WaitLeader waits until this node knows a leader. (Calls wait for whatever is
// still missing by themselves; Status tells when the node is ready.) It fails with
// ErrRefused on a node that the members have refused, to admit it or to have it
// back, and none has agreed; the node goes on asking. Other errors: ErrClosed, and
// ErrNoLeader with the context's error.
func (s *Store) WaitLeader(ctx context.Context) (Node, error) {
	for {
		r, changed, trouble := s.lead.Now()
		switch {
		case s.node.Life.Err() != nil:
			return Node{}, s.node.Life.Err()
		case r.Leader != roster.Peer{}:
			return s.leaderOf(r), nil
		case errors.Is(trouble, errs.Refused):
			return Node{}, trouble
		}
		select {
		case <-changed:
		case <-s.node.Life.Stopping():
		case <-ctx.Done():
			return Node{}, errs.NoLeaderBefore(ctx, trouble)
		}
	}
}

// Leadership is who leads, as one node knows it.
type Leadership struct {
	Leader Node   // zero: nobody, as far as the node knows
	Term   uint64 // in which it leads; it rises from one to the next. 0: nobody does
	Number uint64 // of the change, as this node has counted: where it rises by more than one, some were missed
}

// LeaderChanges returns who leads, as it changes for this node: first what is so now,
// then each change after it, also to nobody, and to the same leader in another term. It
// ends when ctx or the store does. Each caller has its own. One that is slow does not
// hold anybody up: it misses what has passed by meanwhile, which the Number tells, but
// never the last change.
func (s *Store) LeaderChanges(ctx context.Context) iter.Seq[Leadership] {
	return func(yield func(Leadership) bool) {
		var last *lead.Tenure
		for {
			now, changed, _ := s.lead.Now()
			if s.node.Life.Err() != nil || ctx.Err() != nil {
				return
			}
			if last != now {
				last = now
				if !yield(Leadership{s.leaderOf(now), now.Term, now.Number}) {
					return
				}
				continue // what has changed meanwhile
			}
			select {
			case <-changed:
			case <-s.node.Life.Stopping():
			case <-ctx.Done():
			}
		}
	}
}

// Progress is how far a member is that its leader brings up to date.
type Progress struct {
	Index  uint64 `json:"index"`            // the newest log index in its state
	Behind uint64 `json:"behind"`           // log entries that it lacks
	Bytes  int64  `json:"bytes"`            // that it lacks: of a snapshot, and of the log
	Rate   int64  `json:"bytes_per_second"` // that it was sent lately
}

func (p Progress) String() string {
	return member.Progress(p).String()
}
