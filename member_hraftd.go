package kvraft

import (
	"cmp"
	"context"
	"fmt"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// assignClusterID takes a note of the cluster's id, as the leader, unless there is one.
// It is taken once: when an entry of this leader's term is in its state, so is all
// that was committed before, and what another leader may have written and this one
// does not see never will be. Nor does it begin again before it knows what became of
// its own.
func (s *members) assignClusterID(ctx context.Context) error {
	unlock, err := s.lockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.lead.awaitOwnTerm(ctx); err != nil {
		return err
	}
	if s.note(clusterIDNote) != "" {
		return nil
	}
	return s.writeNote(clusterIDNote, cmp.Or(s.self().Cluster, roster.NewIdentity()))
}

// vouchWithoutClusterID tells what speaks against a dialer that is nameless, or that dials
// this node which is. Its id must be a member's, as far as this node knows. Members
// of another cluster may have the same ids, if that was hraftd's too: they have other
// entries in their logs.
func (s *members) vouchWithoutClusterID(o wire.Opening) error {
	if !s.lists(o.From) {
		return fmt.Errorf("node %s, taken over from hraftd, has no member %s in its cluster", s.server, o.From)
	}
	for _, theirs := range o.Log {
		var entry raft.Log
		if first, _ := s.logs.Bounds(); theirs.Index < first || s.logs.GetLog(theirs.Index, &entry) != nil {
			continue
		}
		if entry.Term == theirs.Term && wire.Sample(disk.SampleOf(&entry)) != theirs {
			return fmt.Errorf("the log of node %s has another entry %d than that of node %s: they are of two clusters of hraftd's with the same ids", o.From, theirs.Index, s.server)
		}
	}
	return nil
}

// clusterIDNote is the note of the id of a cluster that was hraftd's.
const clusterIDNote = "cluster"
