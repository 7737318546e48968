package kvraft

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

var errDisk = errors.New("disk: input/output error")

// faultStore is a base store in memory whose k-th operation goes wrong.
type faultStore struct {
	mu      sync.Mutex // guards the following
	entries map[uint64]raft.Log
	stable  map[string][]byte
	ops     int

	at    int                   // the operation that goes wrong, from 1; 0: none
	fault func(do func()) error // what it does in place of do
}

func newFaultStore() *faultStore {
	return &faultStore{entries: map[uint64]raft.Log{}, stable: map[string][]byte{}}
}

// The kinds of faults. A failed write may have reached the disk all the same.
var faults = map[string]func(do func()) error{
	"fails":             func(do func()) error { return errDisk },
	"fails, but worked": func(do func()) error { do(); return errDisk },
	"panics":            func(do func()) error { panic("page 7: bad flags") },
}

// rebooted is the same disk in a machine that started again, without faults.
func (s *faultStore) rebooted() *faultStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &faultStore{entries: maps.Clone(s.entries), stable: maps.Clone(s.stable)}
}

// failAt makes the k-th operation from now on go wrong.
func (s *faultStore) failAt(k int, fault func(do func()) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ops, s.at, s.fault = 0, k, fault
}

func (s *faultStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ops
}

func (s *faultStore) do(op func()) error {
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

func (s *faultStore) bound(less func(a, b uint64) bool) (index uint64, err error) {
	err = s.do(func() {
		for i := range s.entries {
			if index == 0 || less(i, index) {
				index = i
			}
		}
	})
	return index, err
}

func (s *faultStore) FirstIndex() (uint64, error) {
	return s.bound(func(a, b uint64) bool { return a < b })
}

func (s *faultStore) LastIndex() (uint64, error) {
	return s.bound(func(a, b uint64) bool { return a > b })
}

func (s *faultStore) GetLog(index uint64, entry *raft.Log) error {
	found := false
	err := s.do(func() { *entry, found = s.entries[index] })
	if err == nil && !found {
		return raft.ErrLogNotFound
	}
	return err
}

func (s *faultStore) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

func (s *faultStore) StoreLogs(entries []*raft.Log) error {
	return s.do(func() {
		for _, entry := range entries {
			s.entries[entry.Index] = *entry
		}
	})
}

func (s *faultStore) DeleteRange(from, to uint64) error {
	return s.do(func() {
		maps.DeleteFunc(s.entries, func(i uint64, _ raft.Log) bool { return from <= i && i <= to })
	})
}

func (s *faultStore) Set(key, value []byte) error {
	return s.do(func() { s.stable[string(key)] = slices.Clone(value) })
}

func (s *faultStore) Get(key []byte) (value []byte, err error) {
	err = s.do(func() { value = s.stable[string(key)] })
	if err == nil && value == nil {
		return nil, errors.New("not found")
	}
	return value, err
}

func (s *faultStore) SetUint64([]byte, uint64) error { return errors.ErrUnsupported }

func (s *faultStore) GetUint64([]byte) (uint64, error) { return 0, errors.ErrUnsupported }

// failures records what a logStore tells.
type failures struct {
	mu   sync.Mutex // guards the following
	errs []error
}

func (f *failures) tell(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, err)
}

func (f *failures) told() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.errs)
}

// openTestLog opens base with a log store whose failures fail the test.
func openTestLog(t testing.TB, base LogStore) *logStore {
	t.Helper()
	l, err := openLogStore(logStoreOptions{store: base, fail: failTest(t)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func failTest(t testing.TB) func(error) {
	return func(err error) { t.Errorf("log store failed: %v", err) }
}

// testEntries are the commands from index from to index to, of one term.
func testEntries(from, to, term uint64) (entries []*raft.Log) {
	for i := from; i <= to; i++ {
		entries = append(entries, &raft.Log{Index: i, Term: term, Data: fmt.Appendf(nil, "command %d of term %d", i, term)})
	}
	return entries
}

// finishes runs op on a goroutine of its own and reports whether it returned:
// the alternative is that it ended the goroutine.
func finishes(op func() error) (err error, returned bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = op()
		returned = true
	}()
	<-done
	return err, returned
}
