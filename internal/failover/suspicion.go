package failover

import (
	"cmp"
	"context"
	"errors"
	"syscall"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// SuspicionVote is what a voter answers when it is asked whether a leader is lost.
type SuspicionVote struct {
	Dead   bool          `json:"dead"`  // its process has ended, or it has been silent for Heartbeat
	Term   uint64        `json:"term"`  // of its last log entry
	Index  uint64        `json:"index"` // likewise
	Server raft.ServerID `json:"server"`

	Later    bool `json:"later,omitempty"`    // it is in a later term: it stands for election, or knows of one that does
	Abstains bool `json:"abstains,omitempty"` // it asks nobody for a vote, see package watchdog
	Unled    bool `json:"unled,omitempty"`    // it has heard of no leader and no candidate since it was started

	refuses bool // nobody is at its address
}

// Before reports whether a voter goes before another: its log reaches further.
// Between equals the identity decides, so that they do not take each other's votes.
func (v SuspicionVote) Before(other SuspicionVote) bool {
	return cmp.Or(cmp.Compare(v.Term, other.Term), cmp.Compare(v.Index, other.Index), cmp.Compare(v.Server, other.Server)) > 0
}

// Suspicion is the question; of no leader, it is about Unled.
type Suspicion struct {
	Leader raft.ServerID `json:"leader"`
	Term   uint64        `json:"term"` // in which it leads
}

// VoteOnSuspicion is what this node answers.
func (d *Detector) VoteOnSuspicion(_ context.Context, a Suspicion) (SuspicionVote, error) {
	r := d.lead.Tenure()
	term, index := d.LastEntry()
	lost := r.Leader.Server == a.Leader && r.Dead.Load() || d.silence() >= d.Timing.Heartbeat
	return SuspicionVote{
		Dead:   lost && d.IsPlaced() && !r.Leads && d.Raft.CurrentTerm() == a.Term,
		Term:   term,
		Index:  index,
		Server: d.Server,

		Later:    d.Raft.CurrentTerm() > a.Term,
		Abstains: d.RaftNet.Abstains(),
		Unled:    d.isUnled() && d.isElector(),
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
		if vote.Later || vote.Dead && !vote.Abstains && vote.Before(mine) {
			rank++
		}
	}
	return rank, dead
}

// AskVoters asks all of some voters at once, but for this node and the leader in question,
// and waits until each has answered or ctx ends. Who does not answer says no.
func (d *Detector) AskVoters(ctx context.Context, voters []raft.Server, question Suspicion) (votes []SuspicionVote) {
	answers := make(chan SuspicionVote, len(voters))
	asked := 0
	for _, m := range voters {
		if m.ID != d.Server && m.ID != question.Leader && d.Life.Go(func() { answers <- d.askVoter(ctx, m, question) }) {
			asked++
		}
	}
	for range asked {
		votes = append(votes, <-answers)
	}
	return votes
}

func (d *Detector) askVoter(ctx context.Context, m raft.Server, question Suspicion) SuspicionVote {
	vote, err := wire.CallJSON[SuspicionVote](ctx, d.Port, roster.Peer{Server: m.ID, Addr: string(m.Address)}, wire.CallSuspicion, question)
	if err != nil {
		return SuspicionVote{refuses: errors.Is(err, syscall.ECONNREFUSED)} // no word of it is a no
	}
	return vote
}
