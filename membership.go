package kvraft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// raft knows a node as id#identity: the id is the user's, the identity is minted
// with the data directory. A directory that was wiped comes back as another
// node, which raft will not take for the one that voted.

func userID(server raft.ServerID) string {
	id, _, _ := strings.Cut(string(server), "#")
	return id
}

// joinRequest asks for a node to be made a voter.
type joinRequest struct {
	ID        string `json:"id"`
	Addr      string `json:"addr"`      // where the node is reached
	Forwarded bool   `json:"forwarded"` // by a member to its leader, which must not pass it on
}

// admission is what a leader tells a node that it admits.
type admission struct {
	Cluster string        `json:"cluster"`
	Server  raft.ServerID `json:"server"` // the node that is meant
}

// Join admits the node id, which must be reachable under the peer address addr,
// to the cluster, and returns when it votes. It may be called on any member, and
// again: joining a voter is nothing. The node must be empty and opened with
// WithJoin, or be a member already that has moved to addr.
//
// Errors: ErrUnreachable when nobody answers there, ErrRefused when another node
// answers, the id belongs to a live member, or the node belongs to another
// cluster; ErrInvalid, ErrNoLeader, ErrClosed; ErrUnknown when ctx ended while
// the node was being admitted, which may go on.
func (s *Store) Join(ctx context.Context, id, addr string) error {
	if err := errors.Join(checkID(id), checkReachable("address", addr)); err != nil {
		return err
	}
	return s.join(ctx, joinRequest{ID: id, Addr: addr})
}

func (s *Store) join(ctx context.Context, req joinRequest) error {
	var last error
	maybe := false // a leader may have written it into the configuration
	for attempt := 0; ; attempt++ {
		reign := s.reign()
		err := s.joinThrough(ctx, reign, req)
		if err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrInvalid) {
			return err
		}
		maybe, last = maybe || !errors.Is(err, errUnsent), err // to ask again does no harm
		if err := s.pause(ctx, reign, attempt); err != nil {
			return outcome(ctx, err, maybe, last)
		}
	}
}

func (s *Store) joinThrough(ctx context.Context, reign *reign, req joinRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(reign.ctx, cancel)()
	switch {
	case reign.leads:
		return s.addMember(ctx, req)
	case reign.leader == peer{}:
		return errNoLeaderKnown
	}
	req.Forwarded = true
	payload, err := json.Marshal(req)
	if err != nil {
		return err
	}
	_, err = s.peers.call(ctx, reign.leader, callJoin, payload)
	return err
}

// addMember makes a node a voter, as the leader. The order is what matters: a
// node that was not reached never counts for the quorum, and one that has not
// caught up does not hold it up.
func (s *Store) addMember(ctx context.Context, req joinRequest) error {
	server, err := s.addNonvoter(ctx, req)
	if err != nil {
		return fmt.Errorf("join node %s at %s: %w", req.ID, req.Addr, err)
	}
	if isVoter(s.configuration(), server.ID) {
		return nil
	}
	if err := s.catchUp(ctx, server); err != nil {
		return fmt.Errorf("join node %s at %s: catch up: %w", req.ID, req.Addr, err)
	}
	if err := s.promote(ctx, server); err != nil {
		return fmt.Errorf("join node %s at %s: promote: %w", req.ID, req.Addr, err)
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
	if s.raft.State() != raft.Leader {
		return raft.Server{}, errNotLeader
	}
	who, err := s.knock(ctx, req.Addr)
	if err != nil && ctx.Err() != nil { // the leader's time is up, or the caller's: it says nothing of the node
		return raft.Server{}, fmt.Errorf("%w: %w", errUnsent, ended(ctx))
	}
	if err != nil {
		return raft.Server{}, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	cluster := s.self().cluster
	switch {
	case userID(who.Node) != req.ID:
		return raft.Server{}, fmt.Errorf("%w: the node at %s is %q", ErrRefused, req.Addr, userID(who.Node))
	case who.Cluster != "" && who.Cluster != cluster:
		return raft.Server{}, fmt.Errorf("%w: it belongs to another cluster (%s, this one is %s); empty its data directory to move it", ErrRefused, who.Cluster, cluster)
	}
	server := raft.Server{ID: who.Node, Address: raft.ServerAddress(req.Addr), Suffrage: raft.Nonvoter}
	return server, s.enter(ctx, server, who)
}

// enter writes server into the configuration, unless it stands there.
func (s *Store) enter(ctx context.Context, server raft.Server, who welcome) error {
	config := s.configuration()
	at := slices.IndexFunc(config.Servers, func(m raft.Server) bool { return m.ID == server.ID })
	if at >= 0 {
		old := config.Servers[at].Address
		if old == server.Address {
			return nil
		}
		if there, err := s.knock(ctx, string(old)); err == nil && there.Node == server.ID {
			return fmt.Errorf("%w: the node runs at %s already; two nodes run on copies of one data directory, and this one must be emptied", ErrRefused, old)
		}
	}
	if err := s.makeRoom(ctx, config, server); err != nil {
		return err
	}
	if who.Cluster == "" {
		if err := s.admit(ctx, server); err != nil {
			return err
		}
	}
	// For a member this changes the address only; it stays a voter.
	return s.change(ctx, func() raft.Future { return s.raft.AddNonvoter(server.ID, server.Address, 0, s.patience()) })
}

// makeRoom removes the identity that the new server replaces, if there is one: a
// member with its id at its very address, where another identity has just
// answered. Any other member that stands in the way stays.
func (s *Store) makeRoom(ctx context.Context, config raft.Configuration, server raft.Server) error {
	for _, m := range config.Servers {
		sameID, sameAddr := userID(m.ID) == userID(server.ID), m.Address == server.Address
		switch {
		case m.ID == server.ID || !sameID && !sameAddr:
		case sameID && sameAddr:
			s.log.Warn("a member came back without its data: it is replaced", "id", userID(m.ID), "old", m.ID, "new", server.ID)
			if err := s.change(ctx, func() raft.Future { return s.raft.RemoveServer(m.ID, 0, s.patience()) }); err != nil {
				return fmt.Errorf("remove the old identity: %w", err)
			}
		case sameID:
			return s.idTaken(ctx, m)
		default:
			return fmt.Errorf("%w: the address belongs to member %s", ErrRefused, userID(m.ID))
		}
	}
	return nil
}

func (s *Store) idTaken(ctx context.Context, m raft.Server) error {
	if who, err := s.knock(ctx, string(m.Address)); err == nil && who.Node == m.ID {
		return fmt.Errorf("%w: the id %s is taken by the live member at %s; choose another id", ErrRefused, userID(m.ID), m.Address)
	}
	return fmt.Errorf("%w: the id %s belongs to a member at %s that does not answer; start the node at that address to replace it, or choose another id",
		ErrRefused, userID(m.ID), m.Address)
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

func (s *Store) admit(ctx context.Context, server raft.Server) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout) // no other change can be made meanwhile
	defer cancel()
	if err := s.ask(ctx, string(server.Address), callAdmit, admission{s.self().cluster, server.ID}); err != nil {
		return fmt.Errorf("admit: %w", err)
	}
	return nil
}

// ask makes one call, with a message in JSON, on whoever is at addr.
func (s *Store) ask(ctx context.Context, addr string, m method, message any) error {
	payload, err := json.Marshal(message)
	if err != nil {
		return err
	}
	conn, _, err := s.transport.dial(ctx, addr, forRPC, "")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer conn.Close()
	_, _, err = exchange(ctx, conn, m, payload)
	return err
}

// acceptAdmission is the other side of admit: the cluster is on disk before the
// answer leaves, and from then on only that cluster is heard.
func (s *Store) acceptAdmission(a admission) error {
	var refusal error
	err := s.logs.updateMeta(func(m *metadata) {
		switch {
		case a.Cluster == "":
			refusal = fmt.Errorf("%w: an admission to no cluster", ErrInvalid)
		case a.Server != m.serverID():
			refusal = fmt.Errorf("%w: this is node %s, not %s", ErrRefused, m.serverID(), a.Server)
		case m.Cluster != "" && m.Cluster != a.Cluster:
			refusal = fmt.Errorf("%w: node %s belongs to cluster %s", ErrRefused, m.ID, m.Cluster)
		default:
			m.Cluster = a.Cluster
		}
	})
	if err != nil || refusal != nil {
		return errors.Join(err, refusal)
	}
	s.log.Info("admitted", "cluster", a.Cluster)
	return nil
}

// catchUp returns when server is as far as the leader was moments ago: after a
// round that took less than an election timeout (section 4.2.1 of Ongaro's
// thesis), or ten.
func (s *Store) catchUp(ctx context.Context, server raft.Server) error {
	to := peer{server.ID, string(server.Address)}
	for range 10 {
		began := time.Now()
		if err := s.awaitOn(ctx, to, s.raft.CommitIndex()); err != nil {
			return err
		}
		if time.Since(began) < s.opts.timing.Election {
			return nil
		}
	}
	return fmt.Errorf("%w: it falls behind as fast as it catches up", errUnsent)
}

func (s *Store) promote(ctx context.Context, server raft.Server) error {
	unlock, err := s.lockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, m := range s.configuration().Servers {
		if m.ID != server.ID {
			continue
		}
		if m.Suffrage == raft.Voter {
			return nil
		}
		s.log.Info("promote to voter", "id", userID(m.ID), "addr", m.Address)
		return s.change(ctx, func() raft.Future { return s.raft.AddVoter(m.ID, m.Address, 0, s.patience()) })
	}
	return fmt.Errorf("%w: it was removed meanwhile", errUnsent)
}

// change waits for a change of the configuration to be committed. It can be
// asked for again whatever the error was.
func (s *Store) change(ctx context.Context, ask func() raft.Future) error {
	if !s.futures.enter() {
		return s.whyClosed()
	}
	done := make(chan error, 1)
	if !s.spawn(func() {
		defer s.futures.leave()
		done <- ask().Error()
	}) {
		s.futures.leave()
		return s.whyClosed()
	}
	select {
	case err := <-done:
		if errors.Is(err, raft.ErrNotLeader) {
			return fmt.Errorf("%w: %w", errUnsent, err)
		}
		return err
	case <-ctx.Done():
		return ended(ctx)
	}
}

// lockMembership lets one change at a time through. A channel, not a mutex: it
// is held while the network is waited for.
func (s *Store) lockMembership(ctx context.Context) (unlock func(), err error) {
	select {
	case s.changing <- struct{}{}:
		return func() { <-s.changing }, nil
	case <-ctx.Done():
		return nil, ended(ctx)
	}
}

// keepJoining asks the members to admit this node, or to note its new address,
// until its own configuration says so.
func (s *Store) keepJoining() {
	const shortest, longest = 50 * time.Millisecond, 5 * time.Second
	wait := shortest
	told := ""
	for !s.isSettled() {
		err := s.askToJoin()
		s.setJoinErr(err)
		if err == nil {
			wait = shortest // admitted; the configuration is on its way
		} else if told != err.Error() {
			told = err.Error()
			s.log.Warn("waiting to be admitted", "reason", err)
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, longest)
		case <-s.ctx.Done():
			return
		}
	}
	s.setJoinErr(nil)
	s.log.Info("member of the cluster", "cluster", s.self().cluster, "id", s.opts.id, "addr", s.opts.advertise)
}

// isSettled reports whether this node votes under its present address.
func (s *Store) isSettled() bool {
	return slices.Contains(s.configuration().Servers, raft.Server{
		Suffrage: raft.Voter, ID: s.server, Address: raft.ServerAddress(s.opts.advertise),
	})
}

func (s *Store) ownJoinRequest() joinRequest {
	return joinRequest{ID: s.opts.id, Addr: s.opts.advertise}
}

// askToJoin goes through the members until one has seen to it. A leader that has
// moved is its own member.
func (s *Store) askToJoin() error {
	if s.reign().leads {
		return s.join(s.ctx, s.ownJoinRequest())
	}
	addrs, err := s.memberAddrs()
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	for _, addr := range addrs {
		err := s.askMember(addr)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return fmt.Errorf("%w: there is no member to ask; start the node with the addresses of members, or empty its directory to found a cluster", errUnsent)
	}
	return errors.Join(errs...)
}

// memberAddrs returns those that are known, also with an error.
func (s *Store) memberAddrs() (addrs []string, err error) {
	addrs = slices.Clone(s.opts.join)
	if s.opts.joinFunc != nil {
		var found []string
		if found, err = s.opts.joinFunc(s.ctx); err != nil {
			err = fmt.Errorf("look for members: %w", err)
		}
		addrs = append(addrs, found...)
	}
	for _, m := range s.configuration().Servers {
		if m.ID != s.server {
			addrs = append(addrs, string(m.Address))
		}
	}
	slices.Sort(addrs)
	return slices.Compact(addrs), err
}

func (s *Store) askMember(addr string) error {
	ctx, cancel := context.WithTimeout(s.ctx, maxCall)
	defer cancel()
	who, err := s.knock(ctx, addr)
	mine := s.self().cluster
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", addr, err)
	case who.Cluster == "":
		return fmt.Errorf("%s: node %s waits to be admitted itself", addr, userID(who.Node))
	case mine != "" && who.Cluster != mine:
		return fmt.Errorf("%w: %s is of cluster %s, this node of %s", ErrRefused, addr, who.Cluster, mine)
	}
	if err := s.ask(ctx, addr, callJoin, s.ownJoinRequest()); err != nil {
		return fmt.Errorf("%s: %w", addr, err)
	}
	return nil
}

// Nodes returns the members as the leader knows them, sorted by id. Errors:
// ErrNoLeader, ErrClosed.
func (s *Store) Nodes(ctx context.Context) ([]Node, error) {
	var nodes []Node
	err := s.readLoop(ctx, func(ctx context.Context, reign *reign) (err error) {
		if reign.leads {
			nodes, err = s.nodesAsLeader(ctx)
			return err
		}
		answer, err := s.peers.call(ctx, reign.leader, callNodes, nil)
		if err != nil {
			return err
		}
		return json.Unmarshal(answer, &nodes)
	})
	return nodes, err
}

func (s *Store) nodesAsLeader(ctx context.Context) ([]Node, error) {
	if _, err := s.rounds.join(ctx); err != nil {
		return nil, err
	}
	return s.members(), nil
}

// members are those of the newest configuration that this node has.
func (s *Store) members() []Node {
	var nodes []Node
	for _, m := range s.configuration().Servers {
		nodes = append(nodes, Node{ID: userID(m.ID), Addr: string(m.Address), Voter: m.Suffrage == raft.Voter})
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.ID, b.ID) })
	return nodes
}

func (s *Store) configuration() raft.Configuration {
	return s.raft.GetConfiguration().Configuration() // in memory; never waits or fails
}

func isVoter(config raft.Configuration, id raft.ServerID) bool {
	return slices.ContainsFunc(config.Servers, func(m raft.Server) bool {
		return m.ID == id && m.Suffrage == raft.Voter
	})
}
