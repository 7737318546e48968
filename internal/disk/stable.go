package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/errs"
)

// errKeyNotFound is compared by raft by its text.
var errKeyNotFound = errors.New("not found")

// loadRecord reads the record. An empty store has none, and reads as one without an
// id. So does, for the time being, a store of hraftd's; see takeOver.
func (l *Log) loadRecord() error {
	stored, err := getStable(l.base, boltlog.RecordKey)
	if err != nil {
		return fmt.Errorf("%w: read the node's record: %w", errs.Damaged, err)
	}
	if len(stored) > 0 {
		m, err := DecodeRecord(stored)
		l.record.Store(&m)
		return err
	}
	written, err := writtenByOthers(l.base)
	if err != nil {
		return fmt.Errorf("%w: %w", errs.Damaged, err)
	}
	m := Record{Format: recordFormat}.clone()
	l.record.Store(&m)
	l.fresh, l.hraftds = !written, written
	if written {
		return l.readHraftds(&m)
	}
	return nil
}

// getStable reads key from base, which has two ways to say that it is absent.
func getStable(base Store, key []byte) ([]byte, error) {
	value, err := base.Get(key)
	if err != nil && err.Error() == errKeyNotFound.Error() {
		return nil, nil
	}
	return value, err
}

func writtenByOthers(base Store) (bool, error) {
	last, err := base.LastIndex()
	if err != nil || last > 0 {
		return true, err
	}
	for _, key := range boltlog.RaftKeys {
		value, err := getStable(base, key)
		if err != nil || len(value) > 0 {
			return true, err
		}
	}
	return false, nil
}

// Record returns a copy of the record.
func (l *Log) Record() Record { return l.record.Load().clone() }

// Update changes the record; the change is on disk when it returns nil.
// It may be called from any goroutine; change runs alone.
func (l *Log) Update(change func(*Record)) error {
	return l.UpdateIf(func(m *Record) bool {
		change(m)
		return true
	})
}

// hold takes a channel that is held while the disk writes, unless the store fails first.
func (l *Log) hold(turn chan struct{}) error {
	select {
	case turn <- struct{}{}:
		return nil
	case <-l.failed:
		return l.Err()
	}
}

// UpdateIf is updateMeta for a change that may turn out to be none.
func (l *Log) UpdateIf(change func(*Record) bool) error {
	if err := l.hold(l.turn); err != nil {
		return err
	}
	defer func() { <-l.turn }()

	next := l.Record()
	if !change(&next) {
		return l.Err()
	}
	next.Format = recordFormat
	next.Tail = l.stored()
	stored, err := next.Encode()
	if err != nil {
		return err
	}
	err = l.write("store the node's record", len(stored), func() error { return l.base.Set(boltlog.RecordKey, stored) })
	if err != nil {
		return err
	}
	l.record.Store(&next)
	return nil
}

// lowerTail makes sure that the record does not count on entries above index.
func (l *Log) lowerTail(index uint64) error {
	return l.UpdateIf(func(m *Record) bool { return m.Tail > index })
}

// raiseTail makes the record count on all that is stored.
func (l *Log) raiseTail() error {
	return l.UpdateIf(func(m *Record) bool { return m.Tail < l.stored() })
}

// Set stores one of raft's values. It does not return if that fails: raft
// panics when it cannot save its term, so its goroutine ends here instead.
// Shutdown then still returns, and the node's owner has been told.
func (l *Log) Set(key, value []byte) error {
	if err := l.checkTerm(key, value); err != nil {
		_ = l.Fail(err)
		endGoroutine()
	}
	err := l.UpdateIf(func(m *Record) bool {
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
func (l *Log) Term() uint64 { return l.record.Load().Term() }

// checkTerm makes sure that no term follows a higher one: in a term that comes for the
// second time a node can vote twice. raft wraps around from 2^64-1 to 0.
func (l *Log) checkTerm(key, value []byte) error {
	name := string(key)
	if name != "CurrentTerm" && name != "LastVoteTerm" || len(value) != 8 {
		return nil
	}
	was, now := l.record.Load().number(name), binary.BigEndian.Uint64(value)
	if now >= was {
		return nil
	}
	return fmt.Errorf("%s: %s was to go from %d to %d, and terms only rise", l.name, name, was, now)
}

// endGoroutine ends the calling goroutine, one of raft's, in place of an error
// to which raft would answer with a panic.
func endGoroutine() { runtime.Goexit() }

// Get returns one of raft's values, which must not be changed, or an error
// with the text "not found".
func (l *Log) Get(key []byte) ([]byte, error) {
	if err := l.Err(); err != nil {
		return nil, err
	}
	value, known := l.record.Load().Raft[string(key)]
	if !known {
		return nil, errKeyNotFound
	}
	return value, nil
}

// SetUint64 is Set for a number.
func (l *Log) SetUint64(key []byte, value uint64) error {
	return l.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 is Get for a number.
func (l *Log) GetUint64(key []byte) (uint64, error) {
	value, err := l.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("%w: %s: %s has %d bytes", errs.Damaged, l.name, key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}
