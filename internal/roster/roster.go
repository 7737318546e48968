// Package roster answers questions about nodes as raft's configuration has them: who is a
// voter, at which address a member is dialed, and by which id users know it.
//
// All of it is pure: it holds nothing, and starts nothing.
package roster

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
)

// raft knows a node as id#identity: the id is the user's, the identity is minted
// with the data directory. A directory that was wiped comes back as another
// node, which raft will not take for the one that voted.

// UserID is the id by which users know a node.
func UserID(server raft.ServerID) string {
	id, _, _ := strings.Cut(string(server), "#")
	return id
}

// HasNoIdentity reports whether a node has no identity: it was taken over from hraftd.
func HasNoIdentity(server raft.ServerID) bool { return !strings.Contains(string(server), "#") }

// NewIdentity makes an identity, of a node, a process or a cluster.
func NewIdentity() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Peer is a node as others call it. It is part of the nodes' records and of what they
// send each other.
type Peer struct {
	Server raft.ServerID `json:"server"`
	Addr   string        `json:"addr"`
}

// Sample tells an entry of a log from any other at its index and of its term: in one
// cluster there is none. Nodes send each other some where they have no cluster ids to
// compare.
type Sample struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	Sum   uint32 `json:"sum"`
}

// Voters are those members of a configuration that vote.
func Voters(config raft.Configuration) []raft.Server {
	return slices.DeleteFunc(slices.Clone(config.Servers), func(m raft.Server) bool { return m.Suffrage != raft.Voter })
}

// IsVoter reports whether a node is a member that votes.
func IsVoter(config raft.Configuration, id raft.ServerID) bool {
	return slices.ContainsFunc(config.Servers, func(m raft.Server) bool {
		return m.ID == id && m.Suffrage == raft.Voter
	})
}

// Lists reports whether a node is a member.
func Lists(config raft.Configuration, id raft.ServerID) bool {
	return slices.ContainsFunc(config.Servers, func(m raft.Server) bool { return m.ID == id })
}

// AddressOf is the address that a configuration has for a node; empty: none.
func AddressOf(config raft.Configuration, id raft.ServerID) string {
	for _, m := range config.Servers {
		if m.ID == id {
			return string(m.Address)
		}
	}
	return ""
}

// IDs are the identities of nodes.
func IDs(servers []raft.Server) (ids []raft.ServerID) {
	for _, m := range servers {
		ids = append(ids, m.ID)
	}
	return ids
}

// A member that has moved has an address in the configuration that differs from all that
// were ever there, though the same may be dialed: so what was promised of an earlier
// address ends for good, and members that have exchanged theirs can be moved one after
// the other, though raft wants no address twice. It is "moved/", the leader's term and a
// log index, and the address to dial.
const movedPrefix = "moved/"

// DialAddr is the address to dial.
func DialAddr(addr string) string {
	if rest, ok := strings.CutPrefix(addr, movedPrefix); ok {
		_, addr, _ = strings.Cut(rest, ":")
	}
	return addr
}

// MovedAddr is the address for the configuration of a member that has moved to addr, by
// the leader of a term whose log reaches to an index.
func MovedAddr(addr string, term, index uint64) raft.ServerAddress {
	return raft.ServerAddress(fmt.Sprintf("%s%d-%d:%s", movedPrefix, term, index, addr))
}
