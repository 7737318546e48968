package kvraft

import (
	"fmt"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
)

// adopt writes the record of a node whose newest snapshot is newest. It is the
// first operation that changes anything, and the only one that is needed.
func (s *snapshotStore) adopt(newest snapshotMark) error {
	err := s.logs.updateMeta(func(m *metadata) { m.ID, m.Snapshot = s.owner, newest })
	if err != nil {
		return fmt.Errorf("take over from hraftd: %w", err)
	}
	s.logs.hraftds = false
	return nil
}

// whose tells which member the node is.
func (s *snapshotStore) whose(newest snapshotMark) (id string, err error) {
	if s.logs.whose == nil {
		return "", fmt.Errorf("%w: this is the data of hraftd, which a node takes over when it is started on it", errs.Invalid)
	}
	config, err := s.newestConfiguration(newest)
	if err == nil {
		id, err = s.logs.whose(config)
	}
	if err != nil {
		err = fmt.Errorf("take over from hraftd: %w", err)
	}
	return id, err
}

// newestConfiguration is that of the log, or of the snapshot.
func (s *snapshotStore) newestConfiguration(newest snapshotMark) (raft.Configuration, error) {
	var meta snapshotMeta
	if newest.ID != "" {
		var err error
		if meta, _, err = readSnapshotMeta(s.dir, newest.ID); err != nil {
			return raft.Configuration{}, err
		}
	}
	first, last := s.logs.bounds()
	for index := last; index >= first && index > meta.ConfigurationIndex; index-- {
		var entry raft.Log
		if err := s.logs.GetLog(index, &entry); err != nil {
			return raft.Configuration{}, err
		}
		if entry.Type == raft.LogConfiguration {
			return decodeConfiguration(entry.Data)
		}
	}
	return meta.Configuration, nil
}
