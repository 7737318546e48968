package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// RemoveRequest asks for a node to be made no member any more.
type RemoveRequest struct {
	ID        string `json:"id"`
	Force     bool   `json:"force"`
	MayReturn bool   `json:"may_return"`
	IfSilent  bool   `json:"if_silent"`
	Forwarded bool   `json:"forwarded"` // by a member to its leader, which must not pass it on

	Term uint64 `json:"term,omitempty"` // of the leader that is asked: it does nothing about it in another. 0: of one that does not know this
}

// Remove removes a member, through the leader, and waits until that is committed. It tells
// a refusal as such also when an attempt on an earlier leader is in doubt: that attempt had
// its effect in its own term, or never will have; and a leader has in its state what was
// done in the terms before its own, and refuses nothing of which there is a note.
func (ms *Members) Remove(ctx context.Context, req RemoveRequest) error {
	var refusal error
	doubt := uint64(0) // the last term in which an attempt may have begun
	err := ms.lead.ChangeThroughLeader(ctx, func(ctx context.Context, tenure *lead.Tenure) error {
		req.Term = tenure.Term
		err := ms.removeThrough(ctx, tenure, req)
		switch {
		case errors.Is(err, errs.Unknown):
			doubt = tenure.Term
		case errors.Is(err, errs.NotFound), errors.Is(err, errs.Refused) && tenure.Term > doubt:
			refusal, err = err, nil
		case err != nil && !errors.Is(err, errs.Unsent):
			doubt = tenure.Term
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
func (ms *Members) removeThrough(ctx context.Context, tenure *lead.Tenure, req RemoveRequest) error {
	if req.Term == 0 {
		req.Term = tenure.Term
	}
	if tenure.Leads {
		if err := ms.removeMember(ctx, req); err != nil {
			return fmt.Errorf("remove node %s: %w", req.ID, err)
		}
		return nil
	}
	req.Forwarded = true
	_, err := wire.CallJSON[wire.Raw](ctx, ms.Port, tenure.Leader, wire.CallRemove, req)
	return err
}

// ServeRemove is the other side.
func (ms *Members) ServeRemove(ctx context.Context, req RemoveRequest) (wire.Raw, error) {
	return nil, ms.lead.ServeChange(ctx, req.Forwarded, func(ctx context.Context, r *lead.Tenure) error { return ms.removeThrough(ctx, r, req) })
}

// removeMember removes a member, as the leader.
func (ms *Members) removeMember(ctx context.Context, req RemoveRequest) error {
	unlock, err := ms.LockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := ms.lead.AwaitOwnTerm(ctx); err != nil {
		return err
	}
	if err := ms.lead.LeadsIn(req.Term); err != nil {
		return err
	}
	config := ms.Configuration()
	at := slices.IndexFunc(config.Servers, func(m raft.Server) bool { return roster.UserID(m.ID) == req.ID })
	if at < 0 {
		return ms.removeAgain(req)
	}
	m := config.Servers[at]
	err = ms.checkRemovable(ctx, config, m, req)
	switch {
	case err != nil && ms.IsRemoved(m.ID):
		return fmt.Errorf("%w: note was taken of it, and it goes on: %v", errs.Unknown, errs.Reason(err))
	case err != nil:
		return err
	}
	if err := ms.lead.LeadsIn(req.Term); err != nil {
		return err
	}
	if m.ID == ms.Server { // the next leader does it
		if err := ms.lead.TransferTo(ctx, ""); err != nil {
			return fmt.Errorf("%w: %v", errs.Unsent, errs.Reason(err)) // of the removal
		}
		return errs.NotLeader
	}
	if req.MayReturn {
		return ms.removeReturning(ctx, m)
	}
	return ms.removeForGood(ctx, m, req)
}

// removeAgain is for the id of a node that is no member any more. There is something
// to do when one has left that was to return, and now is not.
func (ms *Members) removeAgain(req RemoveRequest) error {
	left, removed := ms.Formerly(req.ID, LeftNote), ms.Formerly(req.ID, RemovedNote)
	switch {
	case len(left) == 0 && len(removed) == 0:
		return fmt.Errorf("%w: no member is called %q", errs.NotFound, req.ID)
	case req.MayReturn:
		return nil
	}
	for _, server := range left {
		if err := ms.WriteNote(RemovedNote(server), ms.Dated(Tombstone)); err != nil {
			return err
		}
		if err := ms.clearNote(LeftNote(server)); err != nil {
			return err
		}
	}
	return ms.clearNote(ReplicaNote(req.ID))
}

// removeReturning removes a member that may return. What it is to be then stays noted. It may have
// left before: the note is of this time.
func (ms *Members) removeReturning(ctx context.Context, m raft.Server) error {
	if err := ms.WriteNote(LeftNote(m.ID), ms.Dated("1")); err != nil {
		return err
	}
	return ms.Change(ctx, func() raft.Future { return ms.Raft.RemoveServer(m.ID, 0, ms.Patience()) })
}

// removeForGood removes a member for good, with what was noted of it.
func (ms *Members) removeForGood(ctx context.Context, m raft.Server, req RemoveRequest) error {
	if err := ms.removeIdentity(ctx, m, req); err != nil {
		return err
	}
	if err := ms.clearNote(ReplicaNote(roster.UserID(m.ID))); err != nil {
		return fmt.Errorf("%w: it is removed: %v", errs.Unknown, errs.Reason(err))
	}
	return nil
}

func (ms *Members) checkRemovable(ctx context.Context, config raft.Configuration, m raft.Server, req RemoveRequest) error {
	if req.IfSilent && len(ms.Silent(ctx, []raft.Server{m})) == 0 {
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
	silent := ms.Silent(ctx, rest)
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
func (ms *Members) removeIdentity(ctx context.Context, m raft.Server, req RemoveRequest) error {
	if !ms.IsRemoved(m.ID) {
		how := Tombstone
		if req.Force {
			how = tombstoneByForce
		}
		if err := ms.WriteNote(RemovedNote(m.ID), ms.Dated(how)); err != nil {
			return err
		}
	}
	err := ms.clearNote(LeftNote(m.ID))
	if err == nil {
		err = ms.Change(ctx, func() raft.Future { return ms.Raft.RemoveServer(m.ID, 0, ms.Patience()) })
	}
	if err != nil {
		return fmt.Errorf("%w: note was taken of it, and it goes on: %v", errs.Unknown, errs.Reason(err))
	}
	return nil
}
