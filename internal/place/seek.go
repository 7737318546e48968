package place

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// Seek goes one step towards this node's place: it looks at its old address, and asks the
// other voters, at addrs, to confirm it. viaLeader: there is a leader to ask instead. The
// error says what is in the way.
func (p *Places) Seek(addrs func() []string) (viaLeader bool, err error) {
	if done, err := p.lookAtOldPlace(); done || err != nil {
		return false, err
	}
	if p.ConfiguredAt() == "" {
		return true, nil
	}
	all := addrs()
	answers, err := p.askAll(all, false)
	if err != nil {
		return false, err
	}
	t := p.count(answers)
	if t.leader || p.electsSoon(t) {
		return true, nil
	}
	if t.enough() {
		if answers, err = p.askAll(all, true); err != nil {
			return false, err
		}
		if t = p.count(answers); t.enough() && !t.leader {
			p.Log.Info("confirmed by the other voters", "addr", p.Addr, "old", roster.DialAddr(p.ConfiguredAt()))
			p.TakePlace()
			return false, nil
		}
	}
	return false, fmt.Errorf("it was at %s, and has to be confirmed: %s; start those that are missing, or this node at its old address", roster.DialAddr(p.ConfiguredAt()), t)
}

// electsSoon reports whether a majority has its places, and will have a leader. It is given
// some elections' time for that: those who were confirmed by others than their peers cannot
// be dialed by these.
func (p *Places) electsSoon(t tally) bool {
	if t.placed <= t.voters/2 {
		p.placedSince = time.Time{}
		return false
	}
	if p.placedSince.IsZero() {
		p.placedSince = time.Now()
	}
	return time.Since(p.placedSince) < 4*(p.Timing.Heartbeat+p.Timing.Election)
}

// lookAtOldPlace reports whether the old address leads to this node too.
func (p *Places) lookAtOldPlace() (here bool, err error) {
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

// askAll asks all addresses that may be nodes', at once. It fails when one knows that this
// node is a copy.
func (p *Places) askAll(addrs []string, promise bool) ([]ClaimAnswer, error) {
	ctx, cancel := context.WithTimeout(p.Ctx, 3*p.Timing.Heartbeat) // the other side looks for one
	defer cancel()
	question := Claim{p.Server, p.Addr, p.Port.Process(), promise}
	answers, failures := node.AskAll(addrs, func(addr string) (ClaimAnswer, error) {
		return wire.AskJSON[ClaimAnswer](ctx, p.Port, addr, wire.CallClaim, question)
	})
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
	there   int  // voters that answer, this one among them
	absent  int  // of those, how many know that it does not run at its old address, this one among them
	placed  int  // of those, how many have their places
	leader  bool // there is one, or this node is no voter
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

// count goes by the newest configuration, that of the node whose log reaches furthest. An
// identity under which two answer counts for nobody.
func (p *Places) count(answers []ClaimAnswer) (t tally) {
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
		t.leader = t.leader || a.Led
	}
	t.voters, t.there, t.absent = len(newest.Voters), 1, 1
	for _, id := range newest.Voters {
		a, ok := by[id]
		switch {
		case id == p.Server:
		case !ok || double[id]:
			t.missing = append(t.missing, roster.UserID(id))
		default:
			t.there++
			t.absent += oneIf(a.Absent)
			t.placed += oneIf(a.Placed)
		}
	}
	t.leader = t.leader || !slices.Contains(newest.Voters, p.Server)
	return t
}

func oneIf(is bool) int {
	if is {
		return 1
	}
	return 0
}
