package member

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// What a member is meant to be. The cluster takes a note of each replica, which
// outlives the leader that was asked.
const (
	RoleVoter   = "voter"
	RoleReplica = "replica"
)

// JoinRequest asks for a node to be made a member.
type JoinRequest struct {
	ID     string `json:"id"`
	Addr   string `json:"addr"`   // where the node is reached
	Role   string `json:"role"`   // empty: what is noted of the id, and else a voter
	Itself bool   `json:"itself"` // by the node itself: its Role counts when it is admitted, and no more once it is a member
	Away   bool   `json:"away"`   // by a node that has left: it is not admitted, and learns whether it is a member again

	Server  raft.ServerID `json:"server,omitempty"`  // if by the node itself
	Process string        `json:"process,omitempty"` // likewise, see wire.Welcome

	Forwarded bool `json:"forwarded"` // by a member to its leader, which must not pass it on
}

// ErrRemovedNode is what a removed node is told that wants to be a member again.
var ErrRemovedNode = fmt.Errorf("%w; empty its data directory to let it join as a new node", errs.Removed)

// Join makes a node a member, through the leader, and waits until it has caught up and has
// its vote, unless it is a replica.
func (ms *Members) Join(ctx context.Context, req JoinRequest) error {
	return ms.lead.ChangeThroughLeader(ctx, func(ctx context.Context, tenure *lead.Tenure) error {
		return ms.joinThrough(ctx, tenure, req)
	})
}

func (ms *Members) joinThrough(ctx context.Context, tenure *lead.Tenure, req JoinRequest) error {
	if tenure.Leads {
		return ms.addMember(ctx, tenure, req)
	}
	req.Forwarded = true
	_, err := wire.CallJSON[wire.Raw](ctx, ms.Port, tenure.Leader, wire.CallJoin, req)
	return err
}

// ServeJoin is the other side.
func (ms *Members) ServeJoin(ctx context.Context, req JoinRequest) (wire.Raw, error) {
	return nil, ms.lead.ServeChange(ctx, req.Forwarded, func(ctx context.Context, r *lead.Tenure) error { return ms.joinThrough(ctx, r, req) })
}

// addMember makes a node a member, as the leader. The order is what matters: a
// node that was not reached never counts for the quorum, and one that has not
// caught up does not hold it up.
func (ms *Members) addMember(ctx context.Context, tenure *lead.Tenure, req JoinRequest) error {
	server, err := ms.addNonvoter(ctx, req)
	if err != nil {
		return fmt.Errorf("join node %s at %s: %w", req.ID, req.Addr, err)
	}
	switch {
	case req.Away: // it hears so from a leader that a majority confirms
		_, err := ms.lead.Rounds.Join(ctx)
		return err
	case roster.IsVoter(ms.Configuration(), server.ID):
		return nil
	}
	err = ms.bringUp(ctx, tenure, server)
	if err == nil && req.Role == RoleVoter && !roster.IsVoter(ms.Configuration(), server.ID) {
		err = errors.New("another call has made it a replica meanwhile")
	}
	if err != nil { // it is a member already
		return fmt.Errorf("join node %s at %s: %w: %v", req.ID, req.Addr, errs.Unknown, errs.Reason(err))
	}
	return nil
}
