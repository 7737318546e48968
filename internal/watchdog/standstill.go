package watchdog

import (
	"context"
	"fmt"
	"time"

	"github.com/kvraft/kvraft/internal/failover"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/raftnet"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// A leader whose large packets are lost, on a path whose MTU is smaller than believed,
// keeps its place: its heartbeats are small and are answered. But nothing that is
// written is committed. The others could go on without it; they only do not know.
//
// It hands over. The target is the voter whose log reaches furthest among those that
// answer. It need not have the whole of the leader's log: what only the leader has is
// not committed, and who wrote it has yet to be answered. It is elected by the votes of
// the others, whose logs do not reach further; so a majority of all voters, without
// this leader, must answer, or else the target must have the whole log and this node may
// vote for it. Where neither is so nobody can do better, and the leader stays: reads go
// on. (That a target with every committed entry is elected, and no other, is the rule of
// elections and not of what is done here: section 5.4.1 of the Raft paper.)
//
// The old leader then has the longest log, and would win the next election, and stand
// still again. So it abstains for a while: it asks nobody for a vote, unless a leader
// makes it stand. It votes, and follows. When there is no other leader after that time
// it stands again, and if it leads and stands still again, it waits longer.

const mostHandOverDoublings = 5 // doublings of the time after which a leader that stands still again yields again

// lookAtCommits is for a leader.
func (w *Watchdog) lookAtCommits(now time.Time) string {
	r := w.tenure
	if !r.Leads {
		return ""
	}
	commit, last := w.Raft.CommitIndex(), w.Raft.LastIndex()
	if w.committed != 0 && commit > w.committed {
		w.handOvers.Store(0)
	}
	w.committed = commit
	if sent := w.RaftNet.SentToAll(); sent > w.sent { // one that is sent again is not
		w.sent = sent
	}
	stalled := w.commits.Look(now, last > commit, commit+w.nearness(commit+1)+uint64(w.sent))
	if stalled == 0 {
		w.stalledHandOverAt = 0
		return ""
	}
	size := max(w.Logs.SizeOf(commit+1, commit+1), raftnet.MaxEntriesBytes)
	byDesign := w.Patience() + time.Duration(size)*wire.PerByte // for one attempt to send it
	w.stalledHandOverAt = max(w.stalledHandOverAt, (byDesign+w.Patience())<<min(w.handOvers.Load(), mostHandOverDoublings))
	if stalled > w.stalledHandOverAt && w.HasOtherVoter() {
		w.stalledHandOverAt = 2 * stalled
		w.Life.Go(func() { w.handOverStalled(r, stalled) })
	}
	if stalled <= byDesign {
		return ""
	}
	return fmt.Sprintf("no write is committed: %d log entries have waited for %v for a majority of the voters to store them", last-commit, stalled.Round(time.Second))
}

// nearness tells how near a majority is to having the entry at index: it changes when
// one more of those that lack it has come nearer.
func (w *Watchdog) nearness(index uint64) (sum uint64) {
	for _, m := range roster.Voters(w.Configuration()) {
		sum += min(w.RaftNet.Acked(m.ID), index)
	}
	return sum
}

// handOverStalled has another voter elected, if one can be.
func (w *Watchdog) handOverStalled(r *lead.Tenure, stalled time.Duration) {
	target, err := w.electableWithout(r)
	if err != nil {
		w.Log.Warn("this leader commits nothing, and none can take its place", "for", stalled.String(), "reason", err)
		return
	}
	w.Log.Warn("this leader commits nothing: what it sends does not arrive; handing leadership over", "for", stalled.String(), "to", roster.UserID(target.Server))
	w.handOvers.Add(1)
	w.lead.HandOverTo(r, target, 10*w.Timing.Election)
}

// electableWithout finds who can be elected without this leader.
func (w *Watchdog) electableWithout(r *lead.Tenure) (roster.Peer, error) {
	ctx, cancel := context.WithTimeout(r.Ctx, w.Timing.Heartbeat)
	defer cancel()
	all := roster.Voters(w.Configuration())
	votes := w.failures.AskVoters(ctx, all, failover.Suspicion{Leader: w.Server, Term: r.Term})
	heard, best := 0, failover.SuspicionVote{}
	for _, vote := range votes {
		if vote.Server != "" {
			heard++
		}
		if vote.Server != "" && !vote.Abstains && (best.Server == "" || vote.Before(best.LogEnd)) {
			best = vote
		}
	}
	term, index := w.LastEntry()
	whole := !failover.LogEnd{Term: term, Index: index}.Beyond(best.LogEnd)
	for _, m := range all {
		if m.ID == best.Server && (heard > len(all)/2 || whole) {
			return roster.Peer{Server: m.ID, Addr: string(m.Address)}, nil
		}
	}
	return roster.Peer{}, fmt.Errorf("%d of the %d other voters answer", heard, len(votes))
}
