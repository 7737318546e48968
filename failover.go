package kvraft

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

// detector is the failure detector.
type detector struct {
	*node
	lead *tracker

	refutations batch.Spacing[raft.ServerID]
}

// monitor watches the leader of a tenure, as long as that lasts.
func (s *detector) monitor(r *tenure) {
	const shortest, longest = 5 * time.Millisecond, 500 * time.Millisecond
	pause, broke, grace := sleep.Backoff{Next: shortest, Most: longest}, r.began, time.Duration(0)
	for r.ctx.Err() == nil {
		took, kept, err := s.monitorOnce(r)
		if kept {
			pause.Next, broke, grace = shortest, time.Now(), took
		}
		switch {
		case err == nil: // in order: it leads no more, and the next one will be heard of
			pause.Next = longest
		case !kept:
			s.suspect(r, broke, grace)
		}
		r.dead.Store(false)
		pause.Wait(r.ctx)
	}
}

// monitorOnce returns nil when the leader ends it, and an error when it breaks, or when,
// not kept at all, it cannot begin. It took that long to begin.
func (s *detector) monitorOnce(r *tenure) (took time.Duration, kept bool, err error) {
	began := time.Now()
	conn, who, err := s.port.Dial(r.ctx, r.leader.Addr, wire.ForMonitor, r.leader.Server)
	if err != nil {
		return 0, false, err
	}
	defer conn.Close()
	if !who.Leads {
		return 0, false, errs.NotLeader
	}
	took = time.Since(began)
	defer context.AfterFunc(r.ctx, func() { conn.Close() })()
	var farewell [1]byte
	_, err = io.ReadFull(conn, farewell[:])
	return took, true, err
}

// serveMonitor is the leader's side: its end, a byte, comes when this node leads no
// more, and at once to who is no member: it is not reassured either.
func (s *detector) serveMonitor(conn net.Conn, h wire.Hello) {
	r := s.lead.tenure()
	broken := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() {
		defer close(broken)
		_, _ = io.Copy(io.Discard, conn) // however it ends
	})
	defer listening.Wait()
	defer conn.Close()
	if !r.leads || !s.lists(h.From) {
		_, _ = conn.Write([]byte{1}) // if it does not arrive, the follower asks again
		return
	}
	select {
	case <-r.ctx.Done():
		_, _ = conn.Write([]byte{1})
	case <-broken:
		s.refute(r, h)
	}
}

// refute dials a follower whose connection has broken: this leader lives. It does so some
// twenty times per Heartbeat, and not however often somebody in the follower's name has
// one break.
func (s *detector) refute(r *tenure, h wire.Hello) {
	ctx, cancel := context.WithTimeout(r.ctx, s.timing.Heartbeat)
	defer cancel()
	if !s.refutations.Await(ctx, h.From, s.timing.Heartbeat/20) {
		return
	}
	_, _ = s.port.Ping(ctx, roster.Peer{Server: h.From, Addr: h.At})
}

// seemsDead reports whether the leader has no connection to this node, has not
// dialed it as a leader since, and refuses a connection or leads no more.
func (s *detector) seemsDead(r *tenure, since time.Time) bool {
	if c := s.port.CallsFrom(r.leader.Server); c.Open > 0 || c.Led.After(since) {
		return false
	}
	ctx, cancel := context.WithTimeout(r.ctx, s.timing.Heartbeat/4)
	defer cancel()
	who, err := s.port.Ping(ctx, r.leader)
	if err == nil {
		return !who.Leads // the process was started anew
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// suspect stands for election when a majority of the voters take the leader for
// dead as well.
// A leader that lives has the time of a dial, and a little more, to make itself
// heard.
func (s *detector) suspect(r *tenure, since time.Time, dial time.Duration) {
	const poll = 5 * time.Millisecond
	grace := dial + s.timing.Heartbeat/40
	end := time.Now().Add(2 * s.timing.Heartbeat)
	candidacy := s.newCandidacy(r)
	for wait := grace; time.Now().Before(end); wait = poll {
		if !sleep.For(r.ctx, wait) {
			return
		}
		if !s.seemsDead(r, since) || s.raftNet.Abstains() {
			return
		}
		r.dead.Store(true)
		if !candidacy.isDue(r.ctx) || !s.campaignAfter(r, "the leader's process is gone") {
			continue
		}
		<-r.ctx.Done() // if it is not elected it goes by the timeout
		return
	}
}

// awaitSilence stands for election when a majority of the voters have not heard from
// the leader for Heartbeat, which raft may find out before or later.
func (s *detector) awaitSilence(r *tenure) {
	heartbeat := s.timing.Heartbeat
	candidacy := s.newCandidacy(r)
	for s.lead.stillFollows(r) {
		silence := s.silence()
		wait := heartbeat - silence
		switch {
		case wait > 0:
			candidacy = s.newCandidacy(r)
		case !s.raftNet.Abstains() && candidacy.isDue(s.ctx) && s.campaignAfter(r, "the leader is silent"):
			return
		case silence < 3*heartbeat:
			wait = heartbeat / 50
		default: // there is no majority
			wait = heartbeat / 4
		}
		if !sleep.For(s.ctx, wait) {
			return
		}
	}
}

// silence is how long this node has heard nothing from a leader, nor voted for one. What
// its process before this one has heard it does not know.
func (s *detector) silence() time.Duration {
	return min(time.Since(s.raft.LastContact()), time.Since(s.opened))
}

// campaignAfter stands for election, in place of the leader of a tenure, and reports whether
// this node has.
func (s *detector) campaignAfter(r *tenure, reason string) bool {
	heard := s.raft.LastContact()
	if !s.lead.stillFollows(r) {
		return false // raft has heard of another, or voted
	}
	if !r.campaigned.CompareAndSwap(false, true) {
		return true
	}
	s.log.Warn("standing for election", "reason", reason, "leader", roster.UserID(r.leader.Server))
	term := r.term
	var err error
	if s.raft.State() == raft.Candidate { // it waits for pre-votes, and would not hear of it
		term++
		err = s.lead.stepDown(s.ctx, r.term, roster.Peer{Server: s.server, Addr: s.addr})
	}
	if err == nil {
		err = s.raftNet.Between(s.ctx, func(ctx context.Context) error { return s.campaignIfLost(ctx, r, term, heard) })
	}
	if err != nil {
		s.log.Warn("stand for election", "error", err)
		r.campaigned.Store(false)
	}
	return err == nil
}

// campaignIfLost stands, in a term, unless raft has heard of another leader meanwhile, or
// voted, or heard of the lost one.
func (s *detector) campaignIfLost(ctx context.Context, r *tenure, term uint64, heard time.Time) error {
	if err := s.askRaft(ctx, emptyQuestion()); err != nil {
		return err
	}
	_, leader := s.raft.LeaderWithID() // in its own term it is the lost one
	if s.raft.CurrentTerm() != term || leader != "" && term != r.term || !s.raft.LastContact().Equal(heard) {
		return errors.New("this node has heard of a leader, or voted, meanwhile")
	}
	return s.lead.campaign(ctx)
}

// candidacy is one node's, among those that find the leader of a tenure lost.
type candidacy struct {
	s      *detector
	tenure *tenure
	agreed time.Time // when a majority was first found to
}

func (s *detector) newCandidacy(r *tenure) *candidacy { return &candidacy{s: s, tenure: r} }

// isDue reports whether a majority of the voters find the leader lost, and those of them
// that are placed better have had the time to try.
func (c *candidacy) isDue(ctx context.Context) bool {
	each := c.s.timing.Heartbeat / 4
	rank, majority := c.s.rankAmongSuspecting(ctx, c.tenure)
	if majority && c.agreed.IsZero() {
		c.agreed = time.Now()
	}
	return majority && time.Since(c.agreed) >= time.Duration(rank)*each
}

// suspicionVote is what a voter answers when it is asked whether a leader is lost.
type suspicionVote struct {
	Dead   bool          `json:"dead"`  // its process has ended, or it has been silent for Heartbeat
	Term   uint64        `json:"term"`  // of its last log entry
	Index  uint64        `json:"index"` // likewise
	Server raft.ServerID `json:"server"`

	Abstains bool `json:"abstains,omitempty"` // it asks nobody for a vote, see standstill.go
}

// before reports whether a voter goes before another: its log reaches further.
// Between equals the identity decides, so that they do not take each other's votes.
func (t suspicionVote) before(other suspicionVote) bool {
	return cmp.Or(cmp.Compare(t.Term, other.Term), cmp.Compare(t.Index, other.Index), cmp.Compare(t.Server, other.Server)) > 0
}

// suspicion is the question.
type suspicion struct {
	Leader raft.ServerID `json:"leader"`
	Term   uint64        `json:"term"` // in which it leads
}

// voteOnSuspicion is what this node answers.
func (s *detector) voteOnSuspicion(_ context.Context, a suspicion) (suspicionVote, error) {
	r := s.lead.tenure()
	term, index := s.lastEntry()
	lost := r.leader.Server == a.Leader && r.dead.Load() || s.silence() >= s.timing.Heartbeat
	return suspicionVote{
		Dead:   lost && s.isPlaced() && !r.leads && s.raft.CurrentTerm() == a.Term,
		Term:   term,
		Index:  index,
		Server: s.server,

		Abstains: s.raftNet.Abstains(),
	}, nil
}

// rankAmongSuspecting asks the other voters. rank is how many of those that find the
// leader lost, and may stand, go before this node.
func (s *detector) rankAmongSuspecting(ctx context.Context, r *tenure) (rank int, majority bool) {
	config := s.configuration()
	if !roster.IsVoter(config, s.server) {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, s.timing.Heartbeat/4)
	defer cancel()
	question := suspicion{r.leader.Server, r.term}
	mine, _ := s.voteOnSuspicion(ctx, question)
	answers := make(chan suspicionVote, len(config.Servers))
	asked := 0
	for _, m := range config.Servers {
		if m.Suffrage != raft.Voter || m.ID == s.server || m.ID == r.leader.Server {
			continue
		}
		if s.life.Go(func() { answers <- s.askSuspicion(ctx, m, question) }) {
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
		if !t.Abstains && t.before(mine) {
			rank++
		}
	}
	return rank, mine.Dead && dead > len(roster.Voters(config))/2
}

func (s *detector) askSuspicion(ctx context.Context, m raft.Server, a suspicion) suspicionVote {
	t, err := wire.CallJSON[suspicionVote](ctx, s.port, roster.Peer{Server: m.ID, Addr: string(m.Address)}, wire.CallSuspicion, a)
	if err != nil {
		return suspicionVote{} // no word of it is a no
	}
	return t
}
