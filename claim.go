package kvraft

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

// claim asks for the confirmation of a place.
type claim struct {
	Server  raft.ServerID `json:"server"`
	Addr    string        `json:"addr"`
	Process string        `json:"process"`
	Promise bool          `json:"promise"` // and not only whether it would be promised
}

// claimAnswer is what a node says of a claim.
type claimAnswer struct {
	Server  raft.ServerID   `json:"server"` // who answers
	Process string          `json:"process"`
	Placed  bool            `json:"placed"` // it has its own place
	Led     bool            `json:"led"`    // it knows a leader, whose matter it is: nothing is promised
	Absent  bool            `json:"absent"` // the claimant does not run where the configuration has it: another does, or nobody
	Voters  []raft.ServerID `json:"voters"` // of its configuration
	Term    uint64          `json:"term"`   // of its last log entry
	Index   uint64          `json:"index"`  // likewise
}

// lookAtOldPlace reports whether the old address leads to this node too.
func (s *places) lookAtOldPlace() (here bool, err error) {
	at := roster.DialAddr(s.configuredAt())
	if at == "" {
		return false, nil
	}
	there, err := s.probeSoon(s.ctx, at)
	switch {
	case err != nil || there.Node != s.server:
		return false, nil
	case there.Process == s.port.Process():
		s.takePlace()
		return true, nil
	}
	return false, rivalry(there, s.server, at)
}

// rivalry is the answer to a claim of a place at which another process answers.
func rivalry(there wire.Welcome, id raft.ServerID, at string) error {
	if there.Unconfirmed { // neither of the two has more of a right to it
		return fmt.Errorf("%w: another node claims the place of %s, at %s: stop the one that runs on a copy", errs.Refused, roster.UserID(id), at)
	}
	return copied(id, at)
}

// askForPlace asks all addresses that may be nodes', at once. It fails when one knows
// that this node is a copy.
func (s *places) askForPlace(addrs []string, promise bool) ([]claimAnswer, error) {
	ctx, cancel := context.WithTimeout(s.ctx, 3*s.timing.Heartbeat) // the other side looks for one
	defer cancel()
	answers, failures := make([]claimAnswer, len(addrs)), make([]error, len(addrs))
	var asking sync.WaitGroup
	for i, addr := range addrs {
		asking.Go(func() {
			question := claim{s.server, s.addr, s.port.Process(), promise}
			answers[i], failures[i] = wire.AskJSON[claimAnswer](ctx, s.port, addr, wire.CallClaim, question)
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
	leader  bool // there is one, or will be without this node
	missing []string
}

func (t tally) enough() bool { return t.there == t.voters || t.absent > t.voters/2 }

func (t tally) String() string {
	text := fmt.Sprintf("%d of %d voters are here, and %d know that it is not there any more", t.there, t.voters, t.absent)
	if len(t.missing) > 0 {
		text += "; missing are " + strings.Join(t.missing, ", ")
	}
	return text
}

// count goes by the newest configuration, that of the node whose log reaches furthest. An identity under
// which two answer counts for nobody.
func (s *places) count(answers []claimAnswer) (t tally) {
	newest := s.claimAnswer()
	by := make(map[raft.ServerID]claimAnswer)
	double := make(map[raft.ServerID]bool)
	for _, a := range answers {
		if a.Server == "" || a.Server == s.server {
			continue
		}
		if other, ok := by[a.Server]; ok && other.Process != a.Process {
			double[a.Server] = true
		}
		by[a.Server] = a
		if cmp.Or(cmp.Compare(a.Term, newest.Term), cmp.Compare(a.Index, newest.Index)) > 0 {
			newest = a
		}
		t.leader = t.leader || a.Led
	}
	t.voters, t.there, t.absent = len(newest.Voters), 1, 1
	placed := 0
	for _, id := range newest.Voters {
		a, ok := by[id]
		switch {
		case id == s.server:
		case !ok || double[id]:
			t.missing = append(t.missing, roster.UserID(id))
		default:
			t.there++
			t.absent += oneIf(a.Absent)
			placed += oneIf(a.Placed)
		}
	}
	t.leader = t.leader || placed > t.voters/2 || !slices.Contains(newest.Voters, s.server)
	return t
}

func oneIf(is bool) int {
	if is {
		return 1
	}
	return 0
}

func (s *places) claimAnswer() claimAnswer {
	term, index := s.lastEntry()
	return claimAnswer{
		Server: s.server, Process: s.port.Process(), Placed: s.isPlaced(), Led: s.lead.tenure().leader != roster.Peer{},
		Voters: roster.IDs(roster.Voters(s.configuration())), Term: term, Index: index,
	}
}

// serveClaim is the other side.
func (s *places) serveClaim(ctx context.Context, c claim) (claimAnswer, error) {
	if mine := s.self().Cluster; mine == "" || wire.CallerOf(ctx).Cluster != mine {
		return claimAnswer{}, fmt.Errorf("%w: a claim of another cluster", errs.Unsent)
	}
	a := s.claimAnswer()
	from := roster.AddressOf(s.configuration(), c.Server)
	switch {
	case c.Server == s.server && c.Process != a.Process:
		return a, rivalry(wire.Welcome{Unconfirmed: !a.Placed}, s.server, s.addr)
	case c.Server == s.server, a.Led, from == "":
		return a, nil
	}
	at := []string{roster.DialAddr(from)}
	if p, ok := s.promised(c.Server); ok {
		at = append(at, p.To)
	}
	if rival := s.claims.note(c); rival != "" {
		at = append(at, rival)
	}
	a.Absent = true
	for _, addr := range at {
		absent, err := s.isAbsent(ctx, c, addr)
		if err != nil {
			return a, err
		}
		a.Absent = a.Absent && absent
	}
	s.claims.take(c)
	if !c.Promise {
		return a, nil
	}
	return a, s.promisePlace(c.Server, disk.PlacePromise{From: from, To: c.Addr})
}

// isAbsent reports whether the member of a claim is known not to be at an address but
// for the claimant itself. Silence tells nothing.
func (s *places) isAbsent(ctx context.Context, c claim, addr string) (bool, error) {
	there, err := s.probeSoon(ctx, addr)
	switch {
	case err != nil:
		return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wire.ErrNoPeer), nil
	case there.Node == c.Server && there.Process != c.Process:
		return false, rivalry(there, c.Server, addr)
	}
	return true, nil
}

// claims are the latest ones that were made on this node, so that two nodes on copies
// of one directory are seen that are both away from its old address.
type claims struct {
	mu     sync.Mutex
	latest map[raft.ServerID]claim // guarded by mu
}

// note returns where another claimant of the same place was.
func (cs *claims) note(c claim) (rival string) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if old, ok := cs.latest[c.Server]; ok && old.Process != c.Process {
		return old.Addr
	}
	return ""
}

func (cs *claims) take(c claim) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.latest == nil {
		cs.latest = make(map[raft.ServerID]claim)
	}
	cs.latest[c.Server] = c // members only: there are few
}
