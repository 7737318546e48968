// Package state is the replicated state: an ordered map of versioned values, and the results of recent requests.
//
// It is pure. The state after a sequence of log entries depends on those entries alone, whichever node applies them and
// wherever a snapshot came between; View.HashTo compares replicas. One goroutine calls the methods of a State, any number read
// its Views meanwhile without a lock.
package state

import (
	"maps"
	"strings"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/tree"
)

// Item is what a key holds. Its version is the revision of the request that wrote it, never 0.
type Item = tree.Item

// State is what the log adds up to. Only one goroutine at a time may call its methods.
type State struct {
	items tree.Map

	// notes is what the cluster remembers of itself. It is small, and changes when the membership does. A map that a View
	// shares is replaced, and not written to.
	notes       map[string]string
	notesShared bool

	revision uint64 // number of requests that changed something, but see legacy.go
	memory   memory
	changes  []Change // of the last Apply
	base     uint64   // see legacy.go
}

// Change is what a request did to a key.
type Change struct {
	Key     string
	Item    // after it; of a key that is gone only the version counts
	Deleted bool
	created bool // the key was not there before the op
}

// New returns the state before the first log entry.
func New() *State {
	return newState(formatWindows)
}

var formatWindows = windows{own: Window, callers: CallerWindow, chunk: chunkSize}

func newState(w windows) *State {
	return &State{items: tree.New(), memory: newMemory(w)}
}

// Apply applies the log entry at index and returns the result of each of its requests, in order. Indexes of successive calls
// rise. The
// state keeps copies of keys and values.
//
// A request has its effect in full or none, and once, however many copies of it are in the log. It is effective when it set
// a key or deleted one that was there, not when it took a note, and then moves the revision by one: two requests of one entry never share a revision.
func (s *State) Apply(index uint64, reqs []command.Request) []command.Result {
	s.clearChanges()
	if s.isLegacy() {
		s.endLegacy()
	}
	results := make([]command.Result, len(reqs))
	for i := range reqs {
		results[i] = s.once(index, &reqs[i])
	}
	s.memory.prune()
	return results
}

// Changes returns what the last Apply changed, in the order of the versions, until the next. Of a request that wrote a key
// more than once it has the last write alone, and nothing of a key that was not there before the request nor is after it.
func (s *State) Changes() []Change { return s.changes }

func (s *State) clearChanges() {
	clear(s.changes)
	s.changes = s.changes[:0]
}

// once executes a request unless an earlier copy of it was executed, or may have been.
func (s *State) once(index uint64, req *command.Request) command.Result {
	recent := s.memory.of(req.Origin)
	if known, ok := recent.find(req.ID); ok {
		if known.Digest != req.Digest {
			return command.Result{Code: command.Reused, Version: index}
		}
		return known.Result
	}
	if req.Born < recent.floor || req.Born >= index { // the latter cannot be: no copy lies below its index
		return command.Result{Code: command.Expired, Version: index}
	}
	result := s.execute(req.Ops)
	s.memory.remember(req, index, result)
	return result
}

// execute holds all checks of a request, wherever they stand, against the state before it, and then writes.
func (s *State) execute(ops []command.Op) command.Result {
	for i := range ops {
		if ops[i].Kind != command.Check {
			continue
		}
		if v := s.version(ops[i].Key); v != ops[i].Version {
			return command.Result{Code: command.Conflict, Version: v}
		}
	}
	before, next, code := len(s.changes), s.revision+1, command.OK
	for i := range ops {
		switch ops[i].Kind {
		case command.Set:
			s.set(ops[i].Key, ops[i].Value, next)
		case command.Delete:
			s.delete(ops[i].Key, next)
		case command.Note:
			s.note(strings.Clone(ops[i].Key), string(ops[i].Value))
		}
	}
	if len(s.changes) > before {
		s.revision = next
		if len(s.changes) == before+1 && s.changes[before].created {
			code = command.Created
		}
		s.changes = s.changes[:before+len(squash(s.changes[before:]))]
	}
	return command.Result{Code: code, Version: s.revision}
}

// version is that of key; 0: it is not there.
func (s *State) version(key string) uint64 {
	if it, ok := s.items.Get(key); ok {
		return it.Version
	}
	return 0
}

func (s *State) set(key string, value []byte, version uint64) {
	kept, it, created := s.items.Set(key, value, version)
	s.changes = append(s.changes, Change{Key: kept, Item: it, created: created})
}

func (s *State) delete(key string, version uint64) {
	if s.items.Delete(key) {
		s.changes = append(s.changes, Change{Key: strings.Clone(key), Item: Item{Version: version}, Deleted: true})
	}
}

// squash leaves of a request's changes the last of each key, and none of a key that was not there before and is not now.
func squash(changes []Change) []Change {
	if len(changes) == 1 {
		return changes
	}
	type span struct {
		last    int
		created bool // by the first
	}
	spans := make(map[string]span, len(changes))
	for i, c := range changes {
		of, again := spans[c.Key]
		if !again {
			of.created = c.created
		}
		of.last = i
		spans[c.Key] = of
	}
	if len(spans) == len(changes) {
		return changes
	}
	left := changes[:0]
	for i, c := range changes {
		if of := spans[c.Key]; of.last == i && !(c.Deleted && of.created) {
			left = append(left, c)
		}
	}
	clear(changes[len(left):])
	return left
}

// WriteNote takes a note without a log entry, for a state that is to begin a new log. An empty text strikes it out.
func (s *State) WriteNote(name, text string) { s.note(name, text) }

// RaiseRevision leaves out the versions up to revision, without a log entry, for a state that is to begin a new log.
func (s *State) RaiseRevision(revision uint64) {
	if s.isLegacy() {
		s.endLegacy()
	}
	s.revision = max(s.revision, revision)
}

func (s *State) note(name, text string) {
	if s.notesShared {
		s.notes, s.notesShared = maps.Clone(s.notes), false
	}
	if s.notes == nil {
		s.notes = make(map[string]string)
	}
	if s.notes[name] = text; text == "" {
		delete(s.notes, name)
	}
}
