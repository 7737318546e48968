package member

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// TransferRequest asks the leader to hand leadership over.
type TransferRequest struct {
	To        string `json:"to"`        // the id of a voter; empty: any
	Forwarded bool   `json:"forwarded"` // by a member to its leader, which must not pass it on
}

// Transfer makes a voter the leader, or with an empty id any other than the present one,
// and waits until this node follows that.
func (ms *Members) Transfer(ctx context.Context, id string) error {
	var old roster.Peer // the leader that was asked, and may have handed over
	return ms.lead.ChangeThroughLeader(ctx, func(_ context.Context, tenure *lead.Tenure) error {
		if leader := tenure.Leader; roster.UserID(leader.Server) == id || id == "" && old != (roster.Peer{}) && leader != old {
			return nil
		}
		// Its answer counts although its tenure ends.
		asking, cancel := context.WithTimeout(ctx, ms.Patience())
		defer cancel()
		err := ms.transferThrough(asking, tenure, TransferRequest{To: id})
		if !errors.Is(err, errs.Unsent) {
			old = tenure.Leader
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: leadership was handed over, and the next leader is not known yet", errs.Unknown)
	})
}

func (ms *Members) transferThrough(ctx context.Context, tenure *lead.Tenure, req TransferRequest) error {
	if tenure.Leads {
		return ms.transferAsLeader(ctx, req)
	}
	req.Forwarded = true
	_, err := wire.CallJSON[wire.Raw](ctx, ms.Port, tenure.Leader, wire.CallTransfer, req)
	return err
}

// ServeTransfer is the other side.
func (ms *Members) ServeTransfer(ctx context.Context, req TransferRequest) (wire.Raw, error) {
	return nil, ms.lead.ServeChange(ctx, req.Forwarded, func(ctx context.Context, r *lead.Tenure) error { return ms.transferThrough(ctx, r, req) })
}

func (ms *Members) transferAsLeader(ctx context.Context, req TransferRequest) error {
	unlock, err := ms.LockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := ms.LeaderTerm(); err != nil {
		return err
	}
	config := ms.Configuration()
	to := raft.ServerID("")
	if req.To != "" {
		at := slices.IndexFunc(config.Servers, func(m raft.Server) bool { return roster.UserID(m.ID) == req.To })
		switch {
		case at < 0:
			return fmt.Errorf("hand leadership over: %w: no member is called %q", errs.NotFound, req.To)
		case config.Servers[at].Suffrage != raft.Voter:
			return fmt.Errorf("hand leadership over: %w: node %s does not vote", errs.Refused, req.To)
		case config.Servers[at].ID == ms.Server:
			return nil
		}
		if silent := ms.Silent(ctx, config.Servers[at:at+1]); len(silent) > 0 {
			return fmt.Errorf("hand leadership over: %w: %s", errs.Unreachable, silent[0])
		}
		to = config.Servers[at].ID
	}
	if !ms.HasOtherVoter() {
		return fmt.Errorf("hand leadership over: %w: there is no other voter", errs.Refused)
	}
	return ms.lead.TransferTo(ctx, to)
}
