package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disktest"
)

var termKey, voteKey = []byte("CurrentTerm"), []byte("LastVoteCand")

// scripted runs a log store through the same random operations each time, and
// knows what was acknowledged.
type scripted struct {
	l           *Log
	rng         *rand.Rand
	first, last uint64 // of the acknowledged log
	term        uint64
	data        map[uint64]string
	votes       int

	// What the operation under way may have changed.
	deleting [2]uint64
	storing  uint64
}

func newScript(l *Log) *scripted {
	return &scripted{l: l, rng: rand.New(rand.NewPCG(1, 2)), first: 1, term: 1, data: map[uint64]string{}}
}

// step is one operation; it returns an error when that failed or did not
// return.
func (s *scripted) step() error {
	err, returned := disktest.Finishes(s.operation())
	if !returned {
		return errors.New("goroutine ended")
	}
	return err
}

func (s *scripted) operation() func() error {
	s.deleting, s.storing = [2]uint64{}, 0
	entries := s.last + 1 - s.first
	switch kind := s.rng.IntN(10); {
	case kind < 4 || entries < 5:
		return s.store(1 + s.rng.Uint64N(20))
	case kind < 6:
		index := s.first + s.rng.Uint64N(entries)
		return func() error { return s.check(index) }
	case kind == 6:
		return func() error {
			err := s.l.stable.SetUint64(termKey, s.term+1)
			s.term++
			return err
		}
	case kind == 7:
		vote := s.votes + 1
		return func() error {
			err := s.l.stable.Set(voteKey, fmt.Append(nil, vote))
			s.votes = vote
			return err
		}
	case kind == 8:
		return s.delete(s.first, s.first+s.rng.Uint64N(entries-1))
	default:
		return s.delete(s.last-s.rng.Uint64N(entries-1), s.last)
	}
}

func (s *scripted) store(n uint64) func() error {
	return func() error {
		entries := disktest.Entries(s.last+1, s.last+n, s.term)
		s.storing = n
		if err := s.l.StoreLogs(entries); err != nil {
			return err
		}
		for _, e := range entries {
			s.data[e.Index] = string(e.Data)
		}
		s.last += n
		return nil
	}
}

func (s *scripted) delete(from, to uint64) func() error {
	return func() error {
		s.deleting = [2]uint64{from, to}
		if err := s.l.DeleteRange(from, to); err != nil {
			return err
		}
		if from == s.first {
			s.first = to + 1
		} else {
			s.last = from - 1
		}
		return nil
	}
}

func (s *scripted) check(index uint64) error {
	var e raft.Log
	if err := s.l.GetLog(index, &e); err != nil {
		return err
	}
	if string(e.Data) != s.data[index] {
		return fmt.Errorf("entry %d holds %q in place of %q", index, e.Data, s.data[index])
	}
	return nil
}

// verify checks that a log store holds all that was acknowledged.
func (s *scripted) verify(t *testing.T, l *Log) {
	t.Helper()
	s.l = l
	for index := s.first; index <= s.last; index++ {
		if s.deleting[0] <= index && index <= s.deleting[1] {
			continue
		}
		if err := s.check(index); err != nil {
			t.Fatal(err)
		}
	}
	if first, last := l.Bounds(); first != 0 && (first > s.deleting[1]+1 && first > s.first || last > s.last+s.storing) {
		t.Fatalf("log is %d to %d, acknowledged %d to %d", first, last, s.first, s.last)
	}
	term, err := l.stable.GetUint64(termKey)
	if err != nil || term != s.term && term != s.term+1 {
		t.Fatalf("term is %d, %v, acknowledged was %d", term, err, s.term)
	}
	vote, err := l.stable.Get(voteKey)
	if got := string(vote); s.votes > 0 && (err != nil || got != fmt.Sprint(s.votes) && got != fmt.Sprint(s.votes+1)) {
		t.Fatalf("vote is %q, %v, acknowledged was %d", vote, err, s.votes)
	}
}

const scriptLength = 200

// openTestLog opens base with a log store whose failures fail the test.
func openTestLog(t testing.TB, base Store) *Log {
	t.Helper()
	l, err := Open(Options{Store: base, Fail: disktest.FailTest(t)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// newScriptedDisk is a disk on which a first term was saved.
func newScriptedDisk(t *testing.T) *disktest.FaultStore {
	disk := disktest.NewFaultStore()
	if err := openTestLog(t, disk).stable.SetUint64(termKey, 1); err != nil {
		t.Fatal(err)
	}
	return disk
}
