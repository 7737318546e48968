package kvraft

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// JoinOption qualifies Join: it is a [JoinFlag].
type JoinOption interface{ qualify(*joinOptions) }

type joinOptions struct{ flags JoinFlag }

// JoinFlag is a JoinOption without a value.
type JoinFlag byte

const (
	// Replica makes Join admit a node that stays without a vote: it has the whole
	// state and takes every call, but does not count for the quorum, so that it makes
	// no write slower and no majority harder. It is for reads near their readers. To
	// make it a voter, join it again without Replica; a voter becomes a replica only by
	// being removed, emptied and joined again.
	Replica JoinFlag = 1 << iota
)

func (f JoinFlag) qualify(o *joinOptions) { o.flags |= f }

func (o joinOptions) role() string {
	if o.flags&Replica != 0 {
		return roleReplica
	}
	return roleVoter
}

// What a member is meant to be. The cluster takes a note of each replica, which
// outlives the leader that was asked.
const (
	roleVoter   = "voter"
	roleReplica = "replica"
)

// joinRequest asks for a node to be made a member.
type joinRequest struct {
	ID     string `json:"id"`
	Addr   string `json:"addr"`   // where the node is reached
	Role   string `json:"role"`   // empty: what is noted of the id, and else a voter
	Itself bool   `json:"itself"` // by the node itself: its Role counts when it is admitted, and no more once it is a member
	Away   bool   `json:"away"`   // by a node that has left: it is not admitted, and learns whether it is a member again

	Server  raft.ServerID `json:"server,omitempty"`  // if by the node itself
	Process string        `json:"process,omitempty"` // likewise, see welcome

	Forwarded bool `json:"forwarded"` // by a member to its leader, which must not pass it on
}

// admission is what a leader tells a node that it admits.
type admission struct {
	Cluster string        `json:"cluster"`
	Server  raft.ServerID `json:"server"`         // the node that is meant
	Addr    string        `json:"addr,omitempty"` // and where it has its place, for a member that is confirmed there
}

// Join admits the node id, which must be reachable under the peer address addr,
// to the cluster, and returns when it votes; with [Replica], when it has caught
// up. It may be called on any member, and again: joining a member is nothing. The
// node must be empty and opened with WithJoin, or be a member already that has
// moved to addr.
//
// Errors: ErrUnreachable when nobody answers there, ErrRefused when another node
// answers, the id belongs to a live member, or the node belongs to another cluster,
// ErrRemoved when it was removed from this one, ErrCopied when it runs on a copy of a
// member's data; ErrInvalid, ErrNoLeader, ErrClosed;
// ErrUnknown when ctx ended while the node was being admitted, which goes on.
func (s *Store) Join(ctx context.Context, id, addr string, opts ...JoinOption) error {
	if err := errors.Join(checkID(id), checkReachable("address", addr)); err != nil {
		return err
	}
	return s.join(ctx, joinRequest{ID: id, Addr: addr, Role: gather[joinOptions](opts).role()})
}

// errDismissed is what a removed node is told that wants to be a member again.
var errDismissed = fmt.Errorf("%w; empty its data directory to let it join as a new node", ErrRemoved)

func (s *Store) join(ctx context.Context, req joinRequest) error {
	return s.changeThroughLeader(ctx, func(ctx context.Context, reign *reign) error {
		return s.joinThrough(ctx, reign, req)
	})
}

func (s *Store) joinThrough(ctx context.Context, reign *reign, req joinRequest) error {
	if reign.leads {
		return s.addMember(ctx, reign, req)
	}
	req.Forwarded = true
	return s.tellLeader(ctx, reign, callJoin, req)
}

// addMember makes a node a member, as the leader. The order is what matters: a
// node that was not reached never counts for the quorum, and one that has not
// caught up does not hold it up.
func (s *Store) addMember(ctx context.Context, reign *reign, req joinRequest) error {
	server, err := s.addNonvoter(ctx, req)
	if err != nil {
		return fmt.Errorf("join node %s at %s: %w", req.ID, req.Addr, err)
	}
	switch {
	case req.Away: // it hears so from a leader that a majority confirms
		_, err := s.rounds.join(ctx)
		return err
	case isVoter(s.configuration(), server.ID):
		return nil
	}
	err = s.bringUp(ctx, reign, server)
	if err == nil && req.Role == roleVoter && !isVoter(s.configuration(), server.ID) {
		err = errors.New("another call has made it a replica meanwhile")
	}
	if err != nil { // it is a member already
		return fmt.Errorf("join node %s at %s: %w: %v", req.ID, req.Addr, ErrUnknown, err)
	}
	return nil
}

// addNonvoter reaches the node, checks who answers, and sees to it that it is a
// member at that address.
func (s *Store) addNonvoter(ctx context.Context, req joinRequest) (raft.Server, error) {
	unlock, err := s.lockMembership(ctx)
	if err != nil {
		return raft.Server{}, err
	}
	defer unlock()
	if err := s.awaitOwnTerm(ctx); err != nil {
		return raft.Server{}, err
	}
	who, err := s.knock(ctx, req.Addr)
	if err != nil && ctx.Err() != nil { // the leader's time is up, or the caller's: it says nothing of the node
		return raft.Server{}, fmt.Errorf("%w: %w", errUnsent, ended(ctx))
	}
	if err != nil {
		return raft.Server{}, fmt.Errorf("%w from the leader, %s: %w", ErrUnreachable, s.opts.id, err)
	}
	cluster := s.self().cluster
	switch {
	case cluster == "": // a moment after hraftd's cluster was taken over
		return raft.Server{}, fmt.Errorf("%w: the cluster has yet to get its id", errUnsent)
	case userID(who.Node) != req.ID:
		return raft.Server{}, fmt.Errorf("%w: the node at %s is %q", ErrRefused, req.Addr, userID(who.Node))
	case who.Cluster != "" && who.Cluster != cluster:
		return raft.Server{}, fmt.Errorf("%w: it belongs to another cluster (%s, this one is %s); empty its data directory to move it", ErrRefused, who.Cluster, cluster)
	case s.isRetired(who.Node):
		return raft.Server{}, errDismissed
	case who.Node == req.Server && req.Process != "" && who.Process != req.Process: // both have the address, in places that do not see each other
		return raft.Server{}, copied(who.Node, req.Addr)
	case who.Cluster == "" && isBare(who.Node) && s.lists(who.Node): // its new address can wait: it dials the others
		return raft.Server{}, fmt.Errorf("%w: it has yet to hear which cluster it belongs to", errUnsent)
	case who.Cluster == "" && isBare(who.Node):
		return raft.Server{}, fmt.Errorf("%w: it has the data of a cluster of hraftd's in which it has not been started since; empty its data directory", ErrRefused)
	}
	server := raft.Server{ID: who.Node, Address: raft.ServerAddress(req.Addr), Suffrage: raft.Nonvoter}
	switch listed := s.lists(server.ID); {
	case req.Away && !listed:
		return raft.Server{}, fmt.Errorf("%w: it has left", ErrRefused)
	case req.Itself && listed: // the cluster knows better what it is to be
		req.Role = ""
	}
	return server, s.enter(ctx, server, who, req.Role)
}

// enter writes server into the configuration, unless it stands there, and confirms it
// in its place.
func (s *Store) enter(ctx context.Context, server raft.Server, who welcome, role string) error {
	config := s.configuration()
	if role == roleReplica && isVoter(config, server.ID) {
		return fmt.Errorf("%w: node %s is a voter; to make it a replica, remove it, empty its data directory and join it again", ErrRefused, userID(server.ID))
	}
	addr, unconfirmed := string(server.Address), who.Unconfirmed && who.Cluster != ""
	stands, err := s.stands(ctx, config, server, who)
	if err != nil {
		return err
	}
	if p, ok := s.promised(server.ID); ok && p.To != addr { // it, or a copy, was there without having got a place
		if there, err := s.knock(ctx, p.To); err == nil && there.Node == server.ID && there.Process != who.Process {
			return rivalry(there, server.ID, p.To)
		}
		unconfirmed = true
	}
	var replaced []raft.Server
	if !stands {
		if replaced, err = s.inTheWay(ctx, config, server, who); err != nil {
			return err
		}
	}
	switch {
	case who.Cluster == "":
		if err := s.admit(ctx, admission{Cluster: s.self().cluster, Server: server.ID}, addr); err != nil {
			return fmt.Errorf("admit: %w", err)
		}
	case !stands:
		server.Address = s.relocated(addr)
	case unconfirmed: // what has been promised of it ends with an entry, see place.go
		server.Address = s.relocated(dialAddr(addressIn(config, server.ID)))
	}
	// Only now: a node that is refused must not have changed anything for others.
	err = s.writeIn(ctx, server, replaced, role, stands && !unconfirmed)
	if err == nil && unconfirmed {
		err = s.confirmPlace(ctx, server.ID, addr)
	}
	if err != nil {
		return fmt.Errorf("%w: it was begun, and can be asked for again: %v", ErrUnknown, err)
	}
	return nil
}

// stands reports whether server has its address in the configuration already, or
// another by which it is reached as well.
func (s *Store) stands(ctx context.Context, config raft.Configuration, server raft.Server, who welcome) (bool, error) {
	old := dialAddr(addressIn(config, server.ID))
	if old == "" || old == string(server.Address) {
		return old != "", nil
	}
	there, err := s.knock(ctx, old)
	switch {
	case err != nil || there.Node != server.ID: // it has moved
		return false, nil
	case there.Process != who.Process:
		return false, rivalry(there, server.ID, old)
	}
	return true, nil
}

// writeIn removes those whom the server replaces, and adds it unless it stands in the
// configuration.
func (s *Store) writeIn(ctx context.Context, server raft.Server, replaced []raft.Server, role string, stands bool) error {
	for _, m := range replaced {
		s.log.Warn("a member came back without its data: it is replaced", "id", userID(m.ID), "old", m.ID, "new", server.ID)
		if err := s.dismiss(ctx, m, removeRequest{}); err != nil {
			return fmt.Errorf("remove the old identity: %w", err)
		}
	}
	if err := s.assignRole(server.ID, role); err != nil || stands {
		return err
	}
	s.log.Info("a node joins", "id", userID(server.ID), "addr", dialAddr(string(server.Address)), "identity", server.ID)
	return s.relocate(ctx, server.ID, server.Address)
}

// assignRole takes a note of what a node is to be, if that is new.
func (s *Store) assignRole(server raft.ServerID, role string) error {
	id := userID(server)
	switch {
	case role == roleReplica && !s.isReplica(id):
		return s.writeNote(replicaNote(id), "1")
	case role == roleVoter:
		return s.strike(replicaNote(id))
	}
	return nil
}

// inTheWay returns the identity that the new server replaces, if there is one: a
// member with its id at its very address, where another identity has just
// answered. Any other member that stands in the way stays. A server that is no member
// yet is refused for it; a member is not: the other is not there any more, as whoever
// dials it there finds out, and asks for its new address itself.
func (s *Store) inTheWay(ctx context.Context, config raft.Configuration, server raft.Server, who welcome) (replaced []raft.Server, err error) {
	for _, m := range config.Servers {
		sameID, sameAddr := userID(m.ID) == userID(server.ID), dialAddr(string(m.Address)) == string(server.Address)
		if sameID && !sameAddr { // unless it goes by two names
			there, err := s.knock(ctx, string(m.Address))
			sameAddr = err == nil && there.Process == who.Process
		}
		switch {
		case m.ID == server.ID || !sameID && !sameAddr:
		case sameID && sameAddr:
			if at, ok := s.whereabouts(ctx, m); ok {
				return nil, s.liveElsewhere(m, at)
			}
			replaced = append(replaced, m)
		case sameID:
			return nil, s.idTaken(ctx, m)
		case addressIn(config, server.ID) == "":
			return nil, fmt.Errorf("%w: the address belongs to member %s", ErrRefused, userID(m.ID))
		}
	}
	return replaced, nil
}

func (s *Store) liveElsewhere(m raft.Server, at string) error {
	return fmt.Errorf("%w: the id %s is taken by the live member at %s, which has moved away from %s; choose another id", ErrRefused, userID(m.ID), at, dialAddr(string(m.Address)))
}

func (s *Store) idTaken(ctx context.Context, m raft.Server) error {
	if who, err := s.knock(ctx, string(m.Address)); err == nil && who.Node == m.ID {
		return fmt.Errorf("%w: the id %s is taken by the live member at %s; choose another id", ErrRefused, userID(m.ID), dialAddr(string(m.Address)))
	}
	return fmt.Errorf("%w: the id %s belongs to a member at %s that does not answer; start the node at that address to replace it, or choose another id",
		ErrRefused, userID(m.ID), dialAddr(string(m.Address)))
}

// knock asks who is at an address.
func (s *Store) knock(ctx context.Context, addr string) (welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, who, err := s.transport.dial(ctx, addr, forRPC, "")
	if err != nil {
		return who, err
	}
	return who, conn.Close()
}

func (s *Store) admit(ctx context.Context, a admission, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout) // no other change can be made meanwhile
	defer cancel()
	return s.ask(ctx, addr, callAdmit, a, nil)
}

// acceptAdmission is the other side of admit: the cluster is on disk before the
// answer leaves, and from then on only that cluster is heard.
func (s *Store) acceptAdmission(a admission) error {
	var refusal error
	var fresh bool
	err := s.logs.updateMeta(func(m *metadata) {
		switch {
		case a.Cluster == "":
			refusal = fmt.Errorf("%w: an admission to no cluster", ErrInvalid)
		case a.Server != m.serverID():
			refusal = fmt.Errorf("%w: this is node %s, not %s", ErrRefused, m.serverID(), a.Server)
		case m.Cluster != "" && m.Cluster != a.Cluster:
			refusal = fmt.Errorf("%w: node %s belongs to cluster %s", ErrRefused, m.ID, m.Cluster)
		case m.isNameless():
			refusal = fmt.Errorf("%w: node %s has the data of a cluster of hraftd's", ErrRefused, m.ID)
		case m.Promise != nil && clusterOf(m.Promise) != a.Cluster:
			refusal = fmt.Errorf("%w: node %s has promised to form a cluster with %s", ErrRefused, m.ID, nameAll(m.Promise))
		default:
			fresh = m.Cluster == ""
			m.Cluster, m.Promise = a.Cluster, nil
			if fresh { // until it has heard of a configuration
				m.Places = map[raft.ServerID]placePromise{m.serverID(): {To: s.opts.advertise}}
			}
		}
	})
	if err != nil || refusal != nil {
		return errors.Join(err, refusal)
	}
	if fresh {
		s.log.Info("admitted", "cluster", a.Cluster)
	}
	if fresh || a.Addr == s.opts.advertise { // nobody can have voted in its place before it is admitted
		s.takePlace()
	}
	return nil
}
