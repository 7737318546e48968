package member

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
func (ms *Members) assignClusterID(ctx context.Context) error {
	unlock, err := ms.LockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := ms.lead.AwaitOwnTerm(ctx); err != nil {
		return err
	}
	if ms.Note(ClusterIDNote) != "" {
		return nil
	}
	return ms.WriteNote(ClusterIDNote, cmp.Or(ms.Self().Cluster, roster.NewIdentity()))
}

// VouchWithoutClusterID tells what speaks against a dialer, where one of the two was taken
// over from hraftd and has no cluster id to compare. The dialer's id must be a member's, as far as this node knows. Members
// of another cluster may have the same ids, if that was hraftd's too: they have other
// entries in their logs.
func (ms *Members) VouchWithoutClusterID(o wire.Opening) error {
	if !ms.Lists(o.From) {
		return fmt.Errorf("node %s, taken over from hraftd, has no member %s in its cluster", ms.Server, o.From)
	}
	for _, theirs := range o.Log {
		var entry raft.Log
		if first, _ := ms.Logs.Bounds(); theirs.Index < first || ms.Logs.GetLog(theirs.Index, &entry) != nil {
			continue
		}
		if entry.Term == theirs.Term && disk.SampleOf(&entry) != theirs {
			return fmt.Errorf("the log of node %s has another entry %d than that of node %s: they are of two clusters of hraftd's with the same ids", o.From, theirs.Index, ms.Server)
		}
	}
	return nil
}

// ClusterIDNote is the note of the id of a cluster that was hraftd's.
const ClusterIDNote = "cluster"
