// Package feed keeps the latest changes of the state, and wakes those who wait for a
// change of a key with some prefix.
//
// The state machine records the changes of each entry of the log in its [History],
// publishes a copy of that with the state, and then calls [Subscriptions.Notify]. A
// watcher reads the copy that it has found, and subscribes only when there is nothing
// in it any more.
//
// The package has no goroutine. A History has no lock: one goroutine records, everyone
// else reads copies. The one mutex of Subscriptions is never held while another is
// taken. It is tested without a store; what they do together is tested in the root.
package feed

import (
	"iter"
	"slices"
	"sort"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/state"
)

// A History is the latest changes of the state, oldest first. A copy can be read while
// the original goes on: Record only appends, beyond what earlier copies can reach.
type History struct {
	floor uint64
	old   []segment // never written to, but replaced
	last  segment   // the changes of an entry of the log are in one segment
	bytes int64     // in old
}

type segment struct {
	changes []state.Change
	bytes   int64
}

// segments is into how many a History is divided: what it forgets at a time.
const segments = 32

// StartAt returns a History of which the changes up to a version are not known.
func StartAt(version uint64) History { return History{floor: version} }

// Floor returns the version above which all changes are known.
func (h *History) Floor() uint64 { return h.floor }

// Record takes the changes of one entry of the log, and forgets the oldest beyond
// limit, in bytes.
func (h *History) Record(changes []state.Change, limit int64) {
	for i := range changes {
		h.last.bytes += int64(command.Overhead + len(changes[i].Key) + len(changes[i].Value))
	}
	h.last.changes = append(h.last.changes, changes...)
	if h.last.bytes < max(limit/segments, 1) {
		return
	}
	h.bytes += h.last.bytes
	old := append(slices.Clone(h.old), h.last)
	for h.bytes > limit && len(old) > 1 {
		h.floor = old[0].newest()
		h.bytes -= old[0].bytes
		old = old[1:]
	}
	h.old = slices.Clone(old) // a list that is only cut would keep what it forgot in memory
	h.last = segment{changes: make([]state.Change, 0, len(h.last.changes))}
}

func (s segment) newest() uint64 { return s.changes[len(s.changes)-1].Version }

// Since goes through the changes above a version, which is not below the floor. They
// are the history's own: a pointer that is kept keeps many of them in memory.
func (h *History) Since(version uint64) iter.Seq[*state.Change] {
	return func(yield func(*state.Change) bool) {
		first := sort.Search(len(h.old), func(i int) bool { return h.old[i].newest() > version })
		for i := first; i <= len(h.old); i++ {
			changes := h.last.changes
			if i < len(h.old) {
				changes = h.old[i].changes
			}
			from := sort.Search(len(changes), func(j int) bool { return changes[j].Version > version })
			for j := range changes[from:] {
				if !yield(&changes[from+j]) {
					return
				}
			}
		}
	}
}
