package kvraft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
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

func (s *node) serveLastIndex(context.Context, []byte) ([]byte, error) {
	return binary.BigEndian.AppendUint64(nil, s.raft.LastIndex()), nil
}
