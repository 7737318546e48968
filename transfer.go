package kvraft

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// transferRequest asks the leader to hand leadership over.
type transferRequest struct {
	To        string `json:"to"`        // the id of a voter; empty: any
	Forwarded bool   `json:"forwarded"` // by a member to its leader, which must not pass it on
}

// transfer makes a voter the leader, or with an empty id any other than the present one.
func (s *members) transfer(ctx context.Context, id string) error {
	var old roster.Peer // the leader that was asked, and may have handed over
	return s.lead.changeThroughLeader(ctx, func(_ context.Context, tenure *tenure) error {
		if leader := tenure.leader; roster.UserID(leader.Server) == id || id == "" && old != (roster.Peer{}) && leader != old {
			return nil
		}
		// Its answer counts although its tenure ends.
		asking, cancel := context.WithTimeout(ctx, s.patience())
		defer cancel()
		err := s.transferThrough(asking, tenure, transferRequest{To: id})
		if !errors.Is(err, errs.Unsent) {
			old = tenure.leader
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: leadership was handed over, and the next leader is not known yet", errs.Unknown)
	})
}

func (s *members) transferThrough(ctx context.Context, tenure *tenure, req transferRequest) error {
	if tenure.leads {
		return s.transferAsLeader(ctx, req)
	}
	req.Forwarded = true
	_, err := wire.CallJSON[wire.Raw](ctx, s.port, tenure.leader, wire.CallTransfer, req)
	return err
}

func (s *members) serveTransfer(ctx context.Context, req transferRequest) (wire.Raw, error) {
	return nil, s.lead.serveChange(ctx, req.Forwarded, func(ctx context.Context, r *tenure) error { return s.transferThrough(ctx, r, req) })
}

func (s *members) transferAsLeader(ctx context.Context, req transferRequest) error {
	unlock, err := s.lockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.leaderTerm(); err != nil {
		return err
	}
	config := s.configuration()
	to := raft.ServerID("")
	if req.To != "" {
		at := slices.IndexFunc(config.Servers, func(m raft.Server) bool { return roster.UserID(m.ID) == req.To })
		switch {
		case at < 0:
			return fmt.Errorf("hand leadership over: %w: no member is called %q", errs.NotFound, req.To)
		case config.Servers[at].Suffrage != raft.Voter:
			return fmt.Errorf("hand leadership over: %w: node %s does not vote", errs.Refused, req.To)
		case config.Servers[at].ID == s.server:
			return nil
		}
		if silent := s.silent(ctx, config.Servers[at:at+1]); len(silent) > 0 {
			return fmt.Errorf("hand leadership over: %w: %s", errs.Unreachable, silent[0])
		}
		to = config.Servers[at].ID
	}
	if !s.hasOtherVoter() {
		return fmt.Errorf("hand leadership over: %w: there is no other voter", errs.Refused)
	}
	return s.lead.transferTo(ctx, to)
}
