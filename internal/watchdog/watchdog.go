// Package watchdog watches whether this node gets anything done; package progress has the
// rule and what it has to do with pauses. Each kind of work that stands still makes the
// node not ready. What is done then depends on whose fault it is:
//
//   - raft's main goroutine. It is asked something without effect at each step. As
//     long as it does not answer, signs of what it is busy with count too: entries
//     applied, bytes of a snapshot that arrive or are restored, and writes of the log
//     store under way, which have watchdogs of their own. Without any for Timing.Stall,
//     and longer while a snapshot arrives, by its size and by what a message may stand
//     still in its middle, the node stops: the others carry on, and if it leads they
//     elect one of theirs.
//   - The state machine, while a call of it lasts. Likewise.
//   - The log, on a leader: entries wait to be committed, and neither is one committed
//     nor do the voters that a majority lacks get nearer to it. A leader without
//     contact to a majority has lost its place by its lease before; this one has
//     contact, and what it sends does not arrive. See standstill.go.
//   - The listener: it fails to accept connections, and accepts none. A leader then hands
//     over. See shortage.go.
//   - The state, on a follower: it lacks what its leader had long ago, or the leader
//     says nothing.
//
// It is used so:
//
//	w := watchdog.New(n, tracker, detector, askIndex)
//	w.Start()    // once raft runs
//	w.NotReady() // for the status: why this node is not ready, or ""
//
// Start has three goroutines in Life, for which Close waits: one looks, one asks raft's
// main goroutine and may be held up with it, and one asks the leader. What the first one
// keeps between its looks is its own. The two others leave their answers in atomics, and
// in w.leader under its mutex, which is a leaf and not held while anything is waited for.
// To hand over, a look starts a goroutine of Life, which ends with the tenure.
//
// Tests: package progress has those of the rule. The rest are clusters in virtual time in
// the root package: shortage_test.go, progress_test.go, guards_test.go, dark_test.go.
package watchdog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvraft/kvraft/internal/failover"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/progress"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// Watchdog watches one node.
type Watchdog struct {
	*node.Node
	lead     *lead.Tracker
	failures *failover.Detector
	askIndex func(ctx context.Context, leader roster.Peer) (uint64, error) // how far the state of a leader is

	answers atomic.Uint64 // of raft's main goroutine
	reason  atomic.Pointer[string]
	stopped sync.Once

	main, answering, stateWatch, accepting progress.Watch

	handOverAt time.Duration // for how long nothing was accepted after which leadership is handed over, again
	handOvers  atomic.Int32  // how often it was because nothing was committed, since the last commit

	// of one tenure
	tenure            *lead.Tenure
	commits           progress.Watch
	committed         uint64        // what was committed at the last look
	sent              int64         // the most bytes of snapshots that were sent
	stalledHandOverAt time.Duration // standstill after which leadership is handed over, again
	lag               progress.Watch
	asking            progress.Watch
	goal              uint64 // log index that the state is to reach
	goals             uint64 // how many were reached

	leader struct { // what it has told
		sync.Mutex
		index   uint64 // guarded by the mutex
		answers uint64 // guarded by the mutex
		err     error  // guarded by the mutex
	}
}

// New returns a watchdog that does nothing before Start. askIndex asks a leader for the
// newest log index in its state.
func New(n *node.Node, lead *lead.Tracker, failures *failover.Detector, askIndex func(context.Context, roster.Peer) (uint64, error)) *Watchdog {
	w := &Watchdog{Node: n, lead: lead, failures: failures, askIndex: askIndex}
	for _, watch := range []*progress.Watch{&w.main, &w.answering, &w.stateWatch, &w.accepting} {
		watch.Step = w.step()
	}
	return w
}

// step is how often it looks.
func (w *Watchdog) step() time.Duration { return w.Timing.Heartbeat / 2 }

// NotReady is why the node is not ready, or "".
func (w *Watchdog) NotReady() string {
	if reason := w.reason.Load(); reason != nil {
		return *reason
	}
	return ""
}

// Start has three goroutines look until the store stops.
func (w *Watchdog) Start() {
	w.Life.Go(func() { w.every(w.step(), w.look) })
	w.Life.Go(func() {
		w.every(w.step(), func() {
			if w.probeRaft() {
				w.answers.Add(1)
			}
		})
	})
	w.Life.Go(func() { w.every(w.Timing.Heartbeat, w.askLeader) })
}

func (w *Watchdog) every(pause time.Duration, do func()) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			do()
		case <-w.Ctx.Done():
			return
		}
	}
}

func (w *Watchdog) look() {
	now := time.Now()
	if r := w.lead.Tenure(); r != w.tenure {
		w.begin(r)
	}
	reason := ""
	for _, look := range []func(time.Time) string{w.lookAtRaft, w.lookAtState, w.lookAtListener, w.lookAtCommits, w.lookAtLag} {
		if found := look(now); reason == "" {
			reason = found
		}
	}
	w.reason.Store(&reason)
}

// begin forgets what was of another tenure.
func (w *Watchdog) begin(r *lead.Tenure) {
	w.tenure, w.sent, w.stalledHandOverAt, w.goal, w.committed = r, 0, 0, 0, 0
	for _, watch := range []*progress.Watch{&w.commits, &w.lag, &w.asking} {
		*watch = progress.Watch{Step: w.step()}
	}
	w.leader.Lock()
	defer w.leader.Unlock()
	w.leader.index, w.leader.err = 0, nil
}

// probeRaft has raft's main goroutine answer a message of term 0, at which it does not
// look any further. It returns false when the node has stopped.
func (w *Watchdog) probeRaft() bool {
	if w.Raft.CurrentTerm() == 0 { // it would look further
		return true
	}
	err := w.AskRaft(w.Ctx, node.EmptyRequest())
	if err == nil {
		w.RaftNet.EndIncoming()
	}
	return err == nil
}

func (w *Watchdog) lookAtRaft(now time.Time) string {
	answers := w.answers.Load()
	size, got, total := w.RaftNet.Incoming()
	done := answers + w.State.Steps() + uint64(total)
	stalled := w.main.Look(now, !w.Logs.Writing(), done)
	limit := w.Timing.Stall + time.Duration(got)*wire.PerByte
	if size > 0 { // it may wait for the network as well
		limit += wire.MessageTimeout
	}
	if stalled > limit {
		w.stop(fmt.Errorf("raft has got nothing done for %v: its main goroutine is held up", stalled))
	}
	unanswered := w.answering.Look(now, true, answers)
	switch {
	case unanswered <= w.Patience():
		return ""
	case size > 0:
		return fmt.Sprintf("installing a snapshot: %d of %d bytes have arrived", got, size)
	}
	return fmt.Sprintf("raft has not answered for %v: its main goroutine, or the disk, is held up", unanswered.Round(time.Second))
}

func (w *Watchdog) lookAtState(now time.Time) string {
	state := w.State
	stalled := w.stateWatch.Look(now, state.Busy(), state.Steps())
	if stalled > w.Timing.Stall {
		w.stop(fmt.Errorf("the state machine has got nothing done for %v", stalled))
	}
	if stalled > w.Patience() {
		return fmt.Sprintf("the state machine has got nothing done for %v", stalled.Round(time.Second))
	}
	return ""
}

func (w *Watchdog) stop(err error) { w.stopped.Do(func() { w.StopForFault(err) }) }

// askLeader learns, on a follower, how far the leader's state is. It is a small
// question, with a small answer.
func (w *Watchdog) askLeader() {
	r := w.lead.Tenure()
	if r.Leads || r.Leader == (roster.Peer{}) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Ctx, w.Patience())
	defer cancel()
	index, err := w.askIndex(ctx, r.Leader)
	if r.Ctx.Err() != nil {
		return
	}
	w.leader.Lock()
	defer w.leader.Unlock()
	if w.leader.err = err; err == nil {
		w.leader.answers++
		w.leader.index = max(w.leader.index, index)
	}
}

// lookAtLag is for a follower. It has to reach what it has heard of the leader's state,
// and then what it has heard meanwhile; how long it takes for that is how far it lags.
func (w *Watchdog) lookAtLag(now time.Time) string {
	follows := !w.tenure.Leads && w.tenure.Leader != (roster.Peer{})
	w.leader.Lock()
	index, answers, err := w.leader.index, w.leader.answers, w.leader.err
	w.leader.Unlock()
	at := w.Index()
	if at >= w.goal {
		w.goal = index
		w.goals++
	}
	limit := 2*w.Patience() + w.Timing.Commit
	if silent := w.asking.Look(now, follows, answers); silent > limit {
		return fmt.Sprintf("the leader has answered no question for %v: %v", silent.Round(time.Second), errors.Join(err))
	}
	if behind := w.lag.Look(now, follows && at < w.goal, w.goals); behind > limit {
		return fmt.Sprintf("catching up with the leader: it had log index %d in its state %v ago, this node is at %d", w.goal, behind.Round(time.Second), at)
	}
	return ""
}
