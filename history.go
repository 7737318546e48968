package kvraft

import (
	"iter"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/kvraft/kvraft/internal/state"
)

// history is the latest changes of the state, oldest first. It is published beside
// the view that they lead to, and like that is read without a lock: record only
// appends, beyond what earlier copies can reach.
type history struct {
	floor uint64    // what is above this version is here in full
	old   []segment // never written to, but replaced
	last  segment   // the changes of an entry of the log are in one segment
	bytes int64     // in old
}

type segment struct {
	changes []state.Change
	bytes   int64
}

// segments is into how many the history is divided: what it forgets at a time.
const segments = 32

// record takes the changes of one entry of the log, and forgets the oldest beyond
// limit.
func (h *history) record(changes []state.Change, limit int64) {
	const overhead = 64 // of a change
	for i := range changes {
		h.last.bytes += int64(overhead + len(changes[i].Key) + len(changes[i].Value))
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

// since goes through the changes above a version, which is not below the floor.
func (h *history) since(version uint64) iter.Seq[*state.Change] {
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

// scope is the keys of a watch: those with a prefix, or the one that it is.
type scope struct {
	prefix string
	exact  bool
}

func (s scope) has(key string) bool {
	return strings.HasPrefix(key, s.prefix) && (!s.exact || len(key) == len(s.prefix))
}

// bells wake those that wait for a change of a key of some scope. One bell hangs
// for each scope that somebody waits for, so that a change costs nothing to all who
// wait for another; when it is rung it is taken down. A watcher that is busy has none.
type bells struct {
	mu      sync.Mutex
	version uint64          // guarded by mu: the changes up to it were rung for
	hung    map[scope]*bell // guarded by mu
	lengths []int           // guarded by mu: how many of them have a prefix of that length
}

type bell struct {
	scope   scope
	waiting int           // guarded by bells.mu
	rung    chan struct{} // closed at the first change
	before  uint64        // the version before that change; set before rung is closed
}

// hang joins those who wait for a change in a scope that is above a version, or returns
// nil if there may have been one.
func (b *bells) hang(s scope, above uint64) *bell {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.version > above {
		return nil
	}
	hung := b.hung[s]
	if hung == nil {
		hung = &bell{scope: s, rung: make(chan struct{})}
		if b.hung == nil {
			b.hung = make(map[scope]*bell)
		}
		b.hung[s] = hung
		b.lengths = append(b.lengths, make([]int, max(0, len(s.prefix)+1-len(b.lengths)))...)
		b.lengths[len(s.prefix)]++
	}
	hung.waiting++
	return hung
}

// leave ends the waiting of one. It returns up to which version nothing has changed
// that the bell was hung for: whoever has waited need not look there, and the history
// need not reach back there.
func (b *bells) leave(w *bell) (quiet uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hung[w.scope] != w {
		return w.before
	}
	if w.waiting--; w.waiting == 0 {
		b.takeDown(w)
	}
	return b.version
}

// takeDown is called with mu held.
func (b *bells) takeDown(w *bell) {
	delete(b.hung, w.scope)
	b.lengths[len(w.scope.prefix)]--
}

// ring wakes those who wait for one of the changes from version to version. If the
// history lacks some of these it wakes all.
func (b *bells) ring(h *history, from, to uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.version = to
	switch {
	case len(b.hung) == 0 || from == to:
	case h.floor > from:
		for _, w := range b.hung {
			b.strike(w, from)
		}
	default:
		for c := range h.since(from) {
			b.ringFor(c)
		}
	}
}

// ringFor is called with mu held.
func (b *bells) ringFor(c *state.Change) {
	for n, bells := range b.lengths[:min(len(b.lengths), len(c.Key)+1)] {
		if bells == 0 {
			continue
		}
		if w := b.hung[scope{prefix: c.Key[:n]}]; w != nil {
			b.strike(w, c.Version-1)
		}
	}
	if w := b.hung[scope{c.Key, true}]; w != nil {
		b.strike(w, c.Version-1)
	}
}

// strike is called with mu held.
func (b *bells) strike(w *bell, before uint64) {
	w.before = before
	close(w.rung)
	b.takeDown(w)
}
