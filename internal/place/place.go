// Package place says whether a node may act where it runs, and has it confirmed elsewhere.
//
// A copy of a data directory has the identity of its original. If both acted under it,
// each could give the vote that the other has given, and two sides of a partition could
// each find a majority. What tells them apart is where they are:
//
// A node has its place when it runs where its own configuration has it. Elsewhere it is
// unconfirmed. It then sends nothing of raft's and takes nothing: it gives no vote and
// stands for no election, takes no entry, answers no round of a read and no question
// about a leader's death, and leads nobody. Others dial a member where their own newest
// configuration has it, and nowhere else, whatever it says of itself, unless they have
// promised otherwise as below.
//
// A leader confirms it, by an entry that gives the member its new address. The member
// takes no entries yet, and what runs at the old address is not sent this one: so the
// majority that commits it is one without the member. Any later majority shares with it
// another voter, who refuses a candidate that lacks the entry; and a candidate that has
// it asks for the vote at the new address alone. So from then on nothing that is done at
// any other address counts, whether the leader could see it or not, and it does not
// matter how old the data of the one that is confirmed are: whatever had been committed
// before is in the log of that majority. Entries have an order, so one place follows
// another, and two are never confirmed at a time.
//
// Without the vote of those that have moved there may be no leader who could do that:
// all the nodes of a cluster may come back at new addresses. Then they confirm each
// other. A voter without a leader is asked by each, looks whether anybody with that
// identity answers where it has it, and if not promises on disk to find it at the new
// address until an entry says otherwise; what calls from the old one it turns away. Two
// cases suffice for the node to act:
//
//   - All voters are there and promise. Who acts at another address needs one of them
//     for a majority, unless a majority has been copied.
//   - A majority, this node among it, is there, and those that promise have seen more
//     than silence at the old address: it refuses connections, or somebody else answers.
//     So the original does not run. (If it has run since the copy was made, and those
//     who know what it did are away, it is as if a disk had lost data.)
//
// Nodes that have their places are not asked for that if they are a majority: they will
// have a leader. If they have none after some elections' time they are asked all the same:
// one of them may have been confirmed by others, and the rest do not know where it is.
// Nobody waits for the place of another: to promise a node needs no place
// itself, and an address that another member still has in the configuration is no
// obstacle. So whatever the addresses have become, nodes that are all there confirm each
// other, and a leader moves them one by one.
//
// It is used so:
//
//	p := place.New(n, tracker)
//	p.FindPlace()                         // at the start: n.IsPlaced says what came of it
//	viaLeader, err := p.Seek(memberAddrs) // while it has none, again and again
//
//	err := p.Relocate(ctx, id, p.Relocated(addr)) // a leader confirms a member: by an entry,
//	err = p.ConfirmPlace(ctx, id, addr)           // of which it then tells the member
//
// Promises are in the node's record on disk, of which package disk guards the writing. The
// one lock here, of the claims that were made on this node, is a leaf, and not held while
// anybody is asked. Goroutines: those by which Seek asks several nodes at once, for which it
// waits, and those of node.Change.
//
// Tests: claim_test.go has what the answers come to. The rest are clusters in virtual time
// in the root package: place_test.go and moved_test.go.
package place

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// Places is one node's own place, and what it knows of those of others.
type Places struct {
	*node.Node
	lead *lead.Tracker

	placedSince time.Time // a majority has had its places, and no leader, since then; used by Seek alone
	claims      claims
	relocating  sync.Map // of server ids to their next addresses, by this node as the leader; see Relocate
}

// New returns the places of a node, which has none before FindPlace.
func New(n *node.Node, t *lead.Tracker) *Places { return &Places{Node: n, lead: t} }

// Copied is told to a node that runs on a copy: errs.Copied.
func Copied(id raft.ServerID, at string) error {
	return fmt.Errorf("%w: node %s runs at %s already; keep one of the two, empty the data directory of the other, and let it join as a new node under another id",
		errs.Copied, roster.UserID(id), at)
}

// FindPlace is for the start: a node that is where its configuration has it needs no
// confirmation, or where it was admitted while it has none; nor does one that is taken
// over from hraftd and has yet to hear of its cluster.
func (p *Places) FindPlace() {
	at := roster.DialAddr(p.ConfiguredAt())
	if promise, ok := p.Promised(p.Server); ok {
		at = promise.To
	}
	if p.Stable().Record().LacksClusterID() || at == p.Addr {
		p.TakePlace()
	}
}

// Relocated is addr as the configuration has it from now on: it differs from what stood
// there before, also where the address is the same.
func (p *Places) Relocated(addr string) raft.ServerAddress {
	return roster.MovedAddr(addr, p.Raft.CurrentTerm(), p.Raft.LastIndex())
}

func (p *Places) promisePlace(id raft.ServerID, promise disk.PlacePromise) error {
	config := p.Configuration()
	err := p.Stable().Update(func(m *disk.Record) {
		places := map[raft.ServerID]disk.PlacePromise{id: promise}
		for other, old := range m.Places { // those that still hold
			if other != id && roster.AddressOf(config, other) == old.From {
				places[other] = old
			}
		}
		m.Places = places
	})
	if err != nil {
		return fmt.Errorf("promise a place: %w", err)
	}
	return nil
}

// ConfirmPlace tells a member at addr that its place is there. The entry by which it is
// must be committed.
func (p *Places) ConfirmPlace(ctx context.Context, id raft.ServerID, addr string) error {
	if err := p.Admit(ctx, Admission{Cluster: p.Self().Cluster, Server: id, Addr: addr}, addr); err != nil {
		return fmt.Errorf("confirm its place: %w", err)
	}
	return nil
}

// Relocate gives a member another address, as the leader, and waits until that is
// committed; or it makes a node a member.
func (p *Places) Relocate(ctx context.Context, id raft.ServerID, to raft.ServerAddress) error {
	p.relocating.Store(id, to)
	// For a member this changes the address only; a voter stays one.
	return p.Change(ctx, func() raft.Future {
		defer p.relocating.CompareAndDelete(id, to)
		f := p.Raft.AddNonvoter(id, to, 0, p.Patience())
		f.Error() // it is known then; the caller asks again
		return f
	})
}

// HoldsBack reports whether entries must not go to a member at addr: it is about to get
// another. raft sends an entry before it goes by it.
func (p *Places) HoldsBack(id raft.ServerID, addr raft.ServerAddress) bool {
	to, ok := p.relocating.Load(id)
	return ok && to != addr
}

// Whereabouts is where a member answers that is not at its address; false: nowhere that
// is known.
func (p *Places) Whereabouts(ctx context.Context, m raft.Server) (string, bool) {
	if m.ID == p.Server {
		return p.Addr, true
	}
	for _, addr := range []string{p.AddressOf(m.ID, string(m.Address)), p.Port.CallsFrom(m.ID).At} {
		if addr == "" || addr == roster.DialAddr(string(m.Address)) {
			continue
		}
		if there, err := p.ProbeSoon(ctx, addr); err == nil && there.Node == m.ID {
			return addr, true
		}
	}
	return "", false
}

// TurnAway says why a dialer is turned away, and where it has its place if elsewhere;
// empty: it is not. That is for one that has a right to its place by a configuration that
// is older than the promise.
func (p *Places) TurnAway(o wire.Opening) (why, elsewhere string) {
	if !p.IsPlaced() {
		return fmt.Sprintf("node %s has to be confirmed at its new address", p.Server), ""
	}
	if promise, ok := p.Promised(o.From); ok && o.At == roster.DialAddr(promise.From) && o.Configured == promise.From {
		return fmt.Sprintf("node %s has promised to find node %s at %s", p.Server, o.From, promise.To), promise.To
	}
	return "", ""
}

// Admission is what a leader tells a node that it admits.
type Admission struct {
	Cluster string        `json:"cluster"`
	Server  raft.ServerID `json:"server"`         // the node that is meant
	Addr    string        `json:"addr,omitempty"` // and where it has its place, for a member that is confirmed there
}

// Admit tells the node at addr that it is admitted, or confirmed, and waits for it to
// have written that down.
func (p *Places) Admit(ctx context.Context, a Admission, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, wire.HandshakeTimeout)
	defer cancel()
	_, err := wire.AskJSON[wire.Raw](ctx, p.Port, addr, wire.CallAdmit, a)
	return err
}
