package kvraft

import (
	"errors"

	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
)

// adoptClusterID gives a nameless node the id of its cluster, when its state has it.
func (s *joiner) adoptClusterID() {
	if !s.logs.Record().LacksClusterID() {
		return
	}
	if err := s.state.AwaitNote(s.ctx, clusterIDNote); err != nil {
		return // the store stops
	}
	cluster := s.members.note(clusterIDNote)
	if err := s.logs.Update(func(m *disk.Record) { m.Cluster = cluster }); err != nil {
		return // likewise
	}
	s.log.Info("the cluster that was taken over from hraftd has an id", "cluster", cluster)
}

// seekLeaderWithoutID is for a nameless node, which is a member already. It asks to join all
// the same when it hears of no leader: it may have been removed.
func (s *joiner) seekLeaderWithoutID() error {
	if !s.lead.isLeaderless() {
		return nil
	}
	if err := s.askToJoin(); errors.Is(err, errs.Refused) {
		return err
	}
	return s.findTrouble()
}
