package lead

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"github.com/kvraft/kvraft/internal/wire"
)

// TransferTo hands leadership over while the store runs: to one voter, or with an empty
// id to any. What is written meanwhile waits, and then goes to the next leader. An error
// is errs.Unsent when nobody was asked to take it.
func (t *Tracker) TransferTo(ctx context.Context, to raft.ServerID) error {
	near, cancel := context.WithTimeout(ctx, t.Timing.Election)
	defer cancel()
	if _, err := t.findTarget(near, to); err != nil { // or writes would wait for it in vain
		return fmt.Errorf("hand leadership over: %w: %w", errs.Unsent, err)
	}
	release, ok := t.Futures.Hold(ctx, t.Timing.Election)
	if !ok {
		return fmt.Errorf("hand leadership over: %w: what is under way does not end", errs.Unsent)
	}
	defer release()
	return t.HandOver(ctx, to)
}

// HandOver gives leadership to another voter, which has the whole log, and
// returns when this node no longer leads, or after an election timeout. Nothing may be
// appended meanwhile: its caller has drained the futures.
//
// raft's own LeadershipTransfer is not used. When the leader loses its place in
// the middle of one, a flag stays behind by which raft, leader again later,
// refuses every write for good (hashicorp/raft issue 696).
func (t *Tracker) HandOver(ctx context.Context, to raft.ServerID) error {
	tenure := t.Tenure()
	if !tenure.Leads || !t.HasOtherVoter() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.Timing.Election)
	defer cancel()
	defer context.AfterFunc(tenure.Ctx, cancel)()
	target, err := t.findTarget(ctx, to)
	if err != nil {
		return fmt.Errorf("hand leadership over: %w: %w", errs.Unsent, err)
	}
	asked := make(chan error, 1)
	if !t.Life.Go(func() { asked <- t.TimeoutNow(target) }) { // it may take longer than anybody is to wait
		return t.Life.Err()
	}
	select {
	case err := <-asked:
		if err != nil {
			return fmt.Errorf("hand leadership over to %s: %w", roster.UserID(target.Server), err)
		}
		<-ctx.Done()
	case <-ctx.Done():
	}
	if tenure.Ctx.Err() == nil {
		return fmt.Errorf("hand leadership over: %s did not take it", roster.UserID(target.Server))
	}
	return nil
}

// TimeoutNow makes a voter stand for election at once (section 3.10 of Ongaro's
// thesis).
func (t *Tracker) TimeoutNow(to roster.Peer) error {
	return t.RaftNet.TimeoutNow(to.Server, raft.ServerAddress(to.Addr), t.timeoutNowRequest(), new(raft.TimeoutNowResponse))
}

// Campaign is TimeoutNow for this node, without the network.
func (t *Tracker) Campaign(ctx context.Context) error { return t.AskRaft(ctx, t.timeoutNowRequest()) }

func (t *Tracker) timeoutNowRequest() *raft.TimeoutNowRequest {
	return &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(t.Server), Addr: []byte(t.Addr),
	}}
}

// findTarget waits for a voter, or for that very one, to have every entry of this
// node's log.
func (t *Tracker) findTarget(ctx context.Context, to raft.ServerID) (roster.Peer, error) {
	const poll = 5 * time.Millisecond
	end := t.Raft.LastIndex() // of what is there now: the log may grow meanwhile
	for {
		if target, ok := t.upToDateVoter(ctx, to, end); ok {
			return target, nil
		}
		if !sleep.For(ctx, poll) {
			return roster.Peer{}, errors.New("no voter to hand it to has the whole log")
		}
	}
}

func (t *Tracker) upToDateVoter(ctx context.Context, to raft.ServerID, end uint64) (roster.Peer, bool) {
	ctx, cancel := context.WithCancel(ctx)
	found := make(chan roster.Peer, len(t.Configuration().Servers))
	var asked sync.WaitGroup
	for _, server := range t.Configuration().Servers {
		if server.Suffrage != raft.Voter || server.ID == t.Server || to != "" && server.ID != to {
			continue
		}
		asked.Go(func() {
			voter := roster.Peer{Server: server.ID, Addr: string(server.Address)}
			if last, err := t.lastIndexOf(ctx, voter); err == nil && last >= end {
				found <- voter
				cancel() // the others need not answer
			}
		})
	}
	asked.Wait()
	cancel()
	select {
	case target := <-found:
		return target, true
	default:
		return roster.Peer{}, false
	}
}

// lastIndexOf asks another node for the last index of its log.
func (t *Tracker) lastIndexOf(ctx context.Context, to roster.Peer) (uint64, error) {
	answer, err := t.Port.Call(ctx, to, wire.CallLastIndex, nil)
	if err != nil {
		return 0, err
	}
	return wire.DecodeUint64(answer)
}

// ServeLastIndex is the other side.
func (t *Tracker) ServeLastIndex(context.Context, []byte) ([]byte, error) {
	return binary.BigEndian.AppendUint64(nil, t.Raft.LastIndex()), nil
}

// StepDown makes raft follow nobody, in the term after term: as if a candidate that
// cannot win had asked for its vote.
func (t *Tracker) StepDown(ctx context.Context, term uint64, candidate roster.Peer) error {
	return t.AskRaft(ctx, &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(candidate.Server), Addr: t.RaftNet.EncodePeer(candidate.Server, raft.ServerAddress(candidate.Addr))},
		Term:      term + 1, LeadershipTransfer: true,
	})
}

// HandOverTo makes target stand for election, steps down if that is of no use, and asks
// nobody for a vote for so long. Unlike HandOver it drains nothing: it is for a leader
// that commits nothing, or that nobody reaches.
func (t *Tracker) HandOverTo(r *Tenure, target roster.Peer, abstain time.Duration) {
	t.RaftNet.Abstain(abstain)
	asked := make(chan error, 1)
	t.Life.Go(func() { asked <- t.TimeoutNow(target) })
	select {
	case <-time.After(t.Timing.Election):
	case <-r.Ctx.Done():
		return
	}
	if err := t.StepDown(r.Ctx, r.Term, target); err != nil {
		t.Log.Warn("step down", "error", err)
	}
}
