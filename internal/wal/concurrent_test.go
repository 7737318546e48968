package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

// The file of a segment is taken again, or closed and removed, while a reader has it in hand.
func TestAReaderFindsTheEntryOrNoneWhateverIsWrittenMeanwhile(t *testing.T) {
	l := unsyncedLog(t)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for seed := range uint64(4) {
		readers.Go(func() {
			found, missing, err := readUntil(done, l, rand.New(rand.NewPCG(seed, 0)))
			if err != nil {
				t.Error(err)
			}
			if found == 0 || missing == 0 {
				t.Errorf("%d entries found, %d not: the test shows less than it is to", found, missing)
			}
		})
	}
	again, removed, err := writeAtRandom(l, 1000, rand.New(rand.NewPCG(1, 1)))
	close(done)
	readers.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if again < 30 || removed < 30 {
		t.Errorf("%d segments taken again, %d removed: the test shows less than it is to", again, removed)
	}
}

// readUntil reads entries around those that the log has, until done is closed.
func readUntil(done chan struct{}, l *Log, random *rand.Rand) (found, missing int, err error) {
	terms := map[uint64]uint64{} // that the entries had when they were read
	for {
		select {
		case <-done:
			return found, missing, nil
		default:
		}
		first, _ := l.FirstIndex()
		last, _ := l.LastIndex()
		low := max(first, 3) - 2
		index := low + random.Uint64N(max(last, low)+5-low)
		var entry raft.Log
		switch err := l.GetLog(index, &entry); {
		case errors.Is(err, raft.ErrLogNotFound):
			missing++
			continue
		case err != nil:
			return found, missing, fmt.Errorf("entry %d: %w", index, err)
		}
		found++
		if want := numbered(index, index, entry.Term, len(entry.Data))[0]; !same(&entry, want) {
			return found, missing, fmt.Errorf("entry %d is %v, want %v", index, entry, want)
		}
		if entry.Term < terms[index] {
			return found, missing, fmt.Errorf("entry %d is of term %d, and was of %d", index, entry.Term, terms[index])
		}
		terms[index] = entry.Term
	}
}

// writeAtRandom stores entries, and deletes some at the beginning, at the end, and all, so
// that no more than thirty stay. Each deletion at the end begins a term.
func writeAtRandom(l *Log, operations int, random *rand.Rand) (again, removed int, err error) {
	term, next := uint64(1), uint64(1)
	for range operations {
		newest, files := l.segments[len(l.segments)-1], len(l.segments)
		first, _ := l.FirstIndex()
		last, _ := l.LastIndex()
		switch what := random.IntN(10); {
		case last != 0 && last-first > 30:
			err = l.DeleteRange(first, last-random.Uint64N(10)-1)
		case last != 0 && what == 0:
			err = l.DeleteRange(first, last)
			term, next = term+1, first+random.Uint64N(last-first+10)
		case last != 0 && what < 3:
			next = first + random.Uint64N(last-first+1)
			err = l.DeleteRange(next, last)
			term++
		default:
			size := 200 + random.IntN(800)
			if what == 9 {
				size = 9000 // larger than a segment
			}
			count := 1 + random.Uint64N(6)
			err = l.StoreLogs(numbered(next, next+count-1, term, size))
			next += count
		}
		if err != nil {
			return again, removed, err
		}
		removed += max(0, files-len(l.segments))
		if s := l.segments[len(l.segments)-1]; s != newest && s.name != fmt.Sprintf("segment-%06d", s.number) {
			again++
		}
	}
	return again, removed, nil
}
