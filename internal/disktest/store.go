// Package disktest helps to test what stands on disks: a log store whose k-th operation
// goes wrong, and directories that are compared file by file.
//
// It knows nothing of the packages that it helps to test, so that their tests can be
// inside them.
package disktest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

// ErrDisk is what a disk says that fails.
var ErrDisk = errors.New("disk: input/output error")

// FaultStore is a log store and stable store in memory whose k-th operation goes wrong.
type FaultStore struct {
	mu      sync.Mutex          // guards the following
	Entries map[uint64]raft.Log // not to be touched beside operations
	Stable  map[string][]byte   // likewise
	ops     int

	at    int                   // the operation that goes wrong, from 1; 0: none
	fault func(do func()) error // what it does in place of do
}

// NewFaultStore returns an empty one without faults.
func NewFaultStore() *FaultStore {
	return &FaultStore{Entries: map[uint64]raft.Log{}, Stable: map[string][]byte{}}
}

// Faults are the kinds of faults, for FailAt. A failed write may have reached the disk all the same.
var Faults = map[string]func(do func()) error{
	"fails":             func(do func()) error { return ErrDisk },
	"fails, but worked": func(do func()) error { do(); return ErrDisk },
	"panics":            func(do func()) error { panic("page 7: bad flags") },
}

// Rebooted is the same disk in a machine that started again, without faults.
func (s *FaultStore) Rebooted() *FaultStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &FaultStore{Entries: maps.Clone(s.Entries), Stable: maps.Clone(s.Stable)}
}

// FailAt makes the k-th operation from now on go wrong.
func (s *FaultStore) FailAt(k int, fault func(do func()) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ops, s.at, s.fault = 0, k, fault
}

// Count is how many operations there were since FailAt.
func (s *FaultStore) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ops
}

func (s *FaultStore) do(op func()) error {
	locked := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		op()
	}
	s.mu.Lock()
	s.ops++
	faulty := s.ops == s.at
	s.mu.Unlock()
	if faulty {
		return s.fault(locked)
	}
	locked()
	return nil
}

func (s *FaultStore) bound(less func(a, b uint64) bool) (index uint64, err error) {
	err = s.do(func() {
		for i := range s.Entries {
			if index == 0 || less(i, index) {
				index = i
			}
		}
	})
	return index, err
}

func (s *FaultStore) FirstIndex() (uint64, error) {
	return s.bound(func(a, b uint64) bool { return a < b })
}

func (s *FaultStore) LastIndex() (uint64, error) {
	return s.bound(func(a, b uint64) bool { return a > b })
}

func (s *FaultStore) GetLog(index uint64, entry *raft.Log) error {
	found := false
	err := s.do(func() { *entry, found = s.Entries[index] })
	if err == nil && !found {
		return raft.ErrLogNotFound
	}
	return err
}

func (s *FaultStore) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

func (s *FaultStore) StoreLogs(entries []*raft.Log) error {
	return s.do(func() {
		for _, entry := range entries {
			s.Entries[entry.Index] = *entry
		}
	})
}

func (s *FaultStore) DeleteRange(from, to uint64) error {
	return s.do(func() {
		maps.DeleteFunc(s.Entries, func(i uint64, _ raft.Log) bool { return from <= i && i <= to })
	})
}

func (s *FaultStore) Set(key, value []byte) error {
	return s.do(func() { s.Stable[string(key)] = slices.Clone(value) })
}

func (s *FaultStore) Get(key []byte) (value []byte, err error) {
	err = s.do(func() { value = s.Stable[string(key)] })
	if err == nil && value == nil {
		return nil, errors.New("not found")
	}
	return value, err
}

func (s *FaultStore) SetUint64([]byte, uint64) error { return errors.ErrUnsupported }

func (s *FaultStore) GetUint64([]byte) (uint64, error) { return 0, errors.ErrUnsupported }

// Failures records the errors that it is told.
type Failures struct {
	mu   sync.Mutex // guards the following
	errs []error
}

// Tell records an error.
func (f *Failures) Tell(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, err)
}

// Told returns all that were recorded.
func (f *Failures) Told() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.errs)
}

// FailTest fails the test with each error that it is told.
func FailTest(t testing.TB) func(error) {
	return func(err error) { t.Errorf("log store failed: %v", err) }
}

// Entries are the commands from index from to index to, of one term.
func Entries(from, to, term uint64) (entries []*raft.Log) {
	for i := from; i <= to; i++ {
		entries = append(entries, &raft.Log{Index: i, Term: term, Data: fmt.Appendf(nil, "command %d of term %d", i, term)})
	}
	return entries
}

// Finishes runs op on a goroutine of its own and reports whether it returned:
// the alternative is that it ended the goroutine.
func Finishes(op func() error) (err error, returned bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = op()
		returned = true
	}()
	<-done
	return err, returned
}
