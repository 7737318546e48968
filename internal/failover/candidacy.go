package failover

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
)

// candidacy is one node's, among those that agree on an election.
type candidacy struct {
	// ask asks the other voters: how many of those that agree go before this node, and
	// whether it may stand for all that they say. ctx ends after each.
	ask    func(ctx context.Context) (rank int, may bool)
	each   time.Duration // that each has to try, before the next does
	agreed time.Time     // since when they let this node stand
}

// candidacyAfter is that of a node among those that find the leader of a tenure lost.
func (d *Detector) candidacyAfter(r *lead.Tenure) *candidacy {
	return d.newCandidacy(func(ctx context.Context) (int, bool) { return d.rankAmongSuspecting(ctx, r) })
}

func (d *Detector) newCandidacy(ask func(context.Context) (int, bool)) *candidacy {
	return &candidacy{ask: ask, each: d.Timing.Heartbeat / 4}
}

// isDue reports whether the voters agree, and those that are placed better have had the
// time to try.
func (c *candidacy) isDue(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, c.each)
	defer cancel()
	rank, may := c.ask(ctx)
	switch {
	case !may:
		c.agreed = time.Time{}
	case c.agreed.IsZero():
		c.agreed = time.Now()
	}
	return may && time.Since(c.agreed) >= time.Duration(rank)*c.each
}

// AwaitSilence stands for election when a majority of the voters have not heard from
// the leader for Heartbeat, which raft may find out before or later.
func (d *Detector) AwaitSilence(r *lead.Tenure) {
	heartbeat := d.Timing.Heartbeat
	candidacy := d.candidacyAfter(r)
	for d.lead.StillFollows(r) {
		silence := d.silence()
		wait := heartbeat - silence
		switch {
		case wait > 0:
			candidacy = d.candidacyAfter(r)
		case !d.RaftNet.Abstains() && candidacy.isDue(d.Ctx) && d.CampaignAfter(r, "the leader is silent"):
			return
		case silence < 3*heartbeat:
			wait = heartbeat / 50
		default: // there is no majority
			wait = heartbeat / 4
		}
		if !sleep.For(d.Ctx, wait) {
			return
		}
	}
}

// silence is how long this node has heard nothing from a leader, nor voted for one. What
// its process before this one has heard it does not know.
func (d *Detector) silence() time.Duration {
	return min(time.Since(d.Raft.LastContact()), time.Since(d.Opened))
}

// CampaignAfter stands for election, in place of the leader of a tenure, and reports whether
// this node has.
func (d *Detector) CampaignAfter(r *lead.Tenure, reason string) bool {
	heard := d.Raft.LastContact()
	if !d.lead.StillFollows(r) {
		return false // raft has heard of another, or voted
	}
	if !r.Campaigned.CompareAndSwap(false, true) {
		return true
	}
	d.Log.Warn("standing for election", "reason", reason, "leader", roster.UserID(r.Leader.Server))
	err := d.campaign(lost{r.Term}, r.Term, r.Term, heard)
	if err != nil {
		d.Log.Warn("stand for election", "error", err)
		r.Campaigned.Store(false)
	}
	return err == nil
}

// lost is the leader in whose place this node stands.
type lost struct{ term uint64 } // 0: there was none

// campaign stands for election, in the term after those that raft and the others are in. It
// was heard of the leader then.
func (d *Detector) campaign(leader lost, term, latest uint64, heard time.Time) (err error) {
	own := term
	if d.Raft.State() == raft.Candidate { // it waits for pre-votes, and would not hear of it
		term++
	}
	if term = max(term, latest); term > own {
		err = d.lead.StepDown(d.Ctx, term-1, roster.Peer{Server: d.Server, Addr: d.Addr})
	}
	if err != nil {
		return err
	}
	return d.RaftNet.Between(d.Ctx, func(ctx context.Context) error { return d.campaignIfLost(ctx, leader, term, heard) })
}

// campaignIfLost stands, in the term after one, unless raft has heard of another leader
// meanwhile, or voted, or heard of the lost one.
func (d *Detector) campaignIfLost(ctx context.Context, leader lost, term uint64, heard time.Time) error {
	if err := d.AskRaft(ctx, node.EmptyRequest()); err != nil {
		return err
	}
	_, known := d.Raft.LeaderWithID() // in its own term it is the lost one
	if d.Raft.CurrentTerm() != term || known != "" && term != leader.term || !d.Raft.LastContact().Equal(heard) {
		return errors.New("this node has heard of a leader, or voted, meanwhile")
	}
	return d.lead.Campaign(ctx)
}
