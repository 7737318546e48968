package state

import (
	"slices"

	"github.com/kvraft/kvraft/internal/command"
)

// Window and chunkSize are part of the format: what a node has forgotten decides what it refuses, so nodes that differed in
// either would apply the same log to different states.
const (
	Window    = 1 << 17 // most requests that the state remembers between two entries
	chunkSize = 1 << 10 // requests that it forgets at a time
)

// Remembered is the result of a request that was applied.
type Remembered struct {
	ID     command.ID
	Index  uint64 // log index of the entry that it was applied with
	Result command.Result
}

// recent is the table of recent requests. It holds what was applied last, a conflict included, and forgets by position in
// the log alone.
//
// Why a request takes effect once: forgetting a request that was applied at index j raises floor to j, and indexes rise, so
// whatever was forgotten was applied at or below floor, and whatever was applied above floor is remembered. All copies of a
// request lie above its Born. If Born >= floor, they all lie above floor: an earlier copy that was applied is still
// remembered, and a request that is not remembered is new. If Born < floor, an earlier copy may have been applied and
// forgotten, so the request is refused; floor never falls, so its later copies are refused too.
//
// The requests of one entry share an index. Forgetting some of them raises floor to that index, which covers the others as
// well: those that are left in the table only answer for copies that would else be refused.
//
// Records stand in chunks of equal size, of which only the last is filled in part. A View holds the list of chunks and the
// number of records that it may read, and that is safe because what it may read is never written again: records and chunks
// are only appended, and to forget is to begin a new list.
type recent struct {
	window int
	chunk  int
	floor  uint64
	ids    map[command.ID]command.Result
	chunks [][]Remembered
	len    int // records in chunks
}

func newRecent(window, chunk int) recent {
	return recent{window: window, chunk: chunk, ids: make(map[command.ID]command.Result)}
}

func (r *recent) find(id command.ID) (command.Result, bool) {
	result, ok := r.ids[id]
	return result, ok
}

// add remembers a request that find does not know.
func (r *recent) add(rec Remembered) {
	last, at := r.len/r.chunk, r.len%r.chunk
	if last == len(r.chunks) {
		r.chunks = append(r.chunks, make([]Remembered, r.chunk))
	}
	r.chunks[last][at] = rec
	r.len++
	r.ids[rec.ID] = rec.Result
}

// prune forgets the oldest chunks until the window holds the rest. It runs between entries, so that floor stands still
// within one.
func (r *recent) prune() {
	for r.len > r.window {
		oldest := r.chunks[0]
		for i := range oldest {
			delete(r.ids, oldest[i].ID)
		}
		r.floor = oldest[len(oldest)-1].Index
		r.chunks = slices.Clone(r.chunks[1:]) // a list that is only cut would keep the chunk in memory
		r.len -= r.chunk
	}
}
