package kvraft

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/snapshots"
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

func (s *Store) readSnapshots() (err error) {
	codec := snapshots.Codec{Verify: verifySnapshot, VerifyNew: s.verifyNewSnapshot}
	if s.node.logs.IsHraftds() || s.node.logs.Record().IsLegacy() {
		codec.Verify, codec.Translate = verifyOldSnapshot, translated
	}
	if s.opts.inMemory {
		s.node.snapshots, err = snapshots.OpenInMemory(s.node.logs, codec)
	} else {
		s.node.snapshots, err = snapshots.Open(s.opts.dir, s.opts.snapshots.Retain, s.node.logs, codec, s.node.log.Named("snapshot"))
	}
	return err
}

// openForWriting is for what has been read, and from which the node can start.
func (s *Store) openForWriting() error {
	if err := s.node.logs.OpenForWriting(); err != nil {
		return err
	}
	if err := s.node.snapshots.Settle(); err != nil {
		return err
	}
	return s.node.logs.Tidy()
}

// pretendWriting takes the place of openForWriting where nothing may be written.
func (s *Store) pretendWriting() error {
	s.node.logs.PretendWriting()
	return s.node.snapshots.SettleLog()
}

// closeStorage closes what has been opened.
func (s *Store) closeStorage() (err error) {
	if s.node.snapshots != nil {
		err = s.node.snapshots.Close()
	}
	if s.node.logs != nil {
		err = errors.Join(err, s.node.logs.Close())
	}
	return err
}

// mayCut tells why the log must not end before the entry from, or nil: what is in the
// state is committed. Messages that would cut it are refused; this is for what they
// bring about together. Where a snapshot takes the place of the whole log it has been
// completed before.
func (s *Store) mayCut(from uint64) error {
	at := s.Index()
	if from > at {
		return nil
	}
	list, err := s.node.snapshots.List()
	if err != nil {
		return err
	}
	if len(list) > 0 && list[0].Index >= at {
		return nil
	}
	return fmt.Errorf("the state has the entries up to %d: what is committed is not deleted", at)
}
