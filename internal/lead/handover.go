package lead

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
)

// TransferTo hands leadership over while the store runs: to one voter, or to any. What
// is written meanwhile waits, and then goes to the next leader.
func (s *Tracker) TransferTo(ctx context.Context, to raft.ServerID) error {
	near, cancel := context.WithTimeout(ctx, s.Timing.Election)
	defer cancel()
	if _, err := s.findTarget(near, to); err != nil { // or writes would wait for it in vain
		return fmt.Errorf("hand leadership over: %w: %w", errs.Unsent, err)
	}
	release, ok := s.Futures.Hold(ctx, s.Timing.Election)
	if !ok {
		return fmt.Errorf("hand leadership over: %w: what is under way does not end", errs.Unsent)
	}
	defer release()
	return s.HandOver(ctx, to)
}

// HandOver gives leadership to another voter, which has the whole log, and
// returns when this node no longer leads. Nothing may be appended meanwhile: its
// caller has drained the futures.
//
// raft's own LeadershipTransfer is not used. When the leader loses its place in
// the middle of one, a flag stays behind by which raft, leader again later,
// refuses every write for good (hashicorp/raft issue 696).
func (s *Tracker) HandOver(ctx context.Context, to raft.ServerID) error {
	tenure := s.Tenure()
	if !tenure.Leads || !s.HasOtherVoter() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timing.Election)
	defer cancel()
	defer context.AfterFunc(tenure.Ctx, cancel)()
	target, err := s.findTarget(ctx, to)
	if err != nil {
		return fmt.Errorf("hand leadership over: %w: %w", errs.Unsent, err)
	}
	asked := make(chan error, 1)
	if !s.Life.Go(func() { asked <- s.TimeoutNow(target) }) { // it may take longer than anybody is to wait
		return s.Life.Err()
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

// ElectSelf makes a node that is the only voter stand for election at once: there
// is nobody to wait for.
func (s *Tracker) ElectSelf() {
	config := s.Configuration()
	if len(roster.Voters(config)) != 1 || !roster.IsVoter(config, s.Server) {
		return
	}
	if err := s.Campaign(s.Ctx); err != nil {
		s.Log.Info("the only voter waits for its election timeout", "error", err)
	}
}

// TimeoutNow makes a voter stand for election at once (section 3.10 of Ongaro's
// thesis).
func (s *Tracker) TimeoutNow(to roster.Peer) error {
	return s.RaftNet.TimeoutNow(to.Server, raft.ServerAddress(to.Addr), s.timeoutNowRequest(), new(raft.TimeoutNowResponse))
}

// Campaign is timeoutNow for this node, without the network.
func (s *Tracker) Campaign(ctx context.Context) error { return s.AskRaft(ctx, s.timeoutNowRequest()) }

func (s *Tracker) timeoutNowRequest() *raft.TimeoutNowRequest {
	return &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.Server), Addr: []byte(s.Addr),
	}}
}

// findTarget waits for a voter, or for that very one, to have every entry of this
// node's log.
func (s *Tracker) findTarget(ctx context.Context, to raft.ServerID) (roster.Peer, error) {
	const poll = 5 * time.Millisecond
	end := s.Raft.LastIndex() // of what is there now: the log may grow meanwhile
	for {
		if target, ok := s.upToDateVoter(ctx, to, end); ok {
			return target, nil
		}
		if !sleep.For(ctx, poll) {
			return roster.Peer{}, errors.New("no voter to hand it to has the whole log")
		}
	}
}

func (s *Tracker) upToDateVoter(ctx context.Context, to raft.ServerID, end uint64) (roster.Peer, bool) {
	ctx, cancel := context.WithCancel(ctx)
	found := make(chan roster.Peer, len(s.Configuration().Servers))
	var asked sync.WaitGroup
	for _, server := range s.Configuration().Servers {
		if server.Suffrage != raft.Voter || server.ID == s.Server || to != "" && server.ID != to {
			continue
		}
		asked.Go(func() {
			voter := roster.Peer{Server: server.ID, Addr: string(server.Address)}
			if last, err := s.LastIndexOf(ctx, voter); err == nil && last >= end {
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

// StepDown makes raft follow nobody, in the next term: as if a candidate that cannot win
// had asked for its vote.
func (s *Tracker) StepDown(ctx context.Context, term uint64, candidate roster.Peer) error {
	return s.AskRaft(ctx, &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(candidate.Server), Addr: s.RaftNet.EncodePeer(candidate.Server, raft.ServerAddress(candidate.Addr))},
		Term:      term + 1, LeadershipTransfer: true,
	})
}

// HandOverTo makes target stand for election, steps down if that is of no use, and abstains
// for a while.
func (s *Tracker) HandOverTo(r *Tenure, target roster.Peer, abstain time.Duration) {
	s.RaftNet.Abstain(abstain)
	asked := make(chan error, 1)
	s.Life.Go(func() { asked <- s.TimeoutNow(target) })
	select {
	case <-time.After(s.Timing.Election):
	case <-r.Ctx.Done():
		return
	}
	if err := s.StepDown(r.Ctx, r.Term, target); err != nil {
		s.Log.Warn("step down", "error", err)
	}
}
