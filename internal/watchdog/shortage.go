package watchdog

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/roster"
)

// A leader without file descriptors keeps its place: it has its connections to the others,
// and heartbeats go on. But nobody can connect to it. Who has no connection to it
// already waits for a leader that takes no calls, and elects no other.
//
// It hands over, as a leader does that commits nothing (see standstill.go). The target gets
// no vote of this node, which it cannot reach, so that a majority without it must be
// there: those that have answered a moment ago, or can be connected to. For that there is
// a descriptor in reserve.

// lookAtListener is for every node: one that others cannot reach is not ready.
func (w *Watchdog) lookAtListener(now time.Time) string {
	accepted, failure := w.Port.Accepting(now)
	lasts := w.accepting.Look(now, failure != nil, accepted)
	if lasts == 0 {
		w.Port.Reserve.Fill()
	}
	if lasts <= w.Patience() {
		w.handOverAt = 0
		return ""
	}
	if r := w.tenure; r.Leads && lasts > w.handOverAt && w.HasOtherVoter() {
		w.handOverAt = 2 * lasts
		w.Life.Go(func() { w.handOver(r, lasts, failure) })
	}
	return fmt.Sprintf("this node can accept no connection: %v", failure)
}

// handOver has another voter elected, if one can be.
func (w *Watchdog) handOver(r *lead.Tenure, lasts time.Duration, reason error) {
	target, err := w.successorOf(r)
	if err != nil {
		w.Log.Warn("this leader can accept no connection, and none can take its place", "for", lasts.String(), "reason", reason, "because", err)
		return
	}
	w.Log.Warn("this leader can accept no connection; handing leadership over", "for", lasts.String(), "reason", reason, "to", roster.UserID(target.Server))
	w.lead.HandOverTo(r, target, 4*w.Timing.Election)
}

// successorOf returns the voter whose log is known to reach furthest, of those that have
// answered this leader a moment ago.
func (w *Watchdog) successorOf(r *lead.Tenure) (target roster.Peer, err error) {
	moment := time.Now().Add(-w.Timing.Heartbeat)
	net := w.RaftNet
	all := roster.Voters(w.Configuration())
	there := 0
	var missing []string
	for _, m := range all {
		voter := roster.Peer{Server: m.ID, Addr: string(m.Address)}
		switch {
		case m.ID == w.Server:
		case net.AnsweredSince(r.Term, m.ID, moment):
			there++
			if target == (roster.Peer{}) || net.Acked(m.ID) > net.Acked(target.Server) {
				target = voter
			}
		default:
			if err := w.reach(r, voter); err != nil {
				missing = append(missing, fmt.Sprintf("; node %s: %v", roster.UserID(m.ID), err))
				continue
			}
			there++
		}
	}
	if target == (roster.Peer{}) || there <= len(all)/2 {
		return roster.Peer{}, fmt.Errorf("a majority of the %d voters is needed without it, which reaches %d%s", len(all), there, strings.Join(missing, ""))
	}
	return target, nil
}

// reach connects to a voter, to see whether it is there.
func (w *Watchdog) reach(r *lead.Tenure, voter roster.Peer) error {
	defer w.Port.Reserve.Free()()
	ctx, cancel := context.WithTimeout(r.Ctx, w.Timing.Heartbeat)
	defer cancel()
	_, err := w.Port.Ping(ctx, voter)
	return err
}
