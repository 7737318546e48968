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
		Fail:   s.stopForFault,
		Logger: s.log.Named("log"),
	}
	if s.opts.inMemory {
		opt.Store = raft.NewInmemStore()
	}
	if s.opts.atRest {
		opt.Whose = nil
	}
	if s.logs, err = disk.Open(opt); err != nil {
		return err
	}
	return s.logs.NameForeign(s.readSnapshots())
}

func (s *Store) readSnapshots() error {
	if s.opts.inMemory {
		snapshots, err := openMemorySnapshots(s.logs)
		if err != nil {
			return err
		}
		snapshots.verifyNew = s.verifyNewSnapshot
		s.snapshots = snapshots
		return nil
	}
	verify := verifySnapshot
	if s.logs.IsHraftds() || s.logs.Record().IsLegacy() {
		verify = verifyOldSnapshot
	}
	snapshots, err := openSnapshots(s.opts.dir, s.opts.snapshots.Retain, s.logs, verify, s.log.Named("snapshot"))
	if err != nil {
		return err
	}
	snapshots.verifyNew = s.verifyNewSnapshot
	s.snapshots = snapshots
	return nil
}

// openForWriting is for what has been read, and from which the node can start.
func (s *Store) openForWriting() error {
	if s.opts.inMemory {
		return nil
	}
	if err := s.logs.OpenForWriting(); err != nil {
		return err
	}
	if err := s.snapshots.(*snapshotStore).settle(); err != nil {
		return err
	}
	return s.logs.Tidy()
}

// pretendWriting takes the place of openForWriting where nothing may be written.
func (s *Store) pretendWriting() error {
	s.logs.PretendWriting()
	return s.snapshots.(*snapshotStore).settleLog()
}

// closeStorage closes what logs and snapshots stand on, if this store opened it.
func (s *Store) closeStorage() (err error) {
	if files, ok := s.snapshots.(*snapshotStore); ok {
		err = files.Close()
	}
	if s.logs != nil {
		err = errors.Join(err, s.logs.Close())
	}
	return err
}
