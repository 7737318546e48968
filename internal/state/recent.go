package state

import (
	"encoding/binary"
	"hash/maphash"
	"slices"

	"github.com/kvraft/kvraft/internal/command"
)

// The windows and chunkSize are part of the format: what a node has forgotten decides what it refuses, so nodes that differed
// in any of them would apply the same log to different states.
const (
	Window       = 1 << 17 // most requests of the stores' own that the state remembers between two entries: 8 MiB of memory
	CallerWindow = 1 << 20 // most requests that callers have named: 64 MiB
	chunkSize    = 1 << 10 // requests that it forgets at a time
)

// Remembered is the result of a request that was applied.
type Remembered struct {
	ID     command.ID
	Digest command.Digest // of a caller's request
	Index  uint64         // log index of the entry that it was applied with
	Result command.Result
}

// memory is what the state remembers of requests. Those that callers have named are a matter of minutes or hours, and have a
// window of their own: the stores' own, each of which is forgotten as soon as it is answered, may come by the hundred thousand
// a second and would push them out.
type memory struct {
	own     recent // and what an old entry does not tell from it
	callers recent // floor is not below the last Unmarked request, which may be a copy of a caller's under another id
}

func newMemory(w windows) memory {
	return memory{newRecent(w.own, w.chunk), newRecent(w.callers, w.chunk)}
}

// windows are the sizes of a memory.
type windows struct{ own, callers, chunk int }

// of is the table that knows a request.
func (m *memory) of(origin command.Origin) *recent {
	if origin == command.Caller {
		return &m.callers
	}
	return &m.own
}

func (m *memory) remember(req *command.Request, index uint64, result command.Result) {
	m.of(req.Origin).add(Remembered{ID: req.ID, Digest: req.Digest, Index: index, Result: result})
	if req.Origin == command.Unmarked {
		m.callers.floor = index
	}
}

func (m *memory) prune() {
	m.own.prune()
	m.callers.prune()
}

// isEmpty reports whether no request was ever remembered.
func (m *memory) isEmpty() bool {
	return m.own.len == 0 && m.own.floor == 0 && m.callers.len == 0 && m.callers.floor == 0
}

// recent is a table of recent requests. It holds what was applied last, a conflict included, and forgets by position in
// the log alone.
//
// Why a request takes effect once: forgetting a request that was applied at index j raises floor to j, and indexes rise, so
// whatever was forgotten was applied at or below floor, and whatever was applied above floor is remembered. All copies of a
// request lie above its Born. If Born >= floor, they all lie above floor: an earlier copy that was applied is still
// remembered, and a request that is not remembered is new. If Born < floor, an earlier copy may have been applied and
// forgotten, so the request is refused; floor never falls, so its later copies are refused too. (All this for the requests of
// one table. A request has its origin for good, and so all its copies are looked for in the same one.)
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
// small: each write looks there, and most find nothing. It is smaller still until a chunk is full, as many states
// never remember more. Then it is repeated up to its full size: each chain goes on into the one that it was a part of.
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
func (r *recent) find(id command.ID) (*Remembered, bool) {
	if r.heads == nil {
		return nil, false
	}
	for n, last := *r.head(id), 0; ; {
		age := int(r.next - n) // 1: the newest
		if age <= last || age > r.len {
			return nil, false
		}
		rec := r.at(r.len - age)
		if rec.ID == id {
			return &rec.Remembered, true
		}
		n, last = rec.before, age
	}
}

// head is where the chain of an id begins. The id of a store's own request is a session and a number: consecutive numbers take
// consecutive places, and a place was last taken a whole table ago, by a request that is forgotten by now. So nearly every
// new request is known as new by a place that is in the processor's cache, and no record is looked at; a session's highest
// number (Ongaro's thesis, section 6.3) would say no more, and would need the numbers to come in order. Where several stores
// write, chains are a few records long. The seed keeps callers, who choose their ids, from filling one place.
func (r *recent) head(id command.ID) *uint32 {
	place := maphash.Bytes(r.seed, id[:8]) + binary.BigEndian.Uint64(id[8:])
	return &r.heads[place%uint64(len(r.heads))]
}

func (r *recent) at(i int) *record { return &r.chunks[i/r.chunk][i%r.chunk] }

// add remembers a request that find does not know.
func (r *recent) add(rec Remembered) {
	switch {
	case r.heads == nil:
		r.heads = make([]uint32, 2*r.chunk)
		r.next = 1
	case r.len > len(r.heads)/2 && len(r.heads) < r.window:
		r.heads = slices.Repeat(r.heads, 2*r.window/len(r.heads))
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
		r.floor = max(r.floor, oldest[len(oldest)-1].Index)
		r.chunks = slices.Clone(r.chunks[1:]) // a list that is only cut would keep the chunk in memory
		r.len -= r.chunk
	}
}
