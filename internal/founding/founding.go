// Package founding decides with whom a node forms a cluster. It has no state and does
// nothing: package joining asks the other nodes, keeps the promise and bootstraps.
//
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
//
// A step goes so:
//
//	set := founding.Choose(me, others) // what others said of themselves
//	err := founding.Check(set)
//	err = founding.Agreed(set, me.Server, others, func(founding.Statement) bool { return true })
//	…                                  // promise it, on disk
//	err = founding.Agreed(set, me.Server, others, func(s founding.Statement) bool { return s.Promised })
//	…                                  // bootstrap founding.Configuration(set) as founding.ClusterID(set)
//
// It may be called from anywhere: there are no goroutines and no locks. Tests: beside it,
// and clusters in virtual time in found_test.go of the root package.
package founding

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/roster"
)

// Statement is what a node says of itself to others that form a cluster.
type Statement struct {
	roster.Peer
	Cluster  string        `json:"cluster"`  // to which it belongs; empty: none yet
	Expect   int           `json:"expect"`   // how many it waits for; 0: it does not found, but waits to be admitted
	Set      []roster.Peer `json:"set"`      // what it has promised or intends, sorted; empty: it has not found enough nodes
	Promised bool          `json:"promised"` // it has promised the set
	Known    []string      `json:"known"`    // addresses at which it has found nodes, the latest first
}

// ClusterID is the id of the cluster that a set forms.
func ClusterID(set []roster.Peer) string {
	encoded, _ := json.Marshal(set) // strings: it cannot fail
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:8])
}

// Includes reports whether a set includes a node.
func Includes(set []roster.Peer, server raft.ServerID) bool {
	return slices.ContainsFunc(set, func(f roster.Peer) bool { return f.Server == server })
}

// Configuration is that with which the cluster of a set begins: all of it vote.
func Configuration(set []roster.Peer) (c raft.Configuration) {
	for _, f := range set {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: f.Server, Address: raft.ServerAddress(f.Addr)})
	}
	return c
}

// Choose chooses a set for a node that has promised none: what another has promised for
// it as well, of several the one with the least ClusterID; or the first Expect nodes by
// identity of those that expect as many. It returns nil when there are too few.
func Choose(me Statement, others map[raft.ServerID]Statement) (set []roster.Peer) {
	found := []roster.Peer{me.Peer}
	for _, other := range others {
		if other.Expect == me.Expect {
			found = append(found, other.Peer)
		}
		if other.Promised && Includes(other.Set, me.Server) && stillPossible(other.Set, others) && (set == nil || ClusterID(other.Set) < ClusterID(set)) {
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
func stillPossible(set []roster.Peer, others map[raft.ServerID]Statement) bool {
	return !slices.ContainsFunc(set, func(f roster.Peer) bool {
		other, heard := others[f.Server]
		return heard && other.Promised && !slices.Equal(other.Set, set)
	})
}

// Check finds nodes of a set that cannot be in one cluster.
func Check(set []roster.Peer) error {
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

// Agreed returns nil if all of the set but this node, me, have the same set in mind, and
// each is settled. Else it says who is not, and what helps.
func Agreed(set []roster.Peer, me raft.ServerID, others map[raft.ServerID]Statement, settled func(Statement) bool) error {
	var doubts []string
	answered, lost := 0, 0 // of the set; lost are those that are others now
	for _, f := range set {
		other, heard := others[f.Server]
		if heard {
			answered++
		}
		switch {
		case f.Server == me:
		case !heard && hasID(others, roster.UserID(f.Server)):
			lost++
			doubts = append(doubts, fmt.Sprintf("another node is called %s now", roster.UserID(f.Server)))
		case !heard:
			doubts = append(doubts, fmt.Sprintf("%s at %s does not answer", roster.UserID(f.Server), f.Addr))
		case other.Promised && !slices.Equal(other.Set, set):
			doubts = append(doubts, fmt.Sprintf("%s has promised to form another, with %s", roster.UserID(f.Server), Names(other.Set)))
		case !slices.Equal(other.Set, set) || !settled(other):
			doubts = append(doubts, fmt.Sprintf("%s is not ready", roster.UserID(f.Server)))
		}
	}
	switch {
	case len(doubts) == 0:
		return nil
	case lost > 0 && answered+lost+1 == len(set): // all that are left hold nothing: they belong to no cluster
		doubts = append(doubts, "if it has lost its data directory, empty those of the others too, which hold nothing yet")
	case lost > 0: // with this node's promise they may have formed it
		doubts = append(doubts, "start those that do not answer: they may hold data")
	}
	return fmt.Errorf("%s are to form it: %s", Names(set), strings.Join(doubts, ", "))
}

func hasID(nodes map[raft.ServerID]Statement, id string) bool {
	for server := range nodes {
		if roster.UserID(server) == id {
			return true
		}
	}
	return false
}

// Names is "n1, n2 and n3".
func Names(set []roster.Peer) string {
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
