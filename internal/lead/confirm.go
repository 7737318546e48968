package lead

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// Confirm is one round (ReadIndex, section 6.4 of Ongaro's thesis). It returns
// when this node's state holds everything that was committed when the round
// began, by whichever leader.
//
// The order matters. The term is read on both sides of the state, or everybody
// could confirm the term after the one in which this node was leader. An entry
// of the term must be applied, or the commit index may lag behind what earlier
// leaders committed. The commit index is noted, not the state machine's: a
// follower may already have shown what this node's state machine has yet to
// apply. Each voter of the latest configuration is asked by its identity, and
// this node counts only if it is one: while its own removal is under way, it is
// not. Configurations change by one server at a time, so a majority of this one
// shares a voter with any majority that could elect the next leader.
//
// raft's VerifyLeader will not do: it counts answers that were sent before the
// call, and those of non-voters.
func (t *Tracker) Confirm() (index uint64, err error) {
	ctx, cancel := context.WithTimeout(t.Ctx, t.Timing.Heartbeat)
	defer cancel()
	term, err := t.LeaderTerm()
	if err != nil {
		return 0, err
	}
	if err := t.State.AwaitTerm(ctx, term); err != nil {
		return 0, fmt.Errorf("wait for the first entry of term %d: %w", term, err)
	}
	index = t.Raft.CommitIndex()
	if err := t.AskVoters(ctx, term); err != nil {
		return 0, err
	}
	if err := t.State.AwaitIndex(ctx, index); err != nil {
		return 0, fmt.Errorf("wait for log index %d: %w", index, err)
	}
	return index, nil
}

// AskVoters returns nil once a majority of the voters has seen no term after
// term. The answers that it does not wait for keep their connections busy for a
// while; a voter that is slow is left out of further rounds meanwhile.
func (t *Tracker) AskVoters(ctx context.Context, term uint64) error {
	voters, err := t.votersIn(term)
	if err != nil {
		return err
	}
	answers := make(chan error, len(voters))
	yes, asked := 0, 0
	for _, server := range voters {
		if server.ID == t.Server {
			yes++
		} else if t.askInBackground(server, term, answers) {
			asked++
		}
	}
	last := errors.New("no other voter could be asked")
	for ; yes <= len(voters)/2; asked-- {
		if asked == 0 {
			return fmt.Errorf("%w: no majority confirmed this leader: %v", errs.Unsent, last)
		}
		select {
		case err := <-answers:
			if err == nil {
				yes++
			} else {
				last = err
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: no majority confirmed this leader: %w", errs.Unsent, errs.Ended(ctx))
		}
	}
	return nil
}

// votersIn are those of the newest configuration, which is that of the leader of the
// term: this node still leads in it after it has read them. A configuration of a later
// leader may be without the voters that elected that one, down to this node alone.
func (t *Tracker) votersIn(term uint64) ([]raft.Server, error) {
	voters := roster.Voters(t.Configuration())
	return voters, t.LeadsIn(term)
}

// askInBackground puts one answer into answers, unless it returns false.
func (t *Tracker) askInBackground(server raft.Server, term uint64, answers chan<- error) bool {
	release, ok := t.inFlight.Acquire(server.ID)
	if !ok {
		return false
	}
	return t.Life.Go(func() {
		defer release()
		ctx, cancel := context.WithTimeout(t.Ctx, t.Timing.Heartbeat)
		defer cancel()
		answers <- t.askVoter(ctx, server, term)
	})
}

func (t *Tracker) askVoter(ctx context.Context, server raft.Server, term uint64) error {
	to := roster.Peer{Server: server.ID, Addr: string(server.Address)}
	answer, err := t.Port.Call(ctx, to, wire.CallConfirm, binary.BigEndian.AppendUint64(nil, term))
	if err != nil {
		return err
	}
	if len(answer) != 1 || answer[0] != 1 {
		return fmt.Errorf("node %s has seen a later term", roster.UserID(server.ID))
	}
	return nil
}

// ServeConfirm answers for the round of another node. CurrentTerm is in
// memory, and raft advances it before it answers any vote: the answer waits for
// no disk.
func (t *Tracker) ServeConfirm(_ context.Context, payload []byte) ([]byte, error) {
	term, err := wire.DecodeUint64(payload)
	if err != nil {
		return nil, err
	}
	if !t.IsPlaced() {
		return nil, wire.ErrUnplaced
	}
	if t.Raft.CurrentTerm() <= term {
		return []byte{1}, nil
	}
	return []byte{0}, nil
}
