// Package lead knows who leads: as what raft tells it changes, it begins and ends tenures,
// confirms with a majority that this node leads still, repeats what is to be done through
// the leader, and hands leadership over.
//
//	t := lead.New(n)
//	t.WhenLeading = []func(*lead.Tenure){openTerm} // duties, as long as a tenure lasts
//	n.Life.Go(t.WatchRaft)
//
//	err := t.ReadThroughLeader(ctx, func(ctx context.Context, tenure *lead.Tenure) error {
//		if tenure.Leads {
//			index, err := t.Rounds.Join(ctx) // a majority confirms it, now
//			…
//		}
//		…                                    // ask tenure.Leader; ctx ends with the tenure
//	})
//
// WatchRaft is one goroutine, which the root package starts with Life.Go; it starts one
// for each duty of a tenure, which is to return when Tenure.Ctx ends. A round has a
// goroutine for each voter that it asks, and may return before they do. All are in Life,
// and Close waits for them.
//
// One mutex guards the present tenure and the reason why this node has no place. It is a
// leaf: nothing is called or waited for under it. A waiter takes the channel that Now
// returns.
//
// Confirm is ReadIndex, section 6.4 of Ongaro's thesis, and HandOver the leadership
// transfer of its section 3.10. Tests: tracker_test.go has tenures and the wait between two
// attempts. The rest are clusters and single stores in the root package, in
// virtual time.
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

// Tracker is who leads, as this node knows it.
type Tracker struct {
	*node.Node
	Rounds *batch.Rounds // of Confirm, on a leader: callers at one time share one

	// WhenLeading and WhenFollowing are what a node does for as long as a tenure lasts:
	// each in a goroutine of its own. They are set before WatchRaft starts.
	WhenLeading, WhenFollowing []func(*Tenure)

	inFlight batch.PerKey[raft.ServerID] // questions of rounds, by the voter

	mu      sync.Mutex
	tenure  *Tenure       // guarded by mu: the present one
	reason  error         // guarded by mu: what keeps this node from its place; nil: nothing, or it has not tried yet
	changed chan struct{} // guarded by mu: closed and replaced when one of them changes
}

// New returns a tracker that knows no leader.
func New(n *node.Node) *Tracker {
	t := &Tracker{Node: n, tenure: &Tenure{Began: time.Now()}, changed: make(chan struct{})}
	t.Rounds = batch.NewRounds(t.Confirm, n.Life.Go)
	t.inFlight.Most = 2
	t.tenure.Ctx, t.tenure.cancel = context.WithCancel(n.Ctx)
	return t
}

// Tenure is the time during which a node sees one leader in one term, or none.
type Tenure struct {
	Leader roster.Peer // zero: none is known
	Leads  bool        // this node is the leader
	Term   uint64      // in which the leader leads; 0: none is known
	Number uint64      // counts the tenures that this node has seen
	Began  time.Time
	Ctx    context.Context // ends with the tenure, and with it what was asked of this leader

	Dead       atomic.Bool // this node takes the leader for dead, see package failover
	Campaigned atomic.Bool // this node has stood for election to take its place

	cancel context.CancelFunc
}

// Tenure is the present one.
func (t *Tracker) Tenure() *Tenure {
	tenure, _, _ := t.Now()
	return tenure
}

// Now returns the present tenure, and what keeps this node from its place, or nil; and a
// channel that is closed when one of the two changes.
func (t *Tracker) Now() (tenure *Tenure, changed <-chan struct{}, reason error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tenure, t.changed, t.reason
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
		case <-t.PlaceChanged():
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

// Replace begins the tenure now, and ends the one before, unless the two are the same.
func (t *Tracker) Replace(now *Tenure) (replaced bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.tenure
	if old.Leader == now.Leader && old.Leads == now.Leads && old.Term == now.Term {
		return false
	}
	now.Ctx, now.cancel = context.WithCancel(t.Ctx)
	now.Number = old.Number + 1
	t.tenure = now
	old.cancel()
	t.tellChange()
	return true
}

// tellChange is called with mu held.
func (t *Tracker) tellChange() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// Reason is what keeps this node from its place; nil: nothing, or it has not tried yet.
func (t *Tracker) Reason() error {
	_, _, reason := t.Now()
	return reason
}

// ReasonOr is what keeps this node from knowing a leader, or else err.
func (t *Tracker) ReasonOr(err error) error {
	if tenure, _, reason := t.Now(); reason != nil && tenure.Leader == (roster.Peer{}) {
		return reason
	}
	return err
}

// SetReason says what keeps this node from its place, or with nil that nothing does.
func (t *Tracker) SetReason(reason error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reason = reason
	t.tellChange()
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

// LeadsIn is errs.NotLeader unless this node leads in a term.
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
