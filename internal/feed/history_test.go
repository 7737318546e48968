package feed

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/kvraft/kvraft/internal/state"
)

// change is one to a key, with a value of so many bytes.
func change(version uint64, key string, size int) state.Change {
	return state.Change{Key: key, Item: state.Item{Version: version, Value: string(make([]byte, size))}}
}

func sinceIn(h *History, version uint64) (list []state.Change) {
	for c := range h.Since(version) {
		list = append(list, *c)
	}
	return list
}

func TestAHistoryIsTheLatestChangesWithinItsBytes(t *testing.T) {
	for _, limit := range []int64{0, 1, 1 << 10, 10 << 10, 1 << 30} {
		random := rand.New(rand.NewPCG(1, uint64(limit)))
		var h History
		var all []state.Change // that were ever recorded
		type copied struct {
			History
			all []state.Change
		}
		var copies []copied
		check := func(h *History, all []state.Change) {
			t.Helper()
			for version := h.floor; version <= h.floor+70 || version < h.floor+3; version += 1 + random.Uint64N(9) {
				from := slices.IndexFunc(all, func(c state.Change) bool { return c.Version > version })
				want := all[len(all):]
				if from >= 0 {
					want = all[from:]
				}
				if got := sinceIn(h, version); !slices.EqualFunc(got, want, func(a, b state.Change) bool { return reflect.DeepEqual(a, b) }) {
					t.Fatalf("limit %d, floor %d: %d changes since version %d, want %d", limit, h.floor, len(got), version, len(want))
				}
			}
		}
		version, largest := uint64(0), int64(0)
		for range 300 {
			var entry []state.Change
			size := int64(0)
			for range random.IntN(4) { // requests
				version += 1 + random.Uint64N(2) // not each has left a change
				for range 1 + random.IntN(3) {
					entry = append(entry, change(version, fmt.Sprint("key-", random.IntN(100)), random.IntN(200)))
					size += 64 + 6 + 200
				}
			}
			h.Record(entry, limit)
			all = append(all, entry...)
			largest = max(largest, size)
			if kept := h.bytes + h.last.bytes; kept > limit+limit/segments+2*largest {
				t.Fatalf("limit %d: %d bytes are kept", limit, kept)
			}
			check(&h, all)
			if random.IntN(10) == 0 {
				copies = append(copies, copied{h, all[:len(all):len(all)]})
			}
		}
		for _, c := range copies {
			check(&c.History, c.all)
		}
		if forgets := limit < 1<<20; (h.floor > 0) != forgets {
			t.Errorf("limit %d: it goes back to version %d of %d", limit, h.floor, version)
		}
	}
}
