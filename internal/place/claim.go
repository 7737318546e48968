package place

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

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

// Rivalry is the answer to a claim of a place at which another process answers: an
// errs.Refused, or errs.Copied if that one has its place.
func Rivalry(there wire.Welcome, id raft.ServerID, at string) error {
	if there.Unconfirmed { // neither of the two has more of a right to it
		return fmt.Errorf("%w: another node claims the place of %s, at %s: stop the one that runs on a copy", errs.Refused, roster.UserID(id), at)
	}
	return Copied(id, at)
}

func (p *Places) claimAnswer() ClaimAnswer {
	term, index := p.LastEntry()
	return ClaimAnswer{
		Server: p.Server, Process: p.Port.Process(), Placed: p.IsPlaced(), Led: p.lead.Tenure().Leader != roster.Peer{},
		Voters: roster.IDs(roster.Voters(p.Configuration())), Term: term, Index: index,
	}
}

// ServeClaim is the other side, of a claimant of the same cluster.
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
