package kvraft

import (
	"fmt"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/joining"
	"github.com/kvraft/kvraft/internal/roster"
)

// Node is one member of the cluster.
type Node struct {
	ID    string `json:"ID"`    // the id that its user gave it
	Addr  string `json:"Addr"`  // the address, host:port, under which its peers reach it
	Voter bool   `json:"Voter"` // it counts for the quorum; false while it catches up, and of a replica

	Replica bool `json:"Replica"` // it stays without a vote
}

// State is what a node is doing.
type State string

// The states of a node.
const (
	Joining   State = "joining"   // no member: waiting to be admitted to a cluster, or to form one; or it has left
	Follower  State = "follower"  // following a leader, or waiting for one
	Candidate State = "candidate" // standing for election
	Leading   State = "leader"    // the leader of its term
	Stopped   State = "stopped"   // closed, or stopped by itself: see Store.Done
)

// Protection is how a node protects its connections to other nodes.
type Protection string

// The protections of a node's connections.
const (
	Unprotected  Protection = "none"      // whoever reaches the port of its peers is one of them
	MovingOver   Protection = "plain too" // by a secret, but also without: see [WithPlainPeers]
	SecretShared Protection = "secret"    // by the secret that all have: see [WithSecret]
)

// Status is what a node knows of itself and its cluster at one moment, without
// asking anybody.
type Status struct {
	Node           // this node
	Cluster string // the cluster's id; empty until the node belongs to one
	Founded bool   // by this start of the node
	State   State
	Leader  Node   // the leader that this node knows; zero: none
	Nodes   []Node // the members, by the newest configuration this node has

	Protection Protection // of its connections to other nodes

	// Progress is that of members that are brought up to date, by id: on the leader
	// all of them, on one of them its own.
	Progress map[string]Progress

	Term         uint64 // raft's current term
	CommitIndex  uint64 // the newest log index known to be committed
	AppliedIndex uint64 // the newest log index that is in the state read here
	Version      uint64 // that the newest effective write got
	Keys         int    // how many keys there are
	Bytes        int64  // keys and values together

	Ready  bool   // a linearizable read or a write would find a leader, and this node has caught up with its term
	Reason string // if not ready: why, in one sentence
}

// Status says what this node knows, without asking anybody.
func (s *Store) Status() Status {
	r, now := s.lead.Tenure(), s.fsm.now.Load()
	st := Status{
		Node:         s.nodeOf(s.node.Server, s.node.Addr, roster.IsVoter(s.node.Configuration(), s.node.Server)),
		Cluster:      s.node.Self().Cluster,
		Founded:      s.joiner.Founded(),
		State:        s.phase(),
		Nodes:        s.nodesOf(s.node.Configuration()),
		Protection:   s.protection(),
		Progress:     s.progress(),
		Term:         s.node.Raft.CurrentTerm(),
		CommitIndex:  s.node.Raft.CommitIndex(),
		AppliedIndex: now.index,
		Version:      now.view.Revision(),
		Keys:         now.view.Len(),
		Bytes:        now.view.Bytes(),
	}
	if r.Leader != (roster.Peer{}) {
		st.Leader = s.leaderOf(r)
		st.Leader.Voter = true
	}
	st.Reason = s.notReady(st, now)
	st.Ready = st.Reason == ""
	return st
}

func (s *Store) protection() Protection {
	switch {
	case s.security == nil:
		return Unprotected
	case s.security.PlainToo:
		return MovingOver
	}
	return SecretShared
}

func (s *Store) phase() State {
	switch {
	case s.node.Life.Err() != nil:
		return Stopped
	case !s.joiner.IsAdmitted():
		return Joining
	}
	switch s.node.Raft.State() {
	case raft.Leader:
		return Leading
	case raft.Candidate:
		return Candidate
	}
	return Follower
}

func (s *Store) notReady(st Status, now *applied) string {
	reason := s.lead.Reason()
	stranger, lost := s.node.Port.LastStranger()
	switch {
	case st.State == Stopped:
		return s.node.Life.Err().Error()
	case lost && len(st.Nodes) == 1:
		return fmt.Sprintf("this node formed cluster %s and is alone in it, but members of cluster %s take it for one of theirs (%s); if it has lost its data, empty its directory and start it with the addresses of the others to join",
			st.Cluster, stranger.Cluster, stranger.To)
	case !st.Voter && st.Progress[st.ID].Behind > 0:
		return "catching up with the leader" + behind(st.Progress[st.ID])
	case s.joiner.HasLeft():
		return joining.ErrLeft.Error()
	case s.watchdog.NotReady() != "":
		return s.watchdog.NotReady()
	case reason != nil:
		return s.joiner.Standing() + ": " + reason.Error()
	case st.State == Joining, !s.node.IsPlaced():
		return s.joiner.Standing()
	case st.Leader == Node{}:
		return fmt.Sprintf("no leader is known; a majority of the %d voters must be up and connected", len(roster.Voters(s.node.Configuration())))
	case !st.Voter && !st.Replica:
		return "catching up with the leader" + behind(st.Progress[st.ID])
	case !s.joiner.IsSettled():
		return s.joiner.Standing()
	case s.node.Stable().Record().LacksClusterID():
		return "the cluster, taken over from hraftd, has yet to get its id"
	case now.term < st.Term:
		return fmt.Sprintf("catching up with the leader: nothing of its term, %d, is in the state yet", st.Term)
	}
	return ""
}

// progress is that of the members that this node brings up, by id, or its own.
func (s *Store) progress() map[string]Progress {
	all := make(map[string]Progress)
	for id, p := range s.members.Progress() {
		all[id] = Progress(p)
	}
	return all
}

func behind(p Progress) string {
	if p == (Progress{}) {
		return ""
	}
	return ": " + p.String()
}
