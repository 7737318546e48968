package disk

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

func TestTheNewestEntriesAreCachedUpToALimitInBytes(t *testing.T) {
	const size = 100 + entryOverhead
	w := &logWindow{limit: 10*size + 50}
	for i := range uint64(25) {
		w.append(&raft.Log{Index: i + 1, Data: make([]byte, 100)})
	}
	for i := range uint64(30) {
		var e raft.Log
		if got, want := w.get(i, &e), i >= 16 && i <= 25; got != want || got && e.Index != i {
			t.Fatalf("entry %d: cached %t, got entry %d", i, got, e.Index)
		}
	}
	if w.cachedBytes != 10*size || w.Bytes() != 25*size {
		t.Fatalf("%d bytes cached of %d", w.cachedBytes, w.Bytes())
	}
}

func TestAnEntryLargerThanTheCacheIsNotCached(t *testing.T) {
	w := &logWindow{limit: 1000}
	w.append(&raft.Log{Index: 1}, &raft.Log{Index: 2, Data: make([]byte, 1001)}, &raft.Log{Index: 3})
	var e raft.Log
	if w.get(1, &e) || w.get(2, &e) || !w.get(3, &e) {
		t.Fatal("expected entry 3 only")
	}
}

func TestSizesOfEntriesAreKnown(t *testing.T) {
	w := &logWindow{limit: 1}
	for i := range uint64(10) {
		w.append(&raft.Log{Index: i + 11, Data: make([]byte, i)})
	}
	if got := w.SizeOf(12, 13); got != 2*entryOverhead+1+2 {
		t.Errorf("entries 12 and 13 take %d bytes", got)
	}
	if got := w.SizeOf(0, 1000); got != w.Bytes() {
		t.Errorf("all entries take %d bytes, not %d", got, w.Bytes())
	}
	if got := w.SizeOf(21, 30); got != 0 {
		t.Errorf("entries that are not there take %d bytes", got)
	}
	newest := int64(2*entryOverhead + 9 + 8)
	for bytes, want := range map[int64]uint64{0: 0, newest - 1: 1, newest: 2, 1 << 40: 10} {
		if got := w.TrailingWithin(bytes); got != want {
			t.Errorf("%d entries fit into %d bytes", got, bytes)
		}
	}
}

// TestTheWindowAgreesWithASimpleModel compares it with a map after each of many
// random changes.
func TestTheWindowAgreesWithASimpleModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	w := &logWindow{limit: 3000}
	model := map[uint64]raft.Log{}
	next := uint64(1)
	for range 5000 {
		first, last := w.Bounds()
		switch kind := rng.IntN(6); {
		case kind < 4:
			e := raft.Log{Index: next, Data: bytes.Repeat([]byte{byte(next)}, rng.IntN(500))}
			w.append(&e)
			model[next] = e
			next++
		case first == 0:
			next += 10 // a gap is legal after the whole log went
		case kind == 4:
			w.dropBelow(first + rng.Uint64N(last-first+2))
		default:
			next = last + 1 - rng.Uint64N(min(3, last-first+2))
			w.dropFrom(next)
		}
		compareWindow(t, w, model)
	}
}

func compareWindow(t *testing.T, w *logWindow, model map[uint64]raft.Log) {
	t.Helper()
	var total, cached int64
	first, last := w.Bounds()
	for i, e := range model {
		if first == 0 || i < first || i > last {
			delete(model, i)
			continue
		}
		total += int64(entrySize(&e))
		var got raft.Log
		if w.get(i, &got) {
			cached += int64(entrySize(&e))
			if got.Index != i || !bytes.Equal(got.Data, e.Data) {
				t.Fatalf("entry %d is entry %d", i, got.Index)
			}
		}
	}
	if first != 0 && uint64(len(model)) != last-first+1 {
		t.Fatalf("%d entries in %d to %d", len(model), first, last)
	}
	if w.Bytes() != total || w.cachedBytes != cached || cached > w.limit {
		t.Fatalf("bytes %d, expected %d; cached %d, expected %d", w.Bytes(), total, w.cachedBytes, cached)
	}
}

func TestTheCacheIsReadWhileItIsWritten(t *testing.T) {
	w := &logWindow{limit: 5000}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var e raft.Log
				if _, last := w.Bounds(); w.get(last, &e) && (e.Index != last || len(e.Data) != int(last%100)) {
					t.Errorf("entry %d is entry %d with %d bytes", last, e.Index, len(e.Data))
				}
			}
		})
	}
	for i := range uint64(5000) {
		w.append(&raft.Log{Index: i + 1, Data: make([]byte, (i+1)%100)})
		if i%100 == 99 {
			w.dropBelow(i - 50)
		}
	}
	close(stop)
	readers.Wait()
}
