package kvraft

import (
	"context"
	"errors"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
)

// tenure is the time during which a node sees one leader, or none.
type tenure struct {
	leader     roster.Peer // zero: none is known
	leads      bool        // this node is the leader
	term       uint64      // in which the leader leads; 0: none is known
	number     uint64      // counts the tenures that this node has seen
	began      time.Time
	dead       atomic.Bool // this node takes the leader for dead, see failover.go
	campaigned atomic.Bool // this node has stood for election to take its place
	ctx        context.Context
	cancel     context.CancelFunc // ends ctx, and with it what was asked of this leader
}

// trackedLeader holds the present tenure, and what keeps a node from having one.
type trackedLeader struct {
	mu      sync.Mutex
	tenure  *tenure       // guarded by mu
	reason  error         // guarded by mu: what keeps this node from its place; nil: nothing, or it has not tried yet
	changed chan struct{} // guarded by mu: closed and replaced when one of them changes
}

func (s *tracker) tenure() *tenure {
	s.current.mu.Lock()
	defer s.current.mu.Unlock()
	return s.current.tenure
}

// Leader returns the leader that this node knows, and false if there is none at
// the moment.
func (s *Store) Leader() (Node, bool) {
	r := s.tenure()
	return s.leaderOf(r), r.leader != roster.Peer{}
}

// leaderOf is the leader as users see it.
func (s *Store) leaderOf(r *tenure) Node {
	if r.leader == (roster.Peer{}) {
		return Node{}
	}
	config := s.configuration()
	suffrage := raft.Nonvoter                                                 // as a leader is while its own removal is under way
	if roster.IsVoter(config, r.leader.Server) || !s.lists(r.leader.Server) { // roster.Voters have elected it, of whom this node may not know yet
		suffrage = raft.Voter
	}
	return s.member(raft.Server{ID: r.leader.Server, Address: raft.ServerAddress(r.leader.Addr), Suffrage: suffrage})
}

// WaitLeader waits until this node knows a leader. (Calls wait for whatever is
// still missing by themselves; Status tells when the node is ready.) It fails with
// ErrRefused on a node that the members have refused, to admit it or to have it
// back, and none has agreed; the node goes on asking. Other errors: ErrClosed, and
// ErrNoLeader with the context's error.
func (s *Store) WaitLeader(ctx context.Context) (Node, error) {
	for {
		s.current.mu.Lock()
		r, trouble, changed := s.current.tenure, s.current.reason, s.current.changed
		s.current.mu.Unlock()
		switch {
		case s.life.Err() != nil:
			return Node{}, s.life.Err()
		case r.leader != roster.Peer{}:
			return s.leaderOf(r), nil
		case errors.Is(trouble, errs.Refused):
			return Node{}, trouble
		}
		select {
		case <-changed:
		case <-s.life.Stopping():
		case <-ctx.Done():
			return Node{}, errs.NoLeaderBefore(ctx, trouble)
		}
	}
}

// Leadership is who leads, as one node knows it.
type Leadership struct {
	Leader Node   // zero: nobody, as far as the node knows
	Term   uint64 // in which it leads; it rises from one to the next. 0: nobody does
	Number uint64 // of the change, as this node has counted: where it rises by more than one, some were missed
}

// LeaderChanges returns who leads, as it changes for this node: first what is so now,
// then each change after it, also to nobody, and to the same leader in another term. It
// ends when ctx or the store does. Each caller has its own. One that is slow does not
// hold anybody up: it misses what has passed by meanwhile, which the Number tells, but
// never the last change.
func (s *Store) LeaderChanges(ctx context.Context) iter.Seq[Leadership] {
	return func(yield func(Leadership) bool) {
		var last *tenure
		for {
			s.current.mu.Lock()
			now, changed := s.current.tenure, s.current.changed
			s.current.mu.Unlock()
			if s.life.Err() != nil || ctx.Err() != nil {
				return
			}
			if last != now {
				last = now
				if !yield(Leadership{s.leaderOf(now), now.term, now.number}) {
					return
				}
				continue // what has changed meanwhile
			}
			select {
			case <-changed:
			case <-s.life.Stopping():
			case <-ctx.Done():
			}
		}
	}
}

// watchRaft follows raft's leadership until the store stops. The observer's
// channel holds one signal, and what it signals is read afresh each time, so
// that none is missed and raft never waits.
func (s *tracker) watchRaft() {
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
	var told loggedRole
	for {
		s.update()
		if now := (loggedRole{s.raft.State(), s.tenure().leader}); now != told {
			told = now
			s.log.Info("leadership", "state", strings.ToLower(now.state.String()), "leader", nodeOf(now.leader).ID)
		}
		select {
		case <-signals:
		case <-s.placeChanged:
		case <-s.ctx.Done():
			return
		}
	}
}

// loggedRole is what the log tells of a node, when it changes; it starts as a follower
// of nobody.
type loggedRole struct {
	state  raft.RaftState
	leader roster.Peer
}

func (s *tracker) update() {
	now := s.readTenure()
	if !s.replace(now) {
		return
	}
	switch {
	case now.leads:
		s.begin(now, s.whenLeading)
	case now.leader != roster.Peer{}:
		s.begin(now, s.whenFollowing)
	}
}

// begin starts what lasts as long as a tenure.
func (s *tracker) begin(r *tenure, duties []func(*tenure)) {
	for _, duty := range duties {
		s.life.Go(func() { duty(r) })
	}
}

// readTenure reads the leader and its term from raft. The term is read on both sides of the
// leader: raft forgets a leader before it goes to another term.
func (s *tracker) readTenure() *tenure {
	for {
		now := &tenure{term: s.raft.CurrentTerm(), began: time.Now()}
		addr, id := s.raft.LeaderWithID()
		now.leads = s.raft.State() == raft.Leader && s.isPlaced()
		switch {
		case now.leads:
			now.leader = roster.Peer{Server: s.server, Addr: s.addr}
		case id == s.server, id == "": // was the leader a moment ago; a signal will follow
			now.term = 0
		default:
			now.leader = roster.Peer{Server: id, Addr: string(addr)}
		}
		if now.term == 0 || s.raft.CurrentTerm() == now.term {
			return now
		}
	}
}

// replace reports whether now differs from what was before.
func (s *tracker) replace(now *tenure) bool {
	c := &s.current
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.tenure
	if old.leader == now.leader && old.leads == now.leads && old.term == now.term {
		return false
	}
	now.ctx, now.cancel = context.WithCancel(s.ctx)
	now.number = old.number + 1
	c.tenure = now
	old.cancel()
	close(c.changed)
	c.changed = make(chan struct{})
	return true
}

// reasonOr is what keeps this node from knowing a leader, or else err.
func (s *tracker) reasonOr(err error) error {
	s.current.mu.Lock()
	defer s.current.mu.Unlock()
	if s.current.reason != nil && s.current.tenure.leader == (roster.Peer{}) {
		return s.current.reason
	}
	return err
}

// reason is what keeps this node from its place; nil: nothing, or it has not tried yet.
func (s *tracker) reason() error {
	s.current.mu.Lock()
	defer s.current.mu.Unlock()
	return s.current.reason
}

func (s *tracker) setReason(err error) {
	c := &s.current
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reason = err
	close(c.changed)
	c.changed = make(chan struct{})
}

// openTerm puts an empty command into the log. When the state machine sees it,
// everything that earlier leaders committed is in the state: reads of this term
// may begin. raft's own first entry never reaches the state machine.
func (s *members) openTerm(r *tenure) {
	const pause = 10 * time.Millisecond
	for r.ctx.Err() == nil {
		_, err := s.commit(command.Append(nil, nil))
		if err == nil && s.logs.Record().IsLegacy() {
			err = s.assignClusterID(r.ctx)
		}
		if err == nil || r.ctx.Err() != nil { // another leads
			return
		}
		s.log.Warn("open the term", "term", r.term, "error", err)
		sleep.For(r.ctx, pause)
	}
}
