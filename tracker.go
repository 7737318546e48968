package kvraft

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

// tracker is who leads.
type tracker struct {
	*node
	current   trackedLeader
	rounds    *batch.Rounds // of a leader
	questions batch.PerKey[raft.ServerID]

	whenLeading, whenFollowing []func(*tenure) // what a node does for as long as a tenure lasts
}

func newTracker(n *node) *tracker {
	t := &tracker{node: n}
	t.rounds = batch.NewRounds(t.confirm, n.life.Go)
	t.questions.Most = 2
	t.current.tenure = &tenure{began: time.Now()}
	t.current.tenure.ctx, t.current.tenure.cancel = context.WithCancel(n.ctx)
	t.current.changed = make(chan struct{})
	return t
}

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
			s.log.Info("leadership", "state", strings.ToLower(now.state.String()), "leader", roster.UserID(now.leader.Server))
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

// awaitOwnTerm waits until this node, as the leader, has in its state what its
// predecessors committed: its notes can then be relied on.
func (s *tracker) awaitOwnTerm(ctx context.Context) error {
	term, err := s.leaderTerm()
	if err != nil {
		return err
	}
	return s.state.AwaitTerm(ctx, term)
}

// leadsIn is an error unless this node leads in a term.
func (s *tracker) leadsIn(term uint64) error {
	now, err := s.leaderTerm()
	if err == nil && now != term {
		return errs.NotLeader
	}
	return err
}

// stillFollows reports whether this node has had no other leader since, and is in the
// same term: raft may have forgotten the leader.
func (s *tracker) stillFollows(r *tenure) bool {
	now := s.tenure()
	return s.ctx.Err() == nil && (now == r || now.leader == roster.Peer{}) && s.raft.CurrentTerm() == r.term
}

// isLeaderless reports whether there has been no leader for longer than an
// election takes.
func (s *tracker) isLeaderless() bool {
	r := s.tenure()
	return r.leader == roster.Peer{} && time.Since(r.began) > 2*s.timing.Election
}
