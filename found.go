package kvraft

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"github.com/kvraft/kvraft/internal/wire"
)

// A cluster is formed by one node alone, or by n empty nodes that were all told
// to expect n (WithBootstrapExpect). Together it goes like this:
//
// Each node asks the others what they are. When it has found enough of them, it
// intends to form a cluster with the first n by identity. When it sees that the
// rest of that set intends the same, it promises the set, on disk. When it sees
// that all n have promised, it bootstraps: the same configuration as the others,
// in a cluster whose id is a hash of the set.
//
// Why there are never two: a node promises one set, and until it is bootstrapped
// takes part in nothing else; and a set that lacks the promise of one of its
// members is bootstrapped by none. So two sets that are bootstrapped have no node
// in common. A promise is taken back in one case, when a member of the set
// belongs to another cluster: it bootstraps no other set, so nobody forms this one,
// and none has. No clock decides anything.

// founding is what a node says of itself to others that form a cluster.
type founding struct {
	roster.Peer
	Cluster  string        `json:"cluster"`  // to which it belongs; empty: none yet
	Expect   int           `json:"expect"`   // how many it waits for; 0: it does not found, but waits to be admitted
	Set      []roster.Peer `json:"set"`      // what it has promised or intends, sorted; empty: it has not found enough nodes
	Promised bool          `json:"promised"` // it has promised the set
	Known    []string      `json:"known"`    // addresses at which it has found nodes, the latest first
}

// foundingState is what a node knows while it forms a cluster.
type foundingState struct {
	mu       sync.Mutex
	intended []roster.Peer // guarded by mu
	joining  bool          // guarded by mu: there is a cluster already, which is asked for admission
	known    []string      // guarded by mu: the latest first
}

func (f *foundingState) isJoining() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.joining
}

func (f *foundingState) setJoining(joining bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.joining = joining
}

// clusterOf is the id of the cluster that a set forms.
func clusterOf(set []roster.Peer) string {
	encoded, _ := json.Marshal(set) // strings: it cannot fail
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:8])
}

func includes(set []roster.Peer, server raft.ServerID) bool {
	return slices.ContainsFunc(set, func(f roster.Peer) bool { return f.Server == server })
}

// expected is how many nodes are to form a cluster; 0: none that this node is
// among.
func (s *joiner) expected() int {
	meta := s.logs.Record()
	if n := max(s.expect, len(meta.Promise)); n > 1 && !meta.IsLegacy() {
		return n
	}
	return 0
}

// founding is what this node says.
func (s *joiner) founding() founding {
	s.founders.mu.Lock()
	set, known := s.founders.intended, s.founders.known
	s.founders.mu.Unlock()
	meta := s.logs.Record()
	if meta.Promise != nil {
		set = meta.Promise
	}
	return founding{roster.Peer{Server: s.server, Addr: s.addr}, meta.Cluster, s.expected(), set, meta.Promise != nil, known}
}

func configurationOf(set []roster.Peer) (c raft.Configuration) {
	for _, f := range set {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: f.Server, Address: raft.ServerAddress(f.Addr)})
	}
	return c
}

// foundAlone bootstraps a cluster of one, before raft starts, if that is what this
// node has promised. A formation that a crash cut off is ended, or begun again:
// nobody can have voted in it.
func (s *joiner) foundAlone() error {
	meta := s.logs.Record()
	last, err := s.logs.LastIndex()
	if err != nil {
		return err
	}
	switch {
	case meta.Cluster != "", meta.IsLegacy(), last > 0 && meta.Promise == nil:
		return nil
	case last > 0: // with others, too: the log comes before the cluster's id
		return s.recordFounding(meta.Promise)
	}
	if err := s.logs.UpdateIf(func(m *disk.Record) bool {
		had := len(m.Raft) > 0
		m.Raft = nil
		return had
	}); err != nil {
		return fmt.Errorf("begin anew: %w", err)
	}
	if len(meta.Promise) != 1 {
		return nil
	}
	err = s.life.Apart("bootstrap", func() error {
		return raft.BootstrapCluster(s.raftConfig(), s.logs, s.logs, s.snapshots, s.raftNet, configurationOf(meta.Promise))
	})
	if err != nil {
		return err
	}
	return s.recordFounding(meta.Promise)
}

// foundTogether goes one step towards a cluster of this node and others. An error
// says what it waits for.
func (s *joiner) foundTogether() error {
	others, unheard, err := s.meet()
	if err != nil {
		return err
	}
	for _, other := range others {
		if other.Cluster != "" {
			return s.meetMember(other)
		}
	}
	s.founders.setJoining(false)
	set, err := s.intend(others)
	if err != nil {
		return errors.Join(append([]error{err}, unheard...)...)
	}
	if s.logs.Record().Promise == nil {
		if err := checkAgreement(set, s.server, others, func(f founding) bool { return true }); err != nil {
			return errors.Join(append([]error{err}, unheard...)...)
		}
		if err := s.promise(set); err != nil {
			return err
		}
		s.log.Info("promised to form a cluster", "with", nameAll(set))
	}
	if err := checkAgreement(set, s.server, others, func(f founding) bool { return f.Promised }); err != nil {
		return errors.Join(append([]error{err}, unheard...)...)
	}
	return s.found(set)
}

// promise binds this node to the set, unless it was admitted to a cluster while it
// looked at others.
func (s *joiner) promise(set []roster.Peer) error {
	admitted := ""
	err := s.logs.UpdateIf(func(m *disk.Record) bool {
		if admitted = m.Cluster; admitted == "" {
			m.Promise = set
		}
		return admitted == ""
	})
	if err == nil && admitted != "" {
		err = fmt.Errorf("this node was admitted to cluster %s", admitted)
	}
	if err != nil {
		return fmt.Errorf("promise to form a cluster: %w", err)
	}
	return nil
}

// meet asks every address that may be a node's, at once. unheard says which did
// not answer.
func (s *joiner) meet() (others map[raft.ServerID]founding, unheard []error, err error) {
	addrs, err := s.memberAddrs()
	if err != nil {
		unheard = append(unheard, err)
	}
	me := s.founding()
	answers := make([]founding, len(addrs))
	failures := make([]error, len(addrs))
	var asking sync.WaitGroup
	for i, addr := range addrs {
		asking.Go(func() { answers[i], failures[i] = s.askFounder(addr, me) })
	}
	asking.Wait()

	others = make(map[raft.ServerID]founding)
	var found, heardOf []string
	for i, answer := range answers {
		switch {
		case failures[i] != nil:
			unheard = append(unheard, fmt.Errorf("%s: %w", addrs[i], failures[i]))
		case answer.Server != s.server:
			others[answer.Server] = answer
			found, heardOf = append(found, answer.Addr), append(heardOf, answer.Known...)
		}
		if failures[i] == nil && answer.Cluster == "" && answer.Expect > 0 && answer.Expect != me.Expect {
			err = fmt.Errorf("%w: node %s expects %d nodes, this one %d: start all with the same WithBootstrapExpect", errs.Invalid, roster.UserID(answer.Server), answer.Expect, me.Expect)
			return nil, nil, err
		}
	}
	s.noteKnown(append(found, heardOf...))
	return others, unheard, nil
}

// noteKnown remembers addresses at which nodes were found, also while they are silent.
func (s *joiner) noteKnown(addrs []string) {
	const most = 64
	s.founders.mu.Lock()
	defer s.founders.mu.Unlock()
	var known []string
	for _, addr := range append(addrs, s.founders.known...) {
		if addr != s.addr && len(known) < most && !slices.Contains(known, addr) {
			known = append(known, addr)
		}
	}
	s.founders.known = known
}

// serveFound answers another node, and remembers where it is.
func (s *joiner) serveFound(_ context.Context, other founding) (founding, error) {
	me := s.founding()
	if s.founds() && other.Expect > 0 && checkReachable("address", other.Addr) == nil {
		s.noteKnown([]string{other.Addr})
	}
	return me, nil
}

// askFounder asks the node at addr, and makes sure that it is found where it says.
func (s *joiner) askFounder(addr string, me founding) (founding, error) {
	ctx, cancel := context.WithTimeout(s.ctx, wire.HandshakeTimeout)
	defer cancel()
	answer, err := wire.AskJSON[founding](ctx, s.port, addr, wire.CallFound, me)
	if err != nil || answer.Addr == addr || answer.Server == s.server {
		return answer, err
	}
	again, err := wire.AskJSON[founding](ctx, s.port, answer.Addr, wire.CallFound, me)
	if err != nil {
		return answer, fmt.Errorf("node %s says that it is reached at %s: %w", roster.UserID(answer.Server), answer.Addr, err)
	}
	if again.Server != answer.Server {
		return answer, fmt.Errorf("node %s says that it is reached at %s, where node %s is", roster.UserID(answer.Server), answer.Addr, roster.UserID(again.Server))
	}
	return again, nil
}

// meetMember goes on when another node belongs to a cluster: that of this node's
// promise, or one to join.
func (s *joiner) meetMember(other founding) error {
	promise := s.logs.Record().Promise
	switch {
	case promise == nil:
		s.founders.setJoining(true)
		return s.askToJoin()
	case other.Cluster == clusterOf(promise): // so it has seen all the promises
		return s.found(promise)
	case !includes(promise, other.Server):
		return fmt.Errorf("this node has promised to form a cluster with %s, and found a member of cluster %s at %s", nameAll(promise), other.Cluster, other.Addr)
	}
	s.log.Warn("a promise to form a cluster is void, as one of its nodes belongs to another cluster", "with", nameAll(promise), "node", other.Server, "cluster", other.Cluster)
	if err := s.logs.Update(func(m *disk.Record) { m.Promise = nil }); err != nil {
		return fmt.Errorf("take a promise back: %w", err)
	}
	return s.askToJoin()
}

// intend chooses the set: what this node has promised; or what another one has
// promised for this one as well; or the first by identity.
func (s *joiner) intend(others map[raft.ServerID]founding) ([]roster.Peer, error) {
	me := s.founding()
	if me.Promised {
		return me.Set, nil
	}
	set := s.chooseSet(me, others)
	if set != nil {
		if err := checkSet(set); err != nil {
			return nil, err
		}
	}
	s.founders.mu.Lock()
	s.founders.intended = set
	s.founders.mu.Unlock()
	switch {
	case set == nil:
		return nil, fmt.Errorf("found %d of %d nodes", 1+len(others), me.Expect)
	case !includes(set, s.server):
		return nil, fmt.Errorf("%s are to form it", nameAll(set))
	}
	return set, nil
}

// chooseSet returns nil when there are too few nodes.
func (s *joiner) chooseSet(me founding, others map[raft.ServerID]founding) (set []roster.Peer) {
	found := []roster.Peer{me.Peer}
	for _, other := range others {
		if other.Expect == me.Expect {
			found = append(found, other.Peer)
		}
		if other.Promised && includes(other.Set, s.server) && stillPossible(other.Set, others) && (set == nil || clusterOf(other.Set) < clusterOf(set)) {
			set = other.Set
		}
	}
	if set != nil || len(found) < me.Expect {
		return set
	}
	slices.SortFunc(found, func(a, b roster.Peer) int { return strings.Compare(string(a.Server), string(b.Server)) })
	return found[:me.Expect]
}

// stillPossible reports whether no member of a set is seen to have promised another.
func stillPossible(set []roster.Peer, others map[raft.ServerID]founding) bool {
	return !slices.ContainsFunc(set, func(f roster.Peer) bool {
		other, heard := others[f.Server]
		return heard && other.Promised && !slices.Equal(other.Set, set)
	})
}

// checkSet finds nodes that cannot be in one cluster.
func checkSet(set []roster.Peer) error {
	for i, a := range set {
		for _, b := range set[:i] {
			if roster.UserID(a.Server) == roster.UserID(b.Server) {
				return fmt.Errorf("the nodes at %s and %s are both called %s", b.Addr, a.Addr, roster.UserID(a.Server))
			}
			if a.Addr == b.Addr {
				return fmt.Errorf("the nodes %s and %s both say that they are reached at %s", roster.UserID(b.Server), roster.UserID(a.Server), a.Addr)
			}
		}
	}
	return nil
}

// checkAgreement returns nil if all of the set but this node have the same set in mind,
// and as settled as that.
func checkAgreement(set []roster.Peer, me raft.ServerID, others map[raft.ServerID]founding, settled func(founding) bool) error {
	var doubts []string
	lost := 0 // nodes of the set that are others now
	for _, f := range set {
		other, heard := others[f.Server]
		switch {
		case f.Server == me:
		case !heard && hasID(others, roster.UserID(f.Server)):
			lost++
			doubts = append(doubts, fmt.Sprintf("another node is called %s now", roster.UserID(f.Server)))
		case !heard:
			doubts = append(doubts, fmt.Sprintf("%s at %s does not answer", roster.UserID(f.Server), f.Addr))
		case other.Promised && !slices.Equal(other.Set, set):
			doubts = append(doubts, fmt.Sprintf("%s has promised to form another, with %s", roster.UserID(f.Server), nameAll(other.Set)))
		case !slices.Equal(other.Set, set) || !settled(other):
			doubts = append(doubts, fmt.Sprintf("%s is not ready", roster.UserID(f.Server)))
		}
	}
	switch heard := countHeard(set, others); {
	case len(doubts) == 0:
		return nil
	case lost > 0 && heard+lost+1 == len(set): // all that are left hold nothing: they belong to no cluster
		doubts = append(doubts, "if it has lost its data directory, empty those of the others too, which hold nothing yet")
	case lost > 0: // with this node's promise they may have formed it
		doubts = append(doubts, "start those that do not answer: they may hold data")
	}
	return fmt.Errorf("%s are to form it: %s", nameAll(set), strings.Join(doubts, ", "))
}

func countHeard(set []roster.Peer, others map[raft.ServerID]founding) (n int) {
	for _, f := range set {
		if _, heard := others[f.Server]; heard {
			n++
		}
	}
	return n
}

func hasID(nodes map[raft.ServerID]founding, id string) bool {
	for server := range nodes {
		if roster.UserID(server) == id {
			return true
		}
	}
	return false
}

// nameAll is "n1, n2 and n3".
func nameAll(set []roster.Peer) string {
	names := make([]string, len(set))
	for i, f := range set {
		names[i] = roster.UserID(f.Server)
	}
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// found bootstraps the cluster of a set that all its members have promised. The
// log comes first and the cluster's id second: before a node has that, no other
// reaches its raft.
func (s *joiner) found(set []roster.Peer) error {
	const poll = time.Millisecond
	if len(s.configuration().Servers) == 0 {
		// Its future is not waited for: it is never answered if the storage fails
		// meanwhile, which ends the goroutine that owes the answer.
		s.raft.BootstrapCluster(configurationOf(set))
	}
	for len(s.configuration().Servers) == 0 {
		if !sleep.For(s.ctx, poll) {
			return s.life.Err()
		}
	}
	if err := s.recordFounding(set); err != nil {
		return err
	}
	s.places.findPlace()
	return nil
}

// recordFounding gives this node the cluster's id. Whoever has promised the set
// belongs to that cluster or to none.
func (s *joiner) recordFounding(set []roster.Peer) error {
	other := ""
	err := s.logs.Update(func(m *disk.Record) {
		if m.Cluster != "" && m.Cluster != clusterOf(set) {
			other = m.Cluster
			return
		}
		m.Cluster, m.Promise = clusterOf(set), nil
	})
	if err == nil && other != "" {
		err = fmt.Errorf("%w: this node belongs to cluster %s", errs.Refused, other)
	}
	if err != nil {
		return fmt.Errorf("form a cluster: %w", err)
	}
	s.founded.Store(true)
	s.log.Info("formed the cluster", "cluster", clusterOf(set), "with", nameAll(set))
	return nil
}
