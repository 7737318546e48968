package failover

import (
	"cmp"
	"context"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// LogEnd is how far a voter's log reaches.
type LogEnd struct {
	Term   uint64        `json:"term"`  // of its last entry
	Index  uint64        `json:"index"` // likewise
	Server raft.ServerID `json:"server"`
}

// Beyond reports whether a log reaches further than another, whose voter then has no vote
// for the other.
func (e LogEnd) Beyond(other LogEnd) bool {
	return cmp.Or(cmp.Compare(e.Term, other.Term), cmp.Compare(e.Index, other.Index)) > 0
}

// Before reports whether a voter goes before another: its log reaches further.
// Between equals the identity decides, so that they do not take each other's votes.
func (e LogEnd) Before(other LogEnd) bool {
	return e.Beyond(other) || !other.Beyond(e) && e.Server > other.Server
}

func (d *Detector) logEnd() LogEnd {
	term, index := d.LastEntry()
	return LogEnd{term, index, d.Server}
}

// SuspicionVote is what a voter answers when it is asked whether a leader is lost.
type SuspicionVote struct {
	Dead bool `json:"dead"` // its process has ended, or it has been silent for Heartbeat
	LogEnd

	Later    bool `json:"later,omitempty"`    // it is in a later term: it stands for election, or knows of one that does
	Abstains bool `json:"abstains,omitempty"` // it asks nobody for a vote, see package watchdog
}

// Suspicion is the question.
type Suspicion struct {
	Leader raft.ServerID `json:"leader"`
	Term   uint64        `json:"term"` // in which it leads
}

// VoteOnSuspicion is what this node answers.
func (d *Detector) VoteOnSuspicion(_ context.Context, a Suspicion) (SuspicionVote, error) {
	r := d.lead.Tenure()
	lost := r.Leader.Server == a.Leader && r.Dead.Load() || d.silence() >= d.Timing.Heartbeat
	return SuspicionVote{
		Dead:     lost && d.IsPlaced() && !r.Leads && d.Raft.CurrentTerm() == a.Term,
		LogEnd:   d.logEnd(),
		Later:    d.Raft.CurrentTerm() > a.Term,
		Abstains: d.RaftNet.Abstains(),
	}, nil
}

// rankAmongSuspecting asks the other voters. rank is how many go before this node: of those
// that find the leader lost, and may stand, and of those that do already.
func (d *Detector) rankAmongSuspecting(ctx context.Context, r *lead.Tenure) (rank int, majority bool) {
	config := d.Configuration()
	if !roster.IsVoter(config, d.Server) {
		return 0, false
	}
	question := Suspicion{r.Leader.Server, r.Term}
	mine, _ := d.VoteOnSuspicion(ctx, question)
	voters := roster.Voters(config)
	rank, dead := rankAmong(d.AskVoters(ctx, voters, question), mine)
	return rank, mine.Dead && dead+1 > len(voters)/2
}

// rankAmong returns how many of the voters that gave these votes go before the one that
// gave mine, and how many find the leader lost.
func rankAmong(votes []SuspicionVote, mine SuspicionVote) (rank, dead int) {
	for _, vote := range votes {
		if vote.Dead {
			dead++
		}
		if vote.Later || vote.Dead && !vote.Abstains && vote.Before(mine.LogEnd) {
			rank++
		}
	}
	return rank, dead
}

// AskVoters asks all of some voters at once, but for this node and the leader in question,
// and waits until each has answered or ctx ends. Who does not answer says no.
func (d *Detector) AskVoters(ctx context.Context, voters []raft.Server, question Suspicion) (votes []SuspicionVote) {
	for _, a := range askVoters[SuspicionVote](ctx, d, voters, question.Leader, wire.CallSuspicion, question) {
		votes = append(votes, a.vote) // no word of it is a no
	}
	return votes
}

// answer is what a voter says, or why there is none.
type answer[Vote any] struct {
	vote Vote
	err  error
}

func askVoters[Vote, Question any](ctx context.Context, d *Detector, voters []raft.Server, except raft.ServerID, m wire.Method, q Question) (all []answer[Vote]) {
	answers := make(chan answer[Vote], len(voters))
	asked := 0
	for _, voter := range voters {
		if voter.ID == d.Server || voter.ID == except {
			continue
		}
		ask := func() {
			vote, err := wire.CallJSON[Vote](ctx, d.Port, roster.Peer{Server: voter.ID, Addr: string(voter.Address)}, m, q)
			if err != nil {
				vote = *new(Vote) // nor what could be read of it
			}
			answers <- answer[Vote]{vote, err}
		}
		if d.Life.Go(ask) {
			asked++
		}
	}
	for range asked {
		all = append(all, <-answers)
	}
	return all
}
