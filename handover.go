package kvraft

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

// transferTo hands leadership over while the store runs: to one voter, or to any. What
// is written meanwhile waits, and then goes to the next leader.
func (s *tracker) transferTo(ctx context.Context, to raft.ServerID) error {
	near, cancel := context.WithTimeout(ctx, s.timing.Election)
	defer cancel()
	if _, err := s.findTarget(near, to); err != nil { // or writes would wait for it in vain
		return fmt.Errorf("hand leadership over: %w: %w", errs.Unsent, err)
	}
	release, ok := s.futures.Hold(ctx, s.timing.Election)
	if !ok {
		return fmt.Errorf("hand leadership over: %w: what is under way does not end", errs.Unsent)
	}
	defer release()
	return s.handOver(ctx, to)
}

// handOver gives leadership to another voter, which has the whole log, and
// returns when this node no longer leads. Nothing may be appended meanwhile: its
// caller has drained the futures.
//
// raft's own LeadershipTransfer is not used. When the leader loses its place in
// the middle of one, a flag stays behind by which raft, leader again later,
// refuses every write for good (hashicorp/raft issue 696).
func (s *tracker) handOver(ctx context.Context, to raft.ServerID) error {
	tenure := s.tenure()
	if !tenure.leads || !s.hasOtherVoter() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timing.Election)
	defer cancel()
	defer context.AfterFunc(tenure.ctx, cancel)()
	target, err := s.findTarget(ctx, to)
	if err != nil {
		return fmt.Errorf("hand leadership over: %w: %w", errs.Unsent, err)
	}
	asked := make(chan error, 1)
	if !s.life.Go(func() { asked <- s.timeoutNow(target) }) { // it may take longer than anybody is to wait
		return s.life.Err()
	}
	select {
	case err := <-asked:
		if err != nil {
			return fmt.Errorf("hand leadership over to %s: %w", roster.UserID(target.Server), err)
		}
		<-ctx.Done()
	case <-ctx.Done():
	}
	if tenure.ctx.Err() == nil {
		return fmt.Errorf("hand leadership over: %s did not take it", roster.UserID(target.Server))
	}
	return nil
}

// electSelf makes a node that is the only voter stand for election at once: there
// is nobody to wait for.
func (s *tracker) electSelf() {
	config := s.configuration()
	if len(roster.Voters(config)) != 1 || !roster.IsVoter(config, s.server) {
		return
	}
	if err := s.campaign(s.ctx); err != nil {
		s.log.Info("the only voter waits for its election timeout", "error", err)
	}
}

// timeoutNow makes a voter stand for election at once (section 3.10 of Ongaro's
// thesis).
func (s *tracker) timeoutNow(to roster.Peer) error {
	return s.raftNet.TimeoutNow(to.Server, raft.ServerAddress(to.Addr), s.timeoutNowRequest(), new(raft.TimeoutNowResponse))
}

// campaign is timeoutNow for this node, without the network.
func (s *tracker) campaign(ctx context.Context) error { return s.askRaft(ctx, s.timeoutNowRequest()) }

func (s *tracker) timeoutNowRequest() *raft.TimeoutNowRequest {
	return &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.server), Addr: []byte(s.addr),
	}}
}

// findTarget waits for a voter, or for that very one, to have every entry of this
// node's log.
func (s *tracker) findTarget(ctx context.Context, to raft.ServerID) (roster.Peer, error) {
	const poll = 5 * time.Millisecond
	end := s.raft.LastIndex() // of what is there now: the log may grow meanwhile
	for {
		if target, ok := s.upToDateVoter(ctx, to, end); ok {
			return target, nil
		}
		if !sleep.For(ctx, poll) {
			return roster.Peer{}, errors.New("no voter to hand it to has the whole log")
		}
	}
}

func (s *tracker) upToDateVoter(ctx context.Context, to raft.ServerID, end uint64) (roster.Peer, bool) {
	ctx, cancel := context.WithCancel(ctx)
	found := make(chan roster.Peer, len(s.configuration().Servers))
	var asked sync.WaitGroup
	for _, server := range s.configuration().Servers {
		if server.Suffrage != raft.Voter || server.ID == s.server || to != "" && server.ID != to {
			continue
		}
		asked.Go(func() {
			voter := roster.Peer{Server: server.ID, Addr: string(server.Address)}
			if last, err := s.lastIndexOf(ctx, voter); err == nil && last >= end {
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

// stepDown makes raft follow nobody, in the next term: as if a candidate that cannot win
// had asked for its vote.
func (s *tracker) stepDown(ctx context.Context, term uint64, candidate roster.Peer) error {
	return s.askRaft(ctx, &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(candidate.Server), Addr: s.raftNet.EncodePeer(candidate.Server, raft.ServerAddress(candidate.Addr))},
		Term:      term + 1, LeadershipTransfer: true,
	})
}

// handOverTo makes target stand for election, steps down if that is of no use, and abstains
// for a while.
func (s *tracker) handOverTo(r *tenure, target roster.Peer, abstain time.Duration) {
	s.raftNet.Abstain(abstain)
	asked := make(chan error, 1)
	s.life.Go(func() { asked <- s.timeoutNow(target) })
	select {
	case <-time.After(s.timing.Election):
	case <-r.ctx.Done():
		return
	}
	if err := s.stepDown(r.ctx, r.term, target); err != nil {
		s.log.Warn("step down", "error", err)
	}
}
