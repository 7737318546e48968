package place

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// How a node seeks to be confirmed in its place, of a leader or of the other voters; see
// place.go.

// Claim asks for the confirmation of a place.
type Claim struct {
	Server  raft.ServerID `json:"server"`
	Addr    string        `json:"addr"`
	Process string        `json:"process"`
	Promise bool          `json:"promise"` // and not only whether it would be promised
}

// ClaimAnswer is what a node says of a claim.
type ClaimAnswer struct {
	Server  raft.ServerID   `json:"server"` // who answers
	Process string          `json:"process"`
	Placed  bool            `json:"placed"` // it has its own place
	Led     bool            `json:"led"`    // it knows a leader, whose matter it is: nothing is promised
	Absent  bool            `json:"absent"` // the claimant does not run where the configuration has it: another does, or nobody
	Voters  []raft.ServerID `json:"voters"` // of its configuration
	Term    uint64          `json:"term"`   // of its last log entry
	Index   uint64          `json:"index"`  // likewise
}

// LookAtOldPlace reports whether the old address leads to this node too.
func (p *Places) LookAtOldPlace() (here bool, err error) {
	at := roster.DialAddr(p.ConfiguredAt())
	if at == "" {
		return false, nil
	}
	there, err := p.ProbeSoon(p.Ctx, at)
	switch {
	case err != nil || there.Node != p.Server:
		return false, nil
	case there.Process == p.Port.Process():
		p.TakePlace()
		return true, nil
	}
	return false, Rivalry(there, p.Server, at)
}

// Rivalry is the answer to a claim of a place at which another process answers.
func Rivalry(there wire.Welcome, id raft.ServerID, at string) error {
	if there.Unconfirmed { // neither of the two has more of a right to it
		return fmt.Errorf("%w: another node claims the place of %s, at %s: stop the one that runs on a copy", errs.Refused, roster.UserID(id), at)
	}
	return Copied(id, at)
}

// AskForPlace asks all addresses that may be nodes', at once. It fails when one knows
// that this node is a copy.
func (p *Places) AskForPlace(addrs []string, promise bool) ([]ClaimAnswer, error) {
	ctx, cancel := context.WithTimeout(p.Ctx, 3*p.Timing.Heartbeat) // the other side looks for one
	defer cancel()
	answers, failures := make([]ClaimAnswer, len(addrs)), make([]error, len(addrs))
	var asking sync.WaitGroup
	for i, addr := range addrs {
		asking.Go(func() {
			question := Claim{p.Server, p.Addr, p.Port.Process(), promise}
			answers[i], failures[i] = wire.AskJSON[ClaimAnswer](ctx, p.Port, addr, wire.CallClaim, question)
		})
	}
	asking.Wait()
	var refused error
	for _, err := range failures {
		switch {
		case errors.Is(err, errs.Copied):
			return nil, err
		case errors.Is(err, errs.Refused):
			refused = err
		}
	}
	return answers, refused
}

// tally is what the answers to a claim come to.
type tally struct {
	voters  int
	there   int  // roster.Voters that answer, this one among them
	absent  int  // of those, how many know that it does not run at its old address, this one among them
	Leader  bool // there is one, or will be without this node
	missing []string
}

func (t tally) Enough() bool { return t.there == t.voters || t.absent > t.voters/2 }

func (t tally) String() string {
	text := fmt.Sprintf("%d of %d voters are here, and %d know that it is not there any more", t.there, t.voters, t.absent)
	if len(t.missing) > 0 {
		text += "; missing are " + strings.Join(t.missing, ", ")
	}
	return text
}

// Count goes by the newest configuration, that of the node whose log reaches furthest. An identity under
// which two answer counts for nobody.
func (p *Places) Count(answers []ClaimAnswer) (t tally) {
	newest := p.claimAnswer()
	by := make(map[raft.ServerID]ClaimAnswer)
	double := make(map[raft.ServerID]bool)
	for _, a := range answers {
		if a.Server == "" || a.Server == p.Server {
			continue
		}
		if other, ok := by[a.Server]; ok && other.Process != a.Process {
			double[a.Server] = true
		}
		by[a.Server] = a
		if cmp.Or(cmp.Compare(a.Term, newest.Term), cmp.Compare(a.Index, newest.Index)) > 0 {
			newest = a
		}
		t.Leader = t.Leader || a.Led
	}
	t.voters, t.there, t.absent = len(newest.Voters), 1, 1
	placed := 0
	for _, id := range newest.Voters {
		a, ok := by[id]
		switch {
		case id == p.Server:
		case !ok || double[id]:
			t.missing = append(t.missing, roster.UserID(id))
		default:
			t.there++
			t.absent += oneIf(a.Absent)
			placed += oneIf(a.Placed)
		}
	}
	t.Leader = t.Leader || placed > t.voters/2 || !slices.Contains(newest.Voters, p.Server)
	return t
}

func oneIf(is bool) int {
	if is {
		return 1
	}
	return 0
}

func (p *Places) claimAnswer() ClaimAnswer {
	term, index := p.LastEntry()
	return ClaimAnswer{
		Server: p.Server, Process: p.Port.Process(), Placed: p.IsPlaced(), Led: p.Lead.Tenure().Leader != roster.Peer{},
		Voters: roster.IDs(roster.Voters(p.Configuration())), Term: term, Index: index,
	}
}

// ServeClaim is the other side.
func (p *Places) ServeClaim(ctx context.Context, c Claim) (ClaimAnswer, error) {
	if mine := p.Self().Cluster; mine == "" || wire.CallerOf(ctx).Cluster != mine {
		return ClaimAnswer{}, fmt.Errorf("%w: a claim of another cluster", errs.Unsent)
	}
	a := p.claimAnswer()
	from := roster.AddressOf(p.Configuration(), c.Server)
	switch {
	case c.Server == p.Server && c.Process != a.Process:
		return a, Rivalry(wire.Welcome{Unconfirmed: !a.Placed}, p.Server, p.Addr)
	case c.Server == p.Server, a.Led, from == "":
		return a, nil
	}
	at := []string{roster.DialAddr(from)}
	if promise, ok := p.Promised(c.Server); ok {
		at = append(at, promise.To)
	}
	if rival := p.claims.note(c); rival != "" {
		at = append(at, rival)
	}
	a.Absent = true
	for _, addr := range at {
		absent, err := p.isAbsent(ctx, c, addr)
		if err != nil {
			return a, err
		}
		a.Absent = a.Absent && absent
	}
	p.claims.take(c)
	if !c.Promise {
		return a, nil
	}
	return a, p.promisePlace(c.Server, disk.PlacePromise{From: from, To: c.Addr})
}

// isAbsent reports whether the member of a claim is known not to be at an address but
// for the claimant itself. Silence tells nothing.
func (p *Places) isAbsent(ctx context.Context, c Claim, addr string) (bool, error) {
	there, err := p.ProbeSoon(ctx, addr)
	switch {
	case err != nil:
		return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wire.ErrNoPeer), nil
	case there.Node == c.Server && there.Process != c.Process:
		return false, Rivalry(there, c.Server, addr)
	}
	return true, nil
}

// claims are the latest ones that were made on this node, so that two nodes on copies
// of one directory are seen that are both away from its old address.
type claims struct {
	mu     sync.Mutex
	latest map[raft.ServerID]Claim // guarded by mu
}

// note returns where another claimant of the same place was.
func (cs *claims) note(c Claim) (rival string) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if old, ok := cs.latest[c.Server]; ok && old.Process != c.Process {
		return old.Addr
	}
	return ""
}

func (cs *claims) take(c Claim) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.latest == nil {
		cs.latest = make(map[raft.ServerID]Claim)
	}
	cs.latest[c.Server] = c // members only: there are few
}
