package kvraft

import (
	"errors"
	"math"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
)

// The data of a node are opened in two steps. First all of them are read, and it is
// decided whether the node can start from them: they are its own, or hraftd's and to be
// taken over, or there are none yet. Nothing is written for that: a directory that is
// refused may be another program's, which is to find it as it left it, or a node's whose
// damage is to be looked at. Only then they are opened for writing.

// lockPatience is how long a start waits for another process to let go of the raft.db.
const lockPatience = time.Second

// readStorage is the first step. What it opens is for closeStorage to close.
func (s *Store) readStorage() error {
	if s.opts.inMemory {
		return s.readNode(raft.NewInmemStore())
	}
	base, err := s.readBase()
	if err == nil {
		err = s.readNode(base)
	}
	return nameForeign(s.opts.dir, base, s.opts.logStore != nil, err)
}

// readNode reads all that a node has.
func (s *Store) readNode(base LogStore) (err error) {
	opt := logStoreOptions{
		name:   s.name(),
		stall:  s.opts.timing.Stall,
		whose:  s.opts.whose,
		fail:   s.stopForFault,
		logger: s.log.Named("log"),
	}
	if s.opts.atRest {
		opt.whose = nil
	}
	if s.logs, err = openLogStore(base, opt); err != nil {
		return err
	}
	return s.readSnapshots()
}

func (s *Store) readBase() (LogStore, error) {
	if s.opts.logStore != nil {
		return s.opts.logStore, nil
	}
	var err error
	s.bolt, s.boltFound, err = readBolt(s.boltPath(), lockPatience)
	switch {
	case err != nil:
		return nil, err
	case s.bolt == nil: // there is none yet
		return raft.NewInmemStore(), nil
	}
	return s.bolt, nil
}

func (s *Store) boltPath() string { return filepath.Join(s.opts.dir, boltFile) }

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
	if s.logs.hraftds || s.logs.meta().isLegacy() {
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

// openForWriting is the second step.
func (s *Store) openForWriting() error {
	if s.opts.inMemory {
		return nil
	}
	if err := s.openBase(); err != nil {
		return err
	}
	if err := s.snapshots.(*snapshotStore).settle(); err != nil {
		return err
	}
	if s.bolt == nil {
		return nil
	}
	return tidyBolt(s.boltPath())
}

// openBase opens the raft.db for writing, if it is this node's to open. One of hraftd's is
// not compacted before the record has made it kvraft's.
func (s *Store) openBase() (err error) {
	if s.opts.logStore != nil {
		return nil
	}
	if s.bolt != nil {
		err = s.bolt.Close()
	}
	if err != nil {
		return err
	}
	from := int64(compactFrom)
	if s.logs.hraftds {
		from = math.MaxInt64
	}
	if s.bolt, err = openBolt(s.boltPath(), s.boltFound, from, lockPatience, s.log); err == nil {
		s.logs.base = s.bolt
	}
	return err
}

// pretendWriting takes the place of openForWriting where nothing may be written. What the
// log store is told to write it knows from then on all the same.
func (s *Store) pretendWriting() error {
	s.logs.base = readOnly{s.logs.base}
	return s.snapshots.(*snapshotStore).settleLog()
}

// readOnly lets nothing through to a log store that would change it.
type readOnly struct{ LogStore }

func (readOnly) StoreLog(*raft.Log) error         { return nil }
func (readOnly) StoreLogs([]*raft.Log) error      { return nil }
func (readOnly) DeleteRange(uint64, uint64) error { return nil }
func (readOnly) Set([]byte, []byte) error         { return nil }
func (readOnly) SetUint64([]byte, uint64) error   { return nil }

// closeStorage closes what logs and snapshots stand on, if this store opened it.
func (s *Store) closeStorage() (err error) {
	if files, ok := s.snapshots.(*snapshotStore); ok {
		err = files.Close()
	}
	if s.bolt != nil {
		err = errors.Join(err, s.bolt.Close())
	}
	return err
}
