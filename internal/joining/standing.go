package joining

import (
	"github.com/kvraft/kvraft/internal/roster"
)

// Standing is what a node that has not settled is doing, as the beginning of a sentence.
func (j *Joiner) Standing() string {
	switch {
	case j.founds() && !j.founders.joining.Load():
		return "waiting to form a cluster"
	case j.left.Load():
		return "no member"
	case !j.IsAdmitted():
		return "waiting to be admitted"
	case !j.IsPlaced():
		return "waiting to be confirmed at this address"
	case j.lead.Tenure().Leader == roster.Peer{}:
		return "no leader"
	}
	return "waiting to be known at this address"
}

// founds reports whether this node is to form a cluster with others, or has
// promised to.
func (j *Joiner) founds() bool { return j.Self().Cluster == "" && j.expected() > 1 }

// IsAdmitted reports whether this node is a member and means to be one. Of a removal by
// itself its own log may not have heard.
func (j *Joiner) IsAdmitted() bool { return j.IsMember() && !j.left.Load() }

// IsSettled reports whether this node is what it is meant to be, a voter, or a replica
// that does not vote, under its present address or one with which the leader has
// agreed: another name of the same.
func (j *Joiner) IsSettled() bool {
	at, agreed := roster.DialAddr(j.ConfiguredAt()), j.knownAs.Load()
	if at == "" || at != j.Addr && (agreed == nil || at != *agreed) {
		return false
	}
	return roster.IsVoter(j.Configuration(), j.Server) || j.members.IsReplica(j.ID)
}

// Founded reports whether this start of the node has formed the cluster.
func (j *Joiner) Founded() bool { return j.founded.Load() }

// HasLeft reports whether this node has left the cluster, and nobody has joined it again.
func (j *Joiner) HasLeft() bool { return j.left.Load() }
