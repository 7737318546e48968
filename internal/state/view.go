package state

import (
	"encoding/binary"
	"hash"
	"maps"
	"slices"

	"github.com/kvraft/kvraft/internal/tree"
)

// View is the state at one moment. It does not change, and any goroutine may read it. Keys and values
// that it returns are the state's own, see tree.Item.
type View struct {
	items    tree.View
	notes    map[string]string
	revision uint64
	own      Requests
	callers  Requests
}

// Requests are those that a View remembers of one kind. It does not change, as the View does not.
type Requests struct {
	Floor  uint64 // log index below which one that is not remembered must not be born
	Len    int    // number of records; in chunks the state may be writing those after them
	chunks [][]record
}

func (r *recent) view() Requests { return Requests{r.floor, r.len, r.chunks} }

// View returns the state as it is now, in constant time. Like Apply it belongs to the goroutine that applies; the View may
// be handed to any other. After it, each node of the tree is copied once when it is next written to.
func (s *State) View() View {
	s.notesShared = true
	return View{
		items:    s.items.View(),
		notes:    s.notes,
		revision: s.revision,
		own:      s.memory.own.view(),
		callers:  s.memory.callers.view(),
	}
}

// Get returns what key holds, and whether it is there.
func (v View) Get(key string) (Item, bool) {
	return v.items.Get(key)
}

// Ascend yields the keys from the first that is not less than from, in ascending order of their bytes, until yield returns
// false.
func (v View) Ascend(from string, yield func(key string, it Item) bool) {
	v.items.Ascend(from, yield)
}

// Note returns what was written down under name; empty: nothing.
func (v View) Note(name string) string { return v.notes[name] }

// NotesLen returns the number of notes.
func (v View) NotesLen() int { return len(v.notes) }

// Notes yields the notes in ascending order of their names, until yield returns false.
func (v View) Notes(yield func(name, text string) bool) {
	for _, name := range slices.Sorted(maps.Keys(v.notes)) {
		if !yield(name, v.notes[name]) {
			return
		}
	}
}

// Len returns the number of keys.
func (v View) Len() int { return v.items.Len() }

// Bytes returns the sum of the lengths of all keys and values.
func (v View) Bytes() int64 { return v.items.Bytes() }

// Revision returns the number of requests that have changed something.
func (v View) Revision() uint64 { return v.revision }

// Own are the requests that stores have named, at most Window.
func (v View) Own() Requests { return v.own }

// Callers are the requests that callers have named, at most CallerWindow.
func (v View) Callers() Requests { return v.callers }

// Unmarked reports whether everything that was remembered came from requests of which it was not told who named them, or
// nothing was. What a View has of callers then follows from Own: nothing, and as Floor the index of the last.
func (v View) Unmarked() bool {
	return v.callers.Len == 0 && v.callers.Floor == v.own.last()
}

// last is the index of the newest request that was remembered.
func (r Requests) last() uint64 {
	if r.Len == 0 {
		return r.Floor
	}
	size := len(r.chunks[0])
	return r.chunks[(r.Len-1)/size][(r.Len-1)%size].Index
}

// All yields the requests, oldest first, until yield returns false.
func (r Requests) All(yield func(Remembered) bool) {
	left := r.Len
	for _, chunk := range r.chunks {
		for _, rec := range chunk[:min(left, len(chunk))] {
			if !yield(rec.Remembered) {
				return
			}
		}
		left -= min(left, len(chunk))
	}
}

// HashTo writes all that a View holds to sum, piece by piece. Replicas that applied the same entries have the same hash.
func (v View) HashTo(sum hash.Hash) {
	h := hasher{h: sum}
	h.numbers(v.revision, uint64(v.Len()), uint64(len(v.notes)))
	for name, text := range v.Notes {
		h.numbers(uint64(len(name)), uint64(len(text)))
		h.text(name)
		h.text(text)
	}
	v.Ascend("", func(key string, it Item) bool {
		h.numbers(uint64(len(key)), uint64(len(it.Value)), it.Version)
		h.text(key)
		h.h.Write(it.Bytes())
		return true
	})
	for _, r := range []Requests{v.own, v.callers} {
		h.numbers(r.Floor, uint64(r.Len))
		for rec := range r.All {
			h.h.Write(rec.ID[:])
			h.h.Write(rec.Digest[:])
			h.numbers(rec.Index, uint64(rec.Result.Code), rec.Result.Version)
		}
	}
}

type hasher struct {
	h   hash.Hash // its Write does not fail
	buf []byte
}

func (h *hasher) numbers(ns ...uint64) {
	h.buf = h.buf[:0]
	for _, n := range ns {
		h.buf = binary.BigEndian.AppendUint64(h.buf, n)
	}
	h.h.Write(h.buf)
}

func (h *hasher) text(s string) {
	h.buf = append(h.buf[:0], s...)
	h.h.Write(h.buf)
}
