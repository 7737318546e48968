package failover

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/kvraft/kvraft/internal/raftrpc"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"github.com/kvraft/kvraft/internal/wal"
	"github.com/kvraft/kvraft/internal/wire"
)

// StartVote is what a voter answers that is asked what it has heard since it was opened.
type StartVote struct {
	Unled    time.Duration `json:"unled,omitempty"`    // since then: it has heard of no leader and voted for nobody; 0: it has
	Elects   bool          `json:"elects,omitempty"`   // it can vote for whoever stands, and be elected
	Abstains bool          `json:"abstains,omitempty"` // as in SuspicionVote
	Current  uint64        `json:"current"`            // raft's term
	LogEnd
}

// StartQuestion has nothing in it.
type StartQuestion struct{}

// VoteOnStart is what this node answers.
func (d *Detector) VoteOnStart(context.Context, StartQuestion) (StartVote, error) {
	return StartVote{
		Unled: d.unled(), Elects: d.isElector(), Abstains: d.RaftNet.Abstains(),
		Current: d.Raft.CurrentTerm(), LogEnd: d.logEnd(),
	}, nil
}

// CampaignAtStart stands for election as soon as the voters of a cluster that was formed,
// or started again, can elect a leader. raft waits for Heartbeat, and up to twice as long,
// in case that there is one. Here every voter is asked; see mayStart.
func (d *Detector) CampaignAtStart() {
	poll := d.Timing.Heartbeat / 10
	pause := sleep.Backoff{Next: d.Timing.Heartbeat / 50, Most: d.Timing.Heartbeat / 5}
	var term uint64 // the latest that any of them is in
	candidacy := d.newCandidacy(func(ctx context.Context) (rank int, may bool) {
		rank, may, term = d.askAboutStart(ctx)
		return rank, may
	})
	for d.unled() > 0 {
		switch {
		case !d.isElector(): // it joins, or helps to form a cluster
			if !sleep.For(d.Ctx, poll) {
				return
			}
			continue
		case candidacy.isDue(d.Ctx) && d.campaignAtStart(term):
			return
		}
		if !pause.Wait(d.Ctx) {
			return
		}
	}
}

func (d *Detector) campaignAtStart(latest uint64) bool {
	term, heard := d.Raft.CurrentTerm(), d.Raft.LastContact()
	if d.unled() == 0 {
		return false
	}
	d.Log.Info("standing for election", "reason", "the cluster was started")
	err := d.campaign(lost{}, term, latest, heard)
	if err != nil {
		d.Log.Warn("stand for election", "error", err)
	}
	return err == nil
}

// unled is how long ago this node was opened, if it has heard of no leader since, voted for
// nobody and not stood itself. (raft does not count as contact what a leader sends that its
// log has no place for; and a cluster is formed in term 1.)
func (d *Detector) unled() time.Duration {
	_, leader := d.Raft.LeaderWithID()
	if leader != "" || !d.Raft.LastContact().IsZero() || d.Raft.CurrentTerm() > max(d.OpenedTerm, 1) {
		return 0
	}
	return max(time.Since(d.Opened), 1)
}

// isElector reports whether this node can vote for any other, and be elected; see
// node.MayElect of what a doubt is to others.
func (d *Detector) isElector() bool {
	voters := roster.Voters(d.Configuration())
	return d.IsPlaced() && roster.IsVoter(d.Configuration(), d.Server) && (len(voters) == 1 || d.Logs.Doubt() == wal.Doubt{})
}

// askAboutStart asks the other voters. latest is a term that none of them is beyond.
func (d *Detector) askAboutStart(ctx context.Context) (rank int, may bool, latest uint64) {
	mine, _ := d.VoteOnStart(ctx, StartQuestion{})
	voters := roster.Voters(d.Configuration())
	answers := askVoters[StartVote](ctx, d, voters, "", wire.CallStart, StartQuestion{})
	rank, may = d.mayStart(answers, mine, len(voters))
	return rank, may, latestTerm(answers, mine)
}

// latestTerm is the latest term that a node goes to by what the others say of theirs.
func latestTerm(answers []answer[StartVote], mine StartVote) uint64 {
	latest := mine.Current
	for _, a := range answers {
		latest = max(latest, raftrpc.Reach(a.vote.Current, mine.Current))
	}
	return latest
}

// mayStart reports whether a voter may stand, by what it and the others say, and how many
// go before it. A majority must be able to vote for it, none of whom has heard of a leader.
// Nor may any other voter have, that answers. One that does not answer can be the leader: so
// the majority must have been there for so long that its lease has ended, which it has from
// a majority; and unless its address refuses connections, as that of a process does which
// has ended, for as long as a leader may be silent.
func (d *Detector) mayStart(answers []answer[StartVote], mine StartVote, voters int) (rank int, may bool) {
	var unled time.Duration
	for _, a := range answers {
		switch {
		case errors.Is(a.err, syscall.ECONNREFUSED):
			unled = max(unled, d.Timing.Lease)
		case a.err != nil:
			unled = max(unled, d.Timing.Heartbeat)
		case a.vote.Unled == 0:
			return 0, false
		}
	}
	elects := func(v StartVote) bool { return v.Elects && v.Unled > 0 && v.Unled >= unled && !v.Beyond(mine.LogEnd) }
	if !elects(mine) || mine.Abstains {
		return 0, false
	}
	majority := 1
	for _, a := range answers {
		if elects(a.vote) {
			majority++
		}
		if a.vote.Elects && !a.vote.Abstains && a.vote.Before(mine.LogEnd) {
			rank++
		}
	}
	return rank, majority > voters/2
}
