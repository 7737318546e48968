package member

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/place"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// maxArrivals are the nodes that a leader looks at, at one time, because they are to be
// members; others wait for their turn.
const maxArrivals = 16

// arrival is a node that is to be a member, as it was found when it was looked at.
type arrival struct {
	server      raft.Server // at the address where it answers
	role        string
	fresh       bool          // in no cluster until now
	stands      bool          // in the configuration, with that address or another by which it is reached
	unconfirmed bool          // in its place
	replaced    []raft.Server // whom it replaces

	term   uint64             // of the leader that looked
	config raft.Configuration // before it did
}

// addNonvoter reaches the node, checks who answers, and sees to it that it is a
// member at that address. It waits for others before it locks the membership: a
// stranger that answers slowly, or not at all, holds up nobody else's change. What it has
// found counts if the members are the same afterwards.
func (ms *Members) addNonvoter(ctx context.Context, req JoinRequest) (raft.Server, error) {
	for {
		a, err := ms.lookAt(ctx, req)
		entered := false
		if err == nil {
			entered, err = ms.addArrival(ctx, a)
		}
		if entered && err == nil && a.unconfirmed {
			err = ms.places.ConfirmPlace(ctx, a.server.ID, req.Addr)
		}
		switch {
		case err != nil && entered && !errors.Is(err, errs.Unknown):
			return raft.Server{}, fmt.Errorf("%w: it was begun, and can be asked for again: %v", errs.Unknown, errs.Reason(err))
		case err != nil:
			return raft.Server{}, err
		case entered:
			return a.server, nil
		}
	}
}

// lookAt asks others about a node that is to be a member.
func (ms *Members) lookAt(ctx context.Context, req JoinRequest) (*arrival, error) {
	if err := ms.arriving.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("%w: other nodes are being looked at: %w", errs.Unsent, errs.Ended(ctx))
	}
	defer ms.arriving.Release(1)
	if err := ms.lead.AwaitOwnTerm(ctx); err != nil {
		return nil, err
	}
	term, err := ms.LeaderTerm()
	if err != nil {
		return nil, err
	}
	a := &arrival{term: term, config: ms.Configuration(), role: req.Role}
	who, err := ms.identifyAt(ctx, req)
	if err != nil {
		return nil, err
	}
	a.server = raft.Server{ID: who.Node, Address: raft.ServerAddress(req.Addr), Suffrage: raft.Nonvoter}
	a.fresh = who.Cluster == ""
	switch listed := roster.AddressOf(a.config, who.Node) != ""; {
	case req.Away && !listed:
		return nil, fmt.Errorf("%w: it has left", errs.Refused)
	case req.Itself && listed: // the cluster knows better what it is to be
		a.role = ""
	}
	return a, ms.lookAround(ctx, a, who)
}

// identifyAt is who answers, if it may be a member.
func (ms *Members) identifyAt(ctx context.Context, req JoinRequest) (wire.Welcome, error) {
	who, err := ms.Probe(ctx, req.Addr)
	if err != nil && ctx.Err() != nil { // the leader's time is up, or the caller's: it says nothing of the node
		return who, fmt.Errorf("%w: %w", errs.Unsent, errs.Ended(ctx))
	}
	if err != nil {
		return who, fmt.Errorf("%w from the leader, %s: %w", errs.Unreachable, ms.ID, err)
	}
	cluster := ms.Self().Cluster
	switch {
	case cluster == "": // a moment after hraftd's cluster was taken over
		return who, fmt.Errorf("%w: the cluster has yet to get its id", errs.Unsent)
	case roster.UserID(who.Node) != req.ID:
		return who, fmt.Errorf("%w: the node at %s is %q", errs.Refused, req.Addr, roster.UserID(who.Node))
	case who.Cluster != "" && who.Cluster != cluster:
		return who, fmt.Errorf("%w: it belongs to another cluster (%s, this one is %s); empty its data directory to move it", errs.Refused, who.Cluster, cluster)
	case ms.IsRemoved(who.Node), ms.isForgotten(who):
		return who, ErrRemovedNode
	case who.Node == req.Server && req.Process != "" && who.Process != req.Process: // both have the address, in places that do not see each other
		return who, place.Copied(who.Node, req.Addr)
	case who.Cluster == "" && roster.HasNoIdentity(who.Node) && ms.Lists(who.Node): // its new address can wait: it dials the others
		return who, fmt.Errorf("%w: it has yet to hear which cluster it belongs to", errs.Unsent)
	case who.Cluster == "" && roster.HasNoIdentity(who.Node):
		return who, fmt.Errorf("%w: it has the data of a cluster of hraftd's in which it has not been started since; empty its data directory", errs.Refused)
	}
	return who, nil
}

// lookAround looks whether another stands where the node, who, is to stand.
func (ms *Members) lookAround(ctx context.Context, a *arrival, who wire.Welcome) (err error) {
	if a.role == RoleReplica && roster.IsVoter(a.config, a.server.ID) {
		return fmt.Errorf("%w: node %s is a voter; to make it a replica, remove it, empty its data directory and join it again", errs.Refused, roster.UserID(a.server.ID))
	}
	a.unconfirmed = who.Unconfirmed && who.Cluster != ""
	if a.stands, err = ms.stands(ctx, a.config, a.server, who); err != nil {
		return err
	}
	if p, ok := ms.Promised(a.server.ID); ok && p.To != string(a.server.Address) { // it, or a copy, was there without having got a place
		if there, err := ms.ProbeSoon(ctx, p.To); err == nil && there.Node == a.server.ID && there.Process != who.Process {
			return place.Rivalry(there, a.server.ID, p.To)
		}
		a.unconfirmed = true
	}
	if !a.stands {
		a.replaced, err = ms.inTheWay(ctx, a.config, a.server, who)
	}
	return err
}

// addArrival writes an arrival into the configuration, unless it stands there, and reports
// whether the members were still those that it was found among. A node that is in no
// cluster is admitted only then: one that is refused stays as it was. It has just
// answered, and is not waited for for long.
func (ms *Members) addArrival(ctx context.Context, a *arrival) (entered bool, err error) {
	unlock, err := ms.LockMembership(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	term, err := ms.LeaderTerm()
	if err != nil || term != a.term || ms.IsRemoved(a.server.ID) || !slices.Equal(ms.Configuration().Servers, a.config.Servers) {
		return false, err
	}
	server := a.server
	switch {
	case a.fresh:
		if err := ms.admitSoon(ctx, place.Admission{Cluster: ms.Self().Cluster, Server: server.ID}, string(server.Address)); err != nil {
			return false, fmt.Errorf("admit: %w", err)
		}
	case !a.stands:
		server.Address = ms.places.Relocated(string(server.Address))
	case a.unconfirmed: // what has been promised of it ends with an entry, see package place
		server.Address = ms.places.Relocated(roster.DialAddr(roster.AddressOf(a.config, server.ID)))
	}
	return true, ms.writeIn(ctx, server, a)
}

// stands reports whether server has its address in the configuration already, or
// another by which it is reached as well.
func (ms *Members) stands(ctx context.Context, config raft.Configuration, server raft.Server, who wire.Welcome) (bool, error) {
	old := roster.DialAddr(roster.AddressOf(config, server.ID))
	if old == "" || old == string(server.Address) {
		return old != "", nil
	}
	there, err := ms.ProbeSoon(ctx, old)
	switch {
	case err != nil || there.Node != server.ID: // it has moved
		return false, nil
	case there.Process != who.Process:
		return false, place.Rivalry(there, server.ID, old)
	}
	return true, nil
}

// writeIn removes those whom an arrival replaces, and adds the server that it is unless
// that stands in the configuration with its place.
func (ms *Members) writeIn(ctx context.Context, server raft.Server, a *arrival) error {
	for _, m := range a.replaced {
		ms.Log.Warn("a member came back without its data: it is replaced", "id", roster.UserID(m.ID), "old", m.ID, "new", server.ID)
		if err := ms.removeIdentity(ctx, m, RemoveRequest{}); err != nil {
			return fmt.Errorf("remove the old identity: %w", err)
		}
	}
	if err := ms.assignRole(server.ID, a.role); err != nil || a.stands && !a.unconfirmed {
		return err
	}
	ms.Log.Info("a node joins", "id", roster.UserID(server.ID), "addr", roster.DialAddr(string(server.Address)), "identity", server.ID)
	return ms.places.Relocate(ctx, server.ID, server.Address)
}

// assignRole takes a note of what a node is to be, if that is new.
func (ms *Members) assignRole(server raft.ServerID, role string) error {
	id := roster.UserID(server)
	switch {
	case role == RoleReplica && !ms.IsReplica(id):
		return ms.WriteNote(ReplicaNote(id), "1")
	case role == RoleVoter:
		return ms.clearNote(ReplicaNote(id))
	}
	return nil
}

// inTheWay returns the identity that the new server replaces, if there is one: a
// member with its id at its very address, where another identity has just
// answered. Any other member that stands in the way stays. A server that is no member
// yet is refused for it; a member is not: the other is not there any more, as whoever
// dials it there finds out, and asks for its new address itself.
func (ms *Members) inTheWay(ctx context.Context, config raft.Configuration, server raft.Server, who wire.Welcome) (replaced []raft.Server, err error) {
	for _, m := range config.Servers {
		if m.ID == server.ID {
			continue
		}
		sameID, sameAddr := roster.UserID(m.ID) == roster.UserID(server.ID), roster.DialAddr(string(m.Address)) == string(server.Address)
		if sameID && !sameAddr { // unless it goes by two names
			there, err := ms.ProbeSoon(ctx, string(m.Address))
			sameAddr = err == nil && there.Process == who.Process
		}
		switch {
		case !sameID && !sameAddr:
		case sameID && sameAddr:
			if at, ok := ms.places.Whereabouts(ctx, m); ok {
				return nil, ms.liveElsewhere(m, at)
			}
			replaced = append(replaced, m)
		case sameID:
			return nil, ms.idTaken(ctx, m)
		case roster.AddressOf(config, server.ID) == "":
			return nil, fmt.Errorf("%w: the address belongs to member %s", errs.Refused, roster.UserID(m.ID))
		}
	}
	return replaced, nil
}

func (ms *Members) liveElsewhere(m raft.Server, at string) error {
	return fmt.Errorf("%w: the id %s is taken by the live member at %s, which has moved away from %s; choose another id", errs.Refused, roster.UserID(m.ID), at, roster.DialAddr(string(m.Address)))
}

func (ms *Members) idTaken(ctx context.Context, m raft.Server) error {
	if who, err := ms.ProbeSoon(ctx, string(m.Address)); err == nil && who.Node == m.ID {
		return fmt.Errorf("%w: the id %s is taken by the live member at %s; choose another id", errs.Refused, roster.UserID(m.ID), roster.DialAddr(string(m.Address)))
	}
	return fmt.Errorf("%w: the id %s belongs to a member at %s that does not answer; start the node at that address to replace it, or choose another id",
		errs.Refused, roster.UserID(m.ID), roster.DialAddr(string(m.Address)))
}

// admitSoon is place.Admit as ProbeSoon is Probe.
func (ms *Members) admitSoon(ctx context.Context, a place.Admission, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, ms.Timing.Heartbeat)
	defer cancel()
	return ms.places.Admit(ctx, a, addr)
}
