package failover

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"github.com/kvraft/kvraft/internal/wire"
)

// The timeouts of a cluster are long, so that no healthy leader loses its place to
// a slow disk or a short pause. But the death of a process is no silence: the
// system closes its connections and refuses new ones. So each follower keeps a
// connection to its leader, on which nothing is said, to see it break. When it does,
// and the leader's address refuses another, the follower takes the leader for dead.
// When a majority of the voters do, the one of them whose log reaches furthest
// stands for election at once, as if the leader had told it to (section 3.10 of
// Ongaro's thesis): the others then vote although they had a leader a moment ago.
//
// This replaces the wait before an election, and nothing of the election itself.
// It must not cost a healthy leader its place:
//
//   - A pause, or a link that is lost, refuses nothing, and goes by the timeout.
//   - A leader to whom such a connection breaks refutes it: it at once dials who kept it, and
//     who has heard from the leader since, or has any connection from it, does not take
//     it for dead, whatever its address says.
//   - What one follower sees is not enough.
//
// The timeout goes the same way. A follower of raft looks at times that are drawn at
// random whether it has heard from its leader within Heartbeat, and forgets it only
// then, up to three times Heartbeat after it was last heard; until then it gives nobody
// a pre-vote, and a candidate that is refused waits again. So a majority took from one
// to three times Heartbeat. Here each follower asks the others as soon as it has heard
// nothing for Heartbeat: when a majority of the voters have not, the leader has had no
// answer from a majority for as long, and its lease, which is not longer, has ended.

// Detector is the failure detector.
type Detector struct {
	*node.Node
	Lead *lead.Tracker

	refutations batch.Spacing[raft.ServerID]
}

// Monitor watches the leader of a tenure, as long as that lasts.
func (d *Detector) Monitor(r *lead.Tenure) {
	const shortest, longest = 5 * time.Millisecond, 500 * time.Millisecond
	pause, broke, grace := sleep.Backoff{Next: shortest, Most: longest}, r.Began, time.Duration(0)
	for r.Ctx.Err() == nil {
		took, kept, err := d.monitorOnce(r)
		if kept {
			pause.Next, broke, grace = shortest, time.Now(), took
		}
		switch {
		case err == nil: // in order: it leads no more, and the next one will be heard of
			pause.Next = longest
		case !kept:
			d.suspect(r, broke, grace)
		}
		r.Dead.Store(false)
		pause.Wait(r.Ctx)
	}
}

// monitorOnce returns nil when the leader ends it, and an error when it breaks, or when,
// not kept at all, it cannot begin. It took that long to begin.
func (d *Detector) monitorOnce(r *lead.Tenure) (took time.Duration, kept bool, err error) {
	began := time.Now()
	conn, who, err := d.Port.Dial(r.Ctx, r.Leader.Addr, wire.ForMonitor, r.Leader.Server)
	if err != nil {
		return 0, false, err
	}
	defer conn.Close()
	if !who.Leads {
		return 0, false, errs.NotLeader
	}
	took = time.Since(began)
	defer context.AfterFunc(r.Ctx, func() { conn.Close() })()
	var farewell [1]byte
	_, err = io.ReadFull(conn, farewell[:])
	return took, true, err
}

// ServeMonitor is the leader's side: its end, a byte, comes when this node leads no
// more, and at once to who is no member: it is not reassured either.
func (d *Detector) ServeMonitor(conn net.Conn, h wire.Hello) {
	r := d.Lead.Tenure()
	broken := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() {
		defer close(broken)
		_, _ = io.Copy(io.Discard, conn) // however it ends
	})
	defer listening.Wait()
	defer conn.Close()
	if !r.Leads || !d.Lists(h.From) {
		_, _ = conn.Write([]byte{1}) // if it does not arrive, the follower asks again
		return
	}
	select {
	case <-r.Ctx.Done():
		_, _ = conn.Write([]byte{1})
	case <-broken:
		d.refute(r, h)
	}
}

// refute dials a follower whose connection has broken: this leader lives. It does so some
// twenty times per Heartbeat, and not however often somebody in the follower's name has
// one break.
func (d *Detector) refute(r *lead.Tenure, h wire.Hello) {
	ctx, cancel := context.WithTimeout(r.Ctx, d.Timing.Heartbeat)
	defer cancel()
	if !d.refutations.Await(ctx, h.From, d.Timing.Heartbeat/20) {
		return
	}
	_, _ = d.Port.Ping(ctx, roster.Peer{Server: h.From, Addr: h.At})
}

// seemsDead reports whether the leader has no connection to this node, has not
// dialed it as a leader since, and refuses a connection or leads no more.
func (d *Detector) seemsDead(r *lead.Tenure, since time.Time) bool {
	if c := d.Port.CallsFrom(r.Leader.Server); c.Open > 0 || c.Led.After(since) {
		return false
	}
	ctx, cancel := context.WithTimeout(r.Ctx, d.Timing.Heartbeat/4)
	defer cancel()
	who, err := d.Port.Ping(ctx, r.Leader)
	if err == nil {
		return !who.Leads // the process was started anew
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// suspect stands for election when a majority of the voters take the leader for
// dead as well.
// A leader that lives has the time of a dial, and a little more, to make itself
// heard.
func (d *Detector) suspect(r *lead.Tenure, since time.Time, dial time.Duration) {
	const poll = 5 * time.Millisecond
	grace := dial + d.Timing.Heartbeat/40
	end := time.Now().Add(2 * d.Timing.Heartbeat)
	candidacy := d.newCandidacy(r)
	for wait := grace; time.Now().Before(end); wait = poll {
		if !sleep.For(r.Ctx, wait) {
			return
		}
		if !d.seemsDead(r, since) || d.RaftNet.Abstains() {
			return
		}
		r.Dead.Store(true)
		if !candidacy.isDue(r.Ctx) || !d.CampaignAfter(r, "the leader's process is gone") {
			continue
		}
		<-r.Ctx.Done() // if it is not elected it goes by the timeout
		return
	}
}

// AwaitSilence stands for election when a majority of the voters have not heard from
// the leader for Heartbeat, which raft may find out before or later.
func (d *Detector) AwaitSilence(r *lead.Tenure) {
	heartbeat := d.Timing.Heartbeat
	candidacy := d.newCandidacy(r)
	for d.Lead.StillFollows(r) {
		silence := d.silence()
		wait := heartbeat - silence
		switch {
		case wait > 0:
			candidacy = d.newCandidacy(r)
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
	if !d.Lead.StillFollows(r) {
		return false // raft has heard of another, or voted
	}
	if !r.Campaigned.CompareAndSwap(false, true) {
		return true
	}
	d.Log.Warn("standing for election", "reason", reason, "leader", roster.UserID(r.Leader.Server))
	term := r.Term
	var err error
	if d.Raft.State() == raft.Candidate { // it waits for pre-votes, and would not hear of it
		term++
		err = d.Lead.StepDown(d.Ctx, r.Term, roster.Peer{Server: d.Server, Addr: d.Addr})
	}
	if err == nil {
		err = d.RaftNet.Between(d.Ctx, func(ctx context.Context) error { return d.campaignIfLost(ctx, r, term, heard) })
	}
	if err != nil {
		d.Log.Warn("stand for election", "error", err)
		r.Campaigned.Store(false)
	}
	return err == nil
}

// campaignIfLost stands, in a term, unless raft has heard of another leader meanwhile, or
// voted, or heard of the lost one.
func (d *Detector) campaignIfLost(ctx context.Context, r *lead.Tenure, term uint64, heard time.Time) error {
	if err := d.AskRaft(ctx, node.EmptyRequest()); err != nil {
		return err
	}
	_, leader := d.Raft.LeaderWithID() // in its own term it is the lost one
	if d.Raft.CurrentTerm() != term || leader != "" && term != r.Term || !d.Raft.LastContact().Equal(heard) {
		return errors.New("this node has heard of a leader, or voted, meanwhile")
	}
	return d.Lead.Campaign(ctx)
}

// candidacy is one node's, among those that find the leader of a tenure lost.
type candidacy struct {
	d      *Detector
	tenure *lead.Tenure
	agreed time.Time // when a majority was first found to
}

func (d *Detector) newCandidacy(r *lead.Tenure) *candidacy { return &candidacy{d: d, tenure: r} }

// isDue reports whether a majority of the voters find the leader lost, and those of them
// that are placed better have had the time to try.
func (c *candidacy) isDue(ctx context.Context) bool {
	each := c.d.Timing.Heartbeat / 4
	rank, majority := c.d.rankAmongSuspecting(ctx, c.tenure)
	if majority && c.agreed.IsZero() {
		c.agreed = time.Now()
	}
	return majority && time.Since(c.agreed) >= time.Duration(rank)*each
}

// SuspicionVote is what a voter answers when it is asked whether a leader is lost.
type SuspicionVote struct {
	Dead   bool          `json:"dead"`  // its process has ended, or it has been silent for Heartbeat
	Term   uint64        `json:"term"`  // of its last log entry
	Index  uint64        `json:"index"` // likewise
	Server raft.ServerID `json:"server"`

	Abstains bool `json:"abstains,omitempty"` // it asks nobody for a vote, see standstill.go
}

// Before reports whether a voter goes before another: its log reaches further.
// Between equals the identity decides, so that they do not take each other's votes.
func (v SuspicionVote) Before(other SuspicionVote) bool {
	return cmp.Or(cmp.Compare(v.Term, other.Term), cmp.Compare(v.Index, other.Index), cmp.Compare(v.Server, other.Server)) > 0
}

// Suspicion is the question.
type Suspicion struct {
	Leader raft.ServerID `json:"leader"`
	Term   uint64        `json:"term"` // in which it leads
}

// VoteOnSuspicion is what this node answers.
func (d *Detector) VoteOnSuspicion(_ context.Context, a Suspicion) (SuspicionVote, error) {
	r := d.Lead.Tenure()
	term, index := d.LastEntry()
	lost := r.Leader.Server == a.Leader && r.Dead.Load() || d.silence() >= d.Timing.Heartbeat
	return SuspicionVote{
		Dead:   lost && d.IsPlaced() && !r.Leads && d.Raft.CurrentTerm() == a.Term,
		Term:   term,
		Index:  index,
		Server: d.Server,

		Abstains: d.RaftNet.Abstains(),
	}, nil
}

// rankAmongSuspecting asks the other voters. rank is how many of those that find the
// leader lost, and may stand, go before this node.
func (d *Detector) rankAmongSuspecting(ctx context.Context, r *lead.Tenure) (rank int, majority bool) {
	config := d.Configuration()
	if !roster.IsVoter(config, d.Server) {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, d.Timing.Heartbeat/4)
	defer cancel()
	question := Suspicion{r.Leader.Server, r.Term}
	mine, _ := d.VoteOnSuspicion(ctx, question)
	answers := make(chan SuspicionVote, len(config.Servers))
	asked := 0
	for _, m := range config.Servers {
		if m.Suffrage != raft.Voter || m.ID == d.Server || m.ID == r.Leader.Server {
			continue
		}
		if d.Life.Go(func() { answers <- d.AskSuspicion(ctx, m, question) }) {
			asked++
		}
	}
	dead := 1
	for range asked {
		t := <-answers
		if !t.Dead {
			continue
		}
		dead++
		if !t.Abstains && t.Before(mine) {
			rank++
		}
	}
	return rank, mine.Dead && dead > len(roster.Voters(config))/2
}

func (d *Detector) AskSuspicion(ctx context.Context, m raft.Server, a Suspicion) SuspicionVote {
	t, err := wire.CallJSON[SuspicionVote](ctx, d.Port, roster.Peer{Server: m.ID, Addr: string(m.Address)}, wire.CallSuspicion, a)
	if err != nil {
		return SuspicionVote{} // no word of it is a no
	}
	return t
}
