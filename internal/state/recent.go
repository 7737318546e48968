package state

import (
	"hash/maphash"
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
//
// They are found by a hash table of chains: heads has the newest record of each, and each record the one before it. A chain
// ends where records are forgotten, so that to forget takes nothing out of the table. heads has numbers of four bytes, to be
// small: each write looks there at random, and most find nothing.
type recent struct {
	window int
	chunk  int
	floor  uint64
	chunks [][]record
	len    int // records in chunks

	seed  maphash.Seed
	heads []uint32 // numbers of records, 0 for none; nil: there was none yet
	next  uint32   // number of the next record. It wraps around, so that an old number in heads may look new: see find
}

type record struct {
	Remembered
	before uint32 // number of the last one before it in its chain
}

func newRecent(window, chunk int) recent {
	return recent{window: window, chunk: chunk, seed: maphash.MakeSeed()}
}

// find goes by ids, and from newer records to older ones only: a number from before the wrap leads to other records, but to
// no wrong one, and never round in a circle.
func (r *recent) find(id command.ID) (command.Result, bool) {
	if r.heads == nil {
		return command.Result{}, false
	}
	for n, last := *r.head(id), 0; ; {
		age := int(r.next - n) // 1: the newest
		if age <= last || age > r.len {
			return command.Result{}, false
		}
		rec := r.at(r.len - age)
		if rec.ID == id {
			return rec.Result, true
		}
		n, last = rec.before, age
	}
}

func (r *recent) head(id command.ID) *uint32 {
	return &r.heads[maphash.Comparable(r.seed, id)%uint64(len(r.heads))]
}

func (r *recent) at(i int) *record { return &r.chunks[i/r.chunk][i%r.chunk] }

// add remembers a request that find does not know.
func (r *recent) add(rec Remembered) {
	if r.heads == nil {
		r.heads = make([]uint32, 2*r.window)
		r.next = 1
	}
	if r.len == len(r.chunks)*r.chunk {
		r.chunks = append(r.chunks, make([]record, r.chunk))
	}
	head := r.head(rec.ID)
	*r.at(r.len) = record{rec, *head}
	*head = r.next
	r.next++
	r.len++
}

// prune forgets the oldest chunks until the window holds the rest. It runs between entries, so that floor stands still
// within one.
func (r *recent) prune() {
	for r.len > r.window {
		oldest := r.chunks[0]
		r.floor = oldest[len(oldest)-1].Index
		r.chunks = slices.Clone(r.chunks[1:]) // a list that is only cut would keep the chunk in memory
		r.len -= r.chunk
	}
}
