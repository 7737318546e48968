package joining

import (
	"errors"

	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/member"
)

// AdoptClusterID gives a nameless node the id of its cluster, when its state has it.
func (s *Joiner) AdoptClusterID() {
	if !s.Logs.Record().LacksClusterID() {
		return
	}
	if err := s.State.AwaitNote(s.Ctx, member.ClusterIDNote); err != nil {
		return // the store stops
	}
	cluster := s.Members.Note(member.ClusterIDNote)
	if err := s.Logs.Update(func(m *disk.Record) { m.Cluster = cluster }); err != nil {
		return // likewise
	}
	s.Log.Info("the cluster that was taken over from hraftd has an id", "cluster", cluster)
}

// seekLeaderWithoutID is for a nameless node, which is a member already. It asks to join all
// the same when it hears of no leader: it may have been removed.
func (s *Joiner) seekLeaderWithoutID() error {
	if !s.Lead.IsLeaderless() {
		return nil
	}
	if err := s.askToJoin(); errors.Is(err, errs.Refused) {
		return err
	}
	return s.findTrouble()
}
