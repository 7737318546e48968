package lead

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/roster"
)

// Tracker is who leads.
type Tracker struct {
	*node.Node
	Current   trackedLeader
	Rounds    *batch.Rounds // of a leader
	questions batch.PerKey[raft.ServerID]

	WhenLeading, WhenFollowing []func(*Tenure) // what a node does for as long as a tenure lasts
}

func New(n *node.Node) *Tracker {
	t := &Tracker{Node: n}
	t.Rounds = batch.NewRounds(t.Confirm, n.Life.Go)
	t.questions.Most = 2
	t.Current.Tenure = &Tenure{Began: time.Now()}
	t.Current.Tenure.Ctx, t.Current.Tenure.Cancel = context.WithCancel(n.Ctx)
	t.Current.Changed = make(chan struct{})
	return t
}

// Tenure is the time during which a node sees one leader, or none.
type Tenure struct {
	Leader     roster.Peer // zero: none is known
	Leads      bool        // this node is the leader
	Term       uint64      // in which the leader leads; 0: none is known
	Number     uint64      // counts the tenures that this node has seen
	Began      time.Time
	Dead       atomic.Bool // this node takes the leader for dead, see failover.go
	Campaigned atomic.Bool // this node has stood for election to take its place
	Ctx        context.Context
	Cancel     context.CancelFunc // ends ctx, and with it what was asked of this leader
}

// trackedLeader holds the present tenure, and what keeps a node from having one.
type trackedLeader struct {
	Mu      sync.Mutex
	Tenure  *Tenure       // guarded by mu
	Reason  error         // guarded by mu: what keeps this node from its place; nil: nothing, or it has not tried yet
	Changed chan struct{} // guarded by mu: closed and replaced when one of them changes
}

func (s *Tracker) Tenure() *Tenure {
	s.Current.Mu.Lock()
	defer s.Current.Mu.Unlock()
	return s.Current.Tenure
}

// WatchRaft follows raft's leadership until the store stops. The observer's
// channel holds one signal, and what it signals is read afresh each time, so
// that none is missed and raft never waits.
func (s *Tracker) WatchRaft() {
	signals := make(chan raft.Observation, 1)
	observer := raft.NewObserver(signals, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.RaftState, raft.LeaderObservation:
			return true
		}
		return false
	})
	s.Raft.RegisterObserver(observer)
	defer s.Raft.DeregisterObserver(observer)
	var told loggedRole
	for {
		s.update()
		if now := (loggedRole{s.Raft.State(), s.Tenure().Leader}); now != told {
			told = now
			s.Log.Info("leadership", "state", strings.ToLower(now.state.String()), "leader", roster.UserID(now.leader.Server))
		}
		select {
		case <-signals:
		case <-s.PlaceChanged:
		case <-s.Ctx.Done():
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

func (s *Tracker) update() {
	now := s.readTenure()
	if !s.Replace(now) {
		return
	}
	switch {
	case now.Leads:
		s.begin(now, s.WhenLeading)
	case now.Leader != roster.Peer{}:
		s.begin(now, s.WhenFollowing)
	}
}

// begin starts what lasts as long as a tenure.
func (s *Tracker) begin(r *Tenure, duties []func(*Tenure)) {
	for _, duty := range duties {
		s.Life.Go(func() { duty(r) })
	}
}

// readTenure reads the leader and its term from raft. The term is read on both sides of the
// leader: raft forgets a leader before it goes to another term.
func (s *Tracker) readTenure() *Tenure {
	for {
		now := &Tenure{Term: s.Raft.CurrentTerm(), Began: time.Now()}
		addr, id := s.Raft.LeaderWithID()
		now.Leads = s.Raft.State() == raft.Leader && s.IsPlaced()
		switch {
		case now.Leads:
			now.Leader = roster.Peer{Server: s.Server, Addr: s.Addr}
		case id == s.Server, id == "": // was the leader a moment ago; a signal will follow
			now.Term = 0
		default:
			now.Leader = roster.Peer{Server: id, Addr: string(addr)}
		}
		if now.Term == 0 || s.Raft.CurrentTerm() == now.Term {
			return now
		}
	}
}

// Replace reports whether now differs from what was before.
func (s *Tracker) Replace(now *Tenure) bool {
	c := &s.Current
	c.Mu.Lock()
	defer c.Mu.Unlock()
	old := c.Tenure
	if old.Leader == now.Leader && old.Leads == now.Leads && old.Term == now.Term {
		return false
	}
	now.Ctx, now.Cancel = context.WithCancel(s.Ctx)
	now.Number = old.Number + 1
	c.Tenure = now
	old.Cancel()
	close(c.Changed)
	c.Changed = make(chan struct{})
	return true
}

// ReasonOr is what keeps this node from knowing a leader, or else err.
func (s *Tracker) ReasonOr(err error) error {
	s.Current.Mu.Lock()
	defer s.Current.Mu.Unlock()
	if s.Current.Reason != nil && s.Current.Tenure.Leader == (roster.Peer{}) {
		return s.Current.Reason
	}
	return err
}

// Reason is what keeps this node from its place; nil: nothing, or it has not tried yet.
func (s *Tracker) Reason() error {
	s.Current.Mu.Lock()
	defer s.Current.Mu.Unlock()
	return s.Current.Reason
}

func (s *Tracker) SetReason(err error) {
	c := &s.Current
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.Reason = err
	close(c.Changed)
	c.Changed = make(chan struct{})
}

// AwaitOwnTerm waits until this node, as the leader, has in its state what its
// predecessors committed: its notes can then be relied on.
func (s *Tracker) AwaitOwnTerm(ctx context.Context) error {
	term, err := s.LeaderTerm()
	if err != nil {
		return err
	}
	return s.State.AwaitTerm(ctx, term)
}

// LeadsIn is an error unless this node leads in a term.
func (s *Tracker) LeadsIn(term uint64) error {
	now, err := s.LeaderTerm()
	if err == nil && now != term {
		return errs.NotLeader
	}
	return err
}

// StillFollows reports whether this node has had no other leader since, and is in the
// same term: raft may have forgotten the leader.
func (s *Tracker) StillFollows(r *Tenure) bool {
	now := s.Tenure()
	return s.Ctx.Err() == nil && (now == r || now.Leader == roster.Peer{}) && s.Raft.CurrentTerm() == r.Term
}

// IsLeaderless reports whether there has been no leader for longer than an
// election takes.
func (s *Tracker) IsLeaderless() bool {
	r := s.Tenure()
	return r.Leader == roster.Peer{} && time.Since(r.Began) > 2*s.Timing.Election
}
