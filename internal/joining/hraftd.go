package joining

import (
	"errors"

	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/member"
)

// AdoptClusterID gives a node that was taken over from hraftd the id of its cluster, when
// its state has it. It waits for that, or until the store stops.
func (j *Joiner) AdoptClusterID() {
	if !j.Stable().Record().LacksClusterID() {
		return
	}
	if err := j.State.AwaitNote(j.Ctx, member.ClusterIDNote); err != nil {
		return // the store stops
	}
	cluster := j.members.Note(member.ClusterIDNote)
	if err := j.Stable().Update(func(m *disk.Record) { m.Cluster = cluster }); err != nil {
		return // likewise
	}
	j.Log.Info("the cluster that was taken over from hraftd has an id", "cluster", cluster)
}

// seekLeaderWithoutID is for a node that was taken over from hraftd and has no cluster id
// yet. It is a member already. It asks to join all
// the same when it hears of no leader: it may have been removed.
func (j *Joiner) seekLeaderWithoutID() error {
	if !j.lead.IsLeaderless() {
		return nil
	}
	if err := j.askToJoin(); errors.Is(err, errs.Refused) {
		return err
	}
	return j.findTrouble()
}
