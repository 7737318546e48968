package kvraft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// removeRequest asks for a node to be made no member any more.
type removeRequest struct {
	ID        string `json:"id"`
	Force     bool   `json:"force"`
	MayReturn bool   `json:"may_return"`
	IfSilent  bool   `json:"if_silent"`
	Forwarded bool   `json:"forwarded"` // by a member to its leader, which must not pass it on

	Term uint64 `json:"term,omitempty"` // of the leader that is asked: it does nothing about it in another. 0: of one that does not know this
}

// removeFor also tells a refusal as such when an attempt on an earlier leader is in doubt.
// That one had its effect in its own term, or never will have; and a leader has in its
// state what was done in the terms before it, and refuses nothing of which there is a
// note.
func (s *members) removeFor(ctx context.Context, req removeRequest) error {
	var refusal error
	doubt := uint64(0) // the last term in which an attempt may have begun
	err := s.lead.changeThroughLeader(ctx, func(ctx context.Context, tenure *tenure) error {
		req.Term = tenure.term
		err := s.removeThrough(ctx, tenure, req)
		switch {
		case errors.Is(err, errs.Unknown):
			doubt = tenure.term
		case errors.Is(err, errs.NotFound), errors.Is(err, errs.Refused) && tenure.term > doubt:
			refusal, err = err, nil
		case err != nil && !errors.Is(err, errs.Unsent):
			doubt = tenure.term
		}
		return err
	})
	if err != nil {
		return err
	}
	return refusal
}

// removeThrough keeps the term in which it was asked: a request that was held up on the
// way is not one of the term in which it arrives.
func (s *members) removeThrough(ctx context.Context, tenure *tenure, req removeRequest) error {
	if req.Term == 0 {
		req.Term = tenure.term
	}
	if tenure.leads {
		if err := s.removeMember(ctx, req); err != nil {
			return fmt.Errorf("remove node %s: %w", req.ID, err)
		}
		return nil
	}
	req.Forwarded = true
	_, err := wire.CallJSON[wire.Raw](ctx, s.port, tenure.leader, wire.CallRemove, req)
	return err
}

func (s *members) serveRemove(ctx context.Context, req removeRequest) (wire.Raw, error) {
	return nil, s.lead.serveChange(ctx, req.Forwarded, func(ctx context.Context, r *tenure) error { return s.removeThrough(ctx, r, req) })
}

// removeMember removes a member, as the leader.
func (s *members) removeMember(ctx context.Context, req removeRequest) error {
	unlock, err := s.lockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.lead.awaitOwnTerm(ctx); err != nil {
		return err
	}
	if err := s.lead.leadsIn(req.Term); err != nil {
		return err
	}
	config := s.configuration()
	at := slices.IndexFunc(config.Servers, func(m raft.Server) bool { return roster.UserID(m.ID) == req.ID })
	if at < 0 {
		return s.removeAgain(req)
	}
	m := config.Servers[at]
	err = s.checkRemovable(ctx, config, m, req)
	switch {
	case err != nil && s.isRemoved(m.ID):
		return fmt.Errorf("%w: note was taken of it, and it goes on: %v", errs.Unknown, errs.Reason(err))
	case err != nil:
		return err
	}
	if err := s.lead.leadsIn(req.Term); err != nil {
		return err
	}
	if m.ID == s.server { // the next leader does it
		if err := s.lead.transferTo(ctx, ""); err != nil {
			return fmt.Errorf("%w: %v", errs.Unsent, errs.Reason(err)) // of the removal
		}
		return errs.NotLeader
	}
	if req.MayReturn {
		return s.removeReturning(ctx, m)
	}
	return s.removeForGood(ctx, m, req)
}

// removeAgain is for the id of a node that is no member any more. There is something
// to do when one has left that was to return, and now is not.
func (s *members) removeAgain(req removeRequest) error {
	left, removed := s.formerly(req.ID, leftNote), s.formerly(req.ID, removedNote)
	switch {
	case len(left) == 0 && len(removed) == 0:
		return fmt.Errorf("%w: no member is called %q", errs.NotFound, req.ID)
	case req.MayReturn:
		return nil
	}
	for _, server := range left {
		if err := s.writeNote(removedNote(server), s.dated(tombstone)); err != nil {
			return err
		}
		if err := s.clearNote(leftNote(server)); err != nil {
			return err
		}
	}
	return s.clearNote(replicaNote(req.ID))
}

// removeReturning removes a member that may return. What it is to be then stays noted. It may have
// left before: the note is of this time.
func (s *members) removeReturning(ctx context.Context, m raft.Server) error {
	if err := s.writeNote(leftNote(m.ID), s.dated("1")); err != nil {
		return err
	}
	return s.change(ctx, func() raft.Future { return s.raft.RemoveServer(m.ID, 0, s.patience()) })
}

// removeForGood removes a member for good, with what was noted of it.
func (s *members) removeForGood(ctx context.Context, m raft.Server, req removeRequest) error {
	if err := s.removeIdentity(ctx, m, req); err != nil {
		return err
	}
	if err := s.clearNote(replicaNote(roster.UserID(m.ID))); err != nil {
		return fmt.Errorf("%w: it is removed: %v", errs.Unknown, errs.Reason(err))
	}
	return nil
}

func (s *members) checkRemovable(ctx context.Context, config raft.Configuration, m raft.Server, req removeRequest) error {
	if req.IfSilent && len(s.silent(ctx, []raft.Server{m})) == 0 {
		return fmt.Errorf("%w: it answers at %s", errs.Refused, roster.DialAddr(string(m.Address)))
	}
	if ctx.Err() != nil { // that it is silent then says nothing
		return fmt.Errorf("%w: %w", errs.Unsent, errs.Ended(ctx))
	}
	if m.Suffrage != raft.Voter {
		return nil
	}
	rest := slices.DeleteFunc(roster.Voters(config), func(o raft.Server) bool { return o.ID == m.ID })
	if len(rest) == 0 {
		return fmt.Errorf("%w: it is the only voter, and the cluster would be gone with it", errs.Refused)
	}
	if req.Force {
		return nil
	}
	silent := s.silent(ctx, rest)
	if ctx.Err() != nil { // likewise
		return fmt.Errorf("%w: %w", errs.Unsent, errs.Ended(ctx))
	}
	if alive := len(rest) - len(silent); alive <= len(rest)/2 {
		return fmt.Errorf("%w: of the %d voters that would remain %d answer, which is no majority: bring others back first, or force it; silent are %s",
			errs.Refused, len(rest), alive, strings.Join(silent, ", "))
	}
	return nil
}

// removeIdentity removes an identity for good. The note comes first: a leader that dies
// in between leaves its successor word of what is to be done, and from then on
// nobody can say that nothing was changed. That it has left before does not count any
// more.
func (s *members) removeIdentity(ctx context.Context, m raft.Server, req removeRequest) error {
	if !s.isRemoved(m.ID) {
		how := tombstone
		if req.Force {
			how = tombstoneByForce
		}
		if err := s.writeNote(removedNote(m.ID), s.dated(how)); err != nil {
			return err
		}
	}
	err := s.clearNote(leftNote(m.ID))
	if err == nil {
		err = s.change(ctx, func() raft.Future { return s.raft.RemoveServer(m.ID, 0, s.patience()) })
	}
	if err != nil {
		return fmt.Errorf("%w: note was taken of it, and it goes on: %v", errs.Unknown, errs.Reason(err))
	}
	return nil
}
