package failover

import (
	"context"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"github.com/kvraft/kvraft/internal/wal"
)

// CampaignAtStart stands for election as soon as a majority of the voters have been started
// and there is no leader. raft waits for Heartbeat, and up to twice as long, in case there
// is one. Here every voter is asked. One that answers tells what it has heard since it was
// started; one whose address refuses connections does not run; and one that is silent may
// be the leader, for whom raft goes on to wait.
func (d *Detector) CampaignAtStart() {
	pause := sleep.Backoff{Next: d.Timing.Heartbeat / 50, Most: d.Timing.Heartbeat}
	candidacy := d.newCandidacy(d.rankAmongUnled)
	for d.isUnled() {
		here := &lead.Tenure{Term: d.Raft.CurrentTerm()}
		if candidacy.isDue(d.Ctx) && d.campaign(here, func() { d.Log.Info("standing for election", "reason", "the cluster was started") }) {
			return
		}
		if !pause.Wait(d.Ctx) {
			return
		}
	}
}

// isUnled reports whether this node has heard of no leader since it was opened, and of no
// candidate that it has voted for, nor stood itself. A cluster is formed in term 1.
func (d *Detector) isUnled() bool {
	_, leader := d.Raft.LeaderWithID()
	return leader == "" && d.Raft.LastContact().IsZero() && d.Raft.State() != raft.Leader && d.Raft.CurrentTerm() <= max(d.OpenedTerm, 1)
}

// isElector reports whether this node can vote for any other, and be elected; see
// node.MayElect.
func (d *Detector) isElector() bool {
	return d.IsPlaced() && d.Logs.Doubt() == (wal.Doubt{}) && roster.IsVoter(d.Configuration(), d.Server)
}

// rankAmongUnled asks the other voters whether they have heard of a leader.
func (d *Detector) rankAmongUnled(ctx context.Context) (rank int, majority bool) {
	mine, _ := d.VoteOnSuspicion(ctx, Suspicion{})
	if !mine.Unled || mine.Abstains {
		return 0, false
	}
	voters := roster.Voters(d.Configuration())
	unled := 1
	for _, vote := range d.AskVoters(ctx, voters, Suspicion{}) {
		if !vote.Unled && !vote.refuses {
			return 0, false
		}
		if vote.Unled {
			unled++
		}
		if vote.Unled && !vote.Abstains && vote.Before(mine) {
			rank++
		}
	}
	return rank, unled > len(voters)/2
}
