package kvraft

import (
	"errors"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
)

// readStorage reads all that the node has, and writes nothing. What it opens is for
// closeStorage to close.
func (s *Store) readStorage() (err error) {
	opt := disk.Options{
		Dir:    s.opts.dir,
		Store:  s.opts.logStore,
		Name:   s.name(),
		Stall:  s.opts.timing.Stall,
		Whose:  s.opts.whose,
		Fail:   s.node.stopForFault,
		Logger: s.node.log.Named("log"),
	}
	if s.opts.inMemory {
		opt.Store = raft.NewInmemStore()
	}
	if s.opts.atRest {
		opt.Whose = nil
	}
	if s.node.logs, err = disk.Open(opt); err != nil {
		return err
	}
	return s.node.logs.NameForeign(s.readSnapshots())
}

func (s *Store) readSnapshots() error {
	if s.opts.inMemory {
		snapshots, err := openMemorySnapshots(s.node.logs)
		if err != nil {
			return err
		}
		snapshots.verifyNew = s.verifyNewSnapshot
		s.node.snapshots = snapshots
		return nil
	}
	verify := verifySnapshot
	if s.node.logs.IsHraftds() || s.node.logs.Record().IsLegacy() {
		verify = verifyOldSnapshot
	}
	snapshots, err := openSnapshots(s.opts.dir, s.opts.snapshots.Retain, s.node.logs, verify, s.node.log.Named("snapshot"))
	if err != nil {
		return err
	}
	snapshots.verifyNew = s.verifyNewSnapshot
	s.node.snapshots = snapshots
	return nil
}

// openForWriting is for what has been read, and from which the node can start.
func (s *Store) openForWriting() error {
	if s.opts.inMemory {
		return nil
	}
	if err := s.node.logs.OpenForWriting(); err != nil {
		return err
	}
	if err := s.node.snapshots.(*snapshotStore).settle(); err != nil {
		return err
	}
	return s.node.logs.Tidy()
}

// pretendWriting takes the place of openForWriting where nothing may be written.
func (s *Store) pretendWriting() error {
	s.node.logs.PretendWriting()
	return s.node.snapshots.(*snapshotStore).settleLog()
}

// closeStorage closes what logs and snapshots stand on, if this store opened it.
func (s *Store) closeStorage() (err error) {
	if files, ok := s.node.snapshots.(*snapshotStore); ok {
		err = files.Close()
	}
	if s.node.logs != nil {
		err = errors.Join(err, s.node.logs.Close())
	}
	return err
}
