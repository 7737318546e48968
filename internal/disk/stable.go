package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/errs"
)

// errKeyNotFound is compared by raft by its text.
var errKeyNotFound = errors.New("not found")

// Stable is the stable store that raft sees. What raft keeps in it is part of the node's
// record.
type Stable struct {
	*failStop
	base   Store
	name   string
	stored func() uint64 // how far the log reaches on the disk
	// record is what is stored; the one behind the pointer never changes.
	record atomic.Pointer[Record]
	// turn is held by the one that rewrites the record. It is a channel, as
	// it is held while the disk writes.
	turn chan struct{}
}

// Stable is where the node's record is, and raft's values in it.
func (l *Log) Stable() *Stable { return l.stable }

// load reads the record. An empty store is fresh: it has none, and reads as one without
// an id. So does, for the time being, a store of hraftd's; see takeOver.
func (s *Stable) load() (fresh, hraftds bool, err error) {
	stored, err := getStable(s.base, boltlog.RecordKey)
	if err != nil {
		return false, false, fmt.Errorf("%w: read the node's record: %w", errs.Damaged, err)
	}
	if len(stored) > 0 {
		m, err := DecodeRecord(stored)
		s.record.Store(&m)
		return m.Log != "" && m.ID == "" && m.Snapshot == (SnapshotMark{}), false, err
	}
	m := Record{Format: 1}.clone()
	s.record.Store(&m)
	hraftds, err = s.readHraftds(&m)
	return !hraftds, hraftds, err
}

// getStable reads key from base, which has two ways to say that it is absent.
func getStable(base Store, key []byte) ([]byte, error) {
	value, err := base.Get(key)
	if err != nil && err.Error() == errKeyNotFound.Error() {
		return nil, nil
	}
	return value, err
}

// Record returns a copy of the record.
func (s *Stable) Record() Record { return s.record.Load().clone() }

// Update changes the record; the change is on disk when it returns nil.
// It may be called from any goroutine; change runs alone.
func (s *Stable) Update(change func(*Record)) error {
	return s.UpdateIf(func(m *Record) bool {
		change(m)
		return true
	})
}

// UpdateIf is Update for a change that may turn out to be none.
func (s *Stable) UpdateIf(change func(*Record) bool) error {
	if err := s.hold(s.turn); err != nil {
		return err
	}
	defer func() { <-s.turn }()

	next := s.Record()
	if !change(&next) {
		return s.Err()
	}
	next.Tail = s.stored()
	return s.store(next)
}

// nameLog makes the record name the log, and writes it in any case. It counts on no more of
// a log that it has named before: after a crash that may not be on disk yet.
func (s *Stable) nameLog(name string) error {
	if err := s.hold(s.turn); err != nil {
		return err
	}
	defer func() { <-s.turn }()

	next := s.Record()
	if next.Log != name { // a copy, which is on disk
		next.Log, next.Tail = name, s.stored()
	}
	return s.store(next)
}

// store is for the one that holds the turn.
func (s *Stable) store(next Record) error {
	next.Format = next.format()
	stored, err := next.Encode()
	if err != nil {
		return err
	}
	err = s.write("store the node's record", len(stored), func() error { return s.base.Set(boltlog.RecordKey, stored) })
	if err != nil {
		return err
	}
	s.record.Store(&next)
	return nil
}

// Remember records that a snapshot is complete, unless a newer one was installed meanwhile.
func (s *Stable) Remember(mark SnapshotMark) error {
	return s.UpdateIf(func(m *Record) bool {
		if mark.OlderThan(m.Snapshot) {
			return false
		}
		m.Snapshot = mark
		return true
	})
}

// lowerTail makes sure that the record does not count on entries above index.
func (s *Stable) lowerTail(index uint64) error {
	return s.UpdateIf(func(m *Record) bool { return m.Tail > index })
}

// raiseTail makes the record count on all that is stored.
func (s *Stable) raiseTail() error {
	return s.UpdateIf(func(m *Record) bool { return m.Tail < s.stored() })
}

// Set stores one of raft's values. It does not return if that fails: raft
// panics when it cannot save its term, so its goroutine ends here instead.
// Shutdown then still returns, and the node's owner has been told.
func (s *Stable) Set(key, value []byte) error {
	if err := s.checkTerm(key, value); err != nil {
		_ = s.Fail(err)
		endGoroutine()
	}
	err := s.UpdateIf(func(m *Record) bool {
		old, known := m.Raft[string(key)]
		if known && bytes.Equal(old, value) {
			return false // raft saves its term again whenever it starts
		}
		m.Raft[string(key)] = bytes.Clone(value)
		if string(key) == "LastVoteTerm" {
			// raft writes the term of a vote first and the candidate second.
			// Between the two the candidate of an earlier vote must not stand
			// for this one: raft would repeat that vote without looking at the
			// candidate's log.
			delete(m.Raft, "LastVoteCand")
		}
		return true
	})
	if err != nil {
		endGoroutine()
	}
	return nil
}

// Term is the term that raft has saved, which is the one that it is in.
func (s *Stable) Term() uint64 { return s.record.Load().Term() }

// checkTerm makes sure that no term follows a higher one: in a term that comes for the
// second time a node can vote twice. raft wraps around from 2^64-1 to 0.
func (s *Stable) checkTerm(key, value []byte) error {
	name := string(key)
	if name != "CurrentTerm" && name != "LastVoteTerm" || len(value) != 8 {
		return nil
	}
	was, now := s.record.Load().number(name), binary.BigEndian.Uint64(value)
	if now >= was {
		return nil
	}
	return fmt.Errorf("%s: %s was to go from %d to %d, and terms only rise", s.name, name, was, now)
}

// endGoroutine ends the calling goroutine, one of raft's, in place of an error
// to which raft would answer with a panic.
func endGoroutine() { runtime.Goexit() }

// Get returns one of raft's values, which must not be changed, or an error
// with the text "not found".
func (s *Stable) Get(key []byte) ([]byte, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	value, known := s.record.Load().Raft[string(key)]
	if !known {
		return nil, errKeyNotFound
	}
	return value, nil
}

// SetUint64 is Set for a number.
func (s *Stable) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 is Get for a number.
func (s *Stable) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("%w: %s: %s has %d bytes", errs.Damaged, s.name, key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}
