package kvraft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
)

// reign is the time during which a node sees one leader, or none.
type reign struct {
	leader peer   // zero: none is known
	leads  bool   // this node is the leader
	term   uint64 // if it leads: of its leadership
	ctx    context.Context
	cancel context.CancelFunc // ends ctx, and with it what was asked of this leader
}

// court holds the present reign, and what keeps a node from having one.
type court struct {
	mu      sync.Mutex
	reign   *reign        // guarded by mu
	joinErr error         // guarded by mu: why this node is not admitted; nil: it is, or has not asked yet
	changed chan struct{} // guarded by mu: closed and replaced when one of them changes
}

func (s *Store) reign() *reign {
	s.court.mu.Lock()
	defer s.court.mu.Unlock()
	return s.court.reign
}

// Leader returns the leader that this node knows, and false if there is none at
// the moment.
func (s *Store) Leader() (Node, bool) {
	r := s.reign()
	return r.leader.node(), r.leader != peer{}
}

// WaitLeader waits until this node knows a leader. On a node that no cluster has
// admitted yet it fails with ErrRefused when a member has refused to, and none
// has agreed; the node goes on asking. Other errors: ErrClosed, and ErrNoLeader
// with the context's error.
func (s *Store) WaitLeader(ctx context.Context) (Node, error) {
	for {
		s.court.mu.Lock()
		r, joinErr, changed := s.court.reign, s.court.joinErr, s.court.changed
		s.court.mu.Unlock()
		switch {
		case s.closedErr() != nil:
			return Node{}, s.closedErr()
		case r.leader != peer{}:
			return r.leader.node(), nil
		case errors.Is(joinErr, ErrRefused) && s.state() == Joining:
			return Node{}, joinErr
		}
		select {
		case <-changed:
		case <-s.closing:
		case <-ctx.Done():
			return Node{}, noLeader(ctx, joinErr)
		}
	}
}

// watchRaft follows raft's leadership until the store stops. The observer's
// channel holds one signal, and what it signals is read afresh each time, so
// that none is missed and raft never waits.
func (s *Store) watchRaft() {
	signals := make(chan raft.Observation, 1)
	observer := raft.NewObserver(signals, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.RaftState, raft.LeaderObservation:
			return true
		}
		return false
	})
	s.raft.RegisterObserver(observer)
	defer s.raft.DeregisterObserver(observer)
	for {
		s.updateReign()
		select {
		case <-signals:
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *Store) updateReign() {
	addr, id := s.raft.LeaderWithID()
	now := &reign{leader: peer{id, string(addr)}, term: s.raft.CurrentTerm()}
	now.leads = s.raft.State() == raft.Leader
	if now.leads {
		now.leader = peer{s.server, s.opts.advertise}
	} else {
		now.term = 0
		if id == s.server { // was the leader a moment ago; a signal will follow
			now.leader = peer{}
		}
	}
	if !s.replaceReign(now) {
		return
	}
	s.log.Info("leadership", "leader", now.leader.node().ID, "leads", now.leads)
	if now.leads {
		s.work.Go(func() { s.openTerm(now) })
	}
}

// replaceReign reports whether now differs from what was before.
func (s *Store) replaceReign(now *reign) bool {
	c := &s.court
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.reign
	if old.leader == now.leader && old.leads == now.leads && old.term == now.term {
		return false
	}
	now.ctx, now.cancel = context.WithCancel(s.ctx)
	c.reign = now
	old.cancel()
	close(c.changed)
	c.changed = make(chan struct{})
	return true
}

func (s *Store) setJoinErr(err error) {
	c := &s.court
	c.mu.Lock()
	defer c.mu.Unlock()
	c.joinErr = err
	close(c.changed)
	c.changed = make(chan struct{})
}

// openTerm puts an empty command into the log. When the state machine sees it,
// everything that earlier leaders committed is in the state: reads of this term
// may begin. raft's own first entry never reaches the state machine.
func (s *Store) openTerm(r *reign) {
	const wait = 10 * time.Millisecond
	for r.ctx.Err() == nil {
		_, err := s.apply(command.Append(nil, nil))
		if err == nil {
			return
		}
		s.log.Warn("open the term", "term", r.term, "error", err)
		select {
		case <-time.After(wait):
		case <-r.ctx.Done():
		}
	}
}

// electSelf makes a node that is the only voter stand for election at once: there
// is nobody to wait for.
func (s *Store) electSelf() {
	config := s.configuration()
	voters := 0
	for _, server := range config.Servers {
		if server.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters != 1 || !isVoter(config, s.server) {
		return
	}
	if err := s.timeoutNow(peer{s.server, s.opts.advertise}); err != nil {
		s.log.Info("the only voter waits for its election timeout", "error", err)
	}
}

// timeoutNow makes a voter stand for election at once (section 3.10 of Ongaro's
// thesis).
func (s *Store) timeoutNow(to peer) error {
	req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.server), Addr: []byte(s.opts.advertise),
	}}
	return s.raftTransport.TimeoutNow(to.server, raft.ServerAddress(to.addr), req, new(raft.TimeoutNowResponse))
}

// handOver gives leadership to another voter, if there is one that has the whole
// log, and returns when this node no longer leads. Nothing may be appended
// meanwhile: its caller has drained the futures.
//
// raft's own LeadershipTransfer is not used. When the leader loses its place in
// the middle of one, a flag stays behind by which raft, leader again later,
// refuses every write for good (hashicorp/raft issue 696).
func (s *Store) handOver() error {
	reign := s.reign()
	if !reign.leads || !s.hasOtherVoter() {
		return nil
	}
	ctx, cancel := context.WithTimeout(reign.ctx, s.opts.timing.Election)
	defer cancel()
	heir, err := s.findHeir(ctx)
	if err != nil {
		return fmt.Errorf("hand leadership over: %w", err)
	}
	if err := s.timeoutNow(heir); err != nil {
		return fmt.Errorf("hand leadership over to %s: %w", userID(heir.server), err)
	}
	<-ctx.Done()
	if reign.ctx.Err() == nil {
		return fmt.Errorf("hand leadership over: %s did not take it", userID(heir.server))
	}
	return nil
}

// findHeir waits for a voter that has every entry of this node's log.
func (s *Store) findHeir(ctx context.Context) (peer, error) {
	const poll = 5 * time.Millisecond
	for {
		if heir, ok := s.upToDateVoter(ctx); ok {
			return heir, nil
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return peer{}, errors.New("no other voter has the whole log")
		}
	}
}

func (s *Store) upToDateVoter(ctx context.Context) (peer, bool) {
	ctx, cancel := context.WithCancel(ctx)
	found := make(chan peer, len(s.configuration().Servers))
	var asked sync.WaitGroup
	for _, server := range s.configuration().Servers {
		if server.Suffrage != raft.Voter || server.ID == s.server {
			continue
		}
		asked.Go(func() {
			voter := peer{server.ID, string(server.Address)}
			if last, err := s.lastIndexOf(ctx, voter); err == nil && last >= s.raft.LastIndex() {
				found <- voter
				cancel() // the others need not answer
			}
		})
	}
	asked.Wait()
	cancel()
	select {
	case heir := <-found:
		return heir, true
	default:
		return peer{}, false
	}
}

func (s *Store) hasOtherVoter() bool {
	for _, server := range s.configuration().Servers {
		if server.Suffrage == raft.Voter && server.ID != s.server {
			return true
		}
	}
	return false
}
