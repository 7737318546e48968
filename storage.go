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
		Fail:   s.node.StopForFault,
		Logger: s.node.Log.Named("log"),
	}
	if s.opts.inMemory {
		opt.Store = raft.NewInmemStore()
	}
	if s.opts.atRest {
		opt.Whose = nil
	}
	if s.node.Logs, err = disk.Open(opt); err != nil {
		return err
	}
	return s.node.Logs.NameForeign(s.readSnapshots())
}

func (s *Store) readSnapshots() (err error) {
	codec := snapshots.Codec{Verify: verifySnapshot, VerifyNew: s.verifyNewSnapshot}
	if s.node.Logs.IsHraftds() || s.node.Logs.Record().IsLegacy() {
		codec.Verify, codec.Translate = verifyOldSnapshot, translated
	}
	if s.opts.inMemory {
		s.node.Snapshots, err = snapshots.OpenInMemory(s.node.Logs, codec)
	} else {
		s.node.Snapshots, err = snapshots.Open(s.opts.dir, s.opts.snapshots.Retain, s.node.Logs, codec, s.node.Log.Named("snapshot"))
	}
	return err
}

// openForWriting is for what has been read, and from which the node can start.
func (s *Store) openForWriting() error {
	if err := s.node.Logs.OpenForWriting(); err != nil {
		return err
	}
	if err := s.node.Snapshots.Settle(); err != nil {
		return err
	}
	return s.node.Logs.Tidy()
}

// pretendWriting takes the place of openForWriting where nothing may be written.
func (s *Store) pretendWriting() error {
	s.node.Logs.PretendWriting()
	return s.node.Snapshots.SettleLog()
}

// closeStorage closes what has been opened.
func (s *Store) closeStorage() (err error) {
	if s.node.Snapshots != nil {
		err = s.node.Snapshots.Close()
	}
	if s.node.Logs != nil {
		err = errors.Join(err, s.node.Logs.Close())
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
	list, err := s.node.Snapshots.List()
	if err != nil {
		return err
	}
	if len(list) > 0 && list[0].Index >= at {
		return nil
	}
	return fmt.Errorf("the state has the entries up to %d: what is committed is not deleted", at)
}
