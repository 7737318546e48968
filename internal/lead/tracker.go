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

func (t *Tracker) Tenure() *Tenure {
	t.Current.Mu.Lock()
	defer t.Current.Mu.Unlock()
	return t.Current.Tenure
}

// WatchRaft follows raft's leadership until the store stops. The observer's
// channel holds one signal, and what it signals is read afresh each time, so
// that none is missed and raft never waits.
func (t *Tracker) WatchRaft() {
	signals := make(chan raft.Observation, 1)
	observer := raft.NewObserver(signals, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.RaftState, raft.LeaderObservation:
			return true
		}
		return false
	})
	t.Raft.RegisterObserver(observer)
	defer t.Raft.DeregisterObserver(observer)
	var told loggedRole
	for {
		t.update()
		if now := (loggedRole{t.Raft.State(), t.Tenure().Leader}); now != told {
			told = now
			t.Log.Info("leadership", "state", strings.ToLower(now.state.String()), "leader", roster.UserID(now.leader.Server))
		}
		select {
		case <-signals:
		case <-t.PlaceChanged:
		case <-t.Ctx.Done():
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

func (t *Tracker) update() {
	now := t.readTenure()
	if !t.Replace(now) {
		return
	}
	switch {
	case now.Leads:
		t.begin(now, t.WhenLeading)
	case now.Leader != roster.Peer{}:
		t.begin(now, t.WhenFollowing)
	}
}

// begin starts what lasts as long as a tenure.
func (t *Tracker) begin(r *Tenure, duties []func(*Tenure)) {
	for _, duty := range duties {
		t.Life.Go(func() { duty(r) })
	}
}

// readTenure reads the leader and its term from raft. The term is read on both sides of the
// leader: raft forgets a leader before it goes to another term.
func (t *Tracker) readTenure() *Tenure {
	for {
		now := &Tenure{Term: t.Raft.CurrentTerm(), Began: time.Now()}
		addr, id := t.Raft.LeaderWithID()
		now.Leads = t.Raft.State() == raft.Leader && t.IsPlaced()
		switch {
		case now.Leads:
			now.Leader = roster.Peer{Server: t.Server, Addr: t.Addr}
		case id == t.Server, id == "": // was the leader a moment ago; a signal will follow
			now.Term = 0
		default:
			now.Leader = roster.Peer{Server: id, Addr: string(addr)}
		}
		if now.Term == 0 || t.Raft.CurrentTerm() == now.Term {
			return now
		}
	}
}

// Replace reports whether now differs from what was before.
func (t *Tracker) Replace(now *Tenure) bool {
	c := &t.Current
	c.Mu.Lock()
	defer c.Mu.Unlock()
	old := c.Tenure
	if old.Leader == now.Leader && old.Leads == now.Leads && old.Term == now.Term {
		return false
	}
	now.Ctx, now.Cancel = context.WithCancel(t.Ctx)
	now.Number = old.Number + 1
	c.Tenure = now
	old.Cancel()
	close(c.Changed)
	c.Changed = make(chan struct{})
	return true
}

// ReasonOr is what keeps this node from knowing a leader, or else err.
func (t *Tracker) ReasonOr(err error) error {
	t.Current.Mu.Lock()
	defer t.Current.Mu.Unlock()
	if t.Current.Reason != nil && t.Current.Tenure.Leader == (roster.Peer{}) {
		return t.Current.Reason
	}
	return err
}

// Reason is what keeps this node from its place; nil: nothing, or it has not tried yet.
func (t *Tracker) Reason() error {
	t.Current.Mu.Lock()
	defer t.Current.Mu.Unlock()
	return t.Current.Reason
}

func (t *Tracker) SetReason(err error) {
	c := &t.Current
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.Reason = err
	close(c.Changed)
	c.Changed = make(chan struct{})
}

// AwaitOwnTerm waits until this node, as the leader, has in its state what its
// predecessors committed: its notes can then be relied on.
func (t *Tracker) AwaitOwnTerm(ctx context.Context) error {
	term, err := t.LeaderTerm()
	if err != nil {
		return err
	}
	return t.State.AwaitTerm(ctx, term)
}

// LeadsIn is an error unless this node leads in a term.
func (t *Tracker) LeadsIn(term uint64) error {
	now, err := t.LeaderTerm()
	if err == nil && now != term {
		return errs.NotLeader
	}
	return err
}

// StillFollows reports whether this node has had no other leader since, and is in the
// same term: raft may have forgotten the leader.
func (t *Tracker) StillFollows(r *Tenure) bool {
	now := t.Tenure()
	return t.Ctx.Err() == nil && (now == r || now.Leader == roster.Peer{}) && t.Raft.CurrentTerm() == r.Term
}

// IsLeaderless reports whether there has been no leader for longer than an
// election takes.
func (t *Tracker) IsLeaderless() bool {
	r := t.Tenure()
	return r.Leader == roster.Peer{} && time.Since(r.Began) > 2*t.Timing.Election
}
