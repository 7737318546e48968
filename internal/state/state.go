// Package state is the replicated state: an ordered map of versioned values, and the results of recent requests.
//
// It is pure. The state after a sequence of log entries depends on those entries alone, whichever node applies them and
// wherever a snapshot came between; View.Hash compares replicas. One goroutine calls the methods of a State, any number read
// its Views meanwhile without a lock.
package state

import (
	"github.com/tidwall/btree"

	"github.com/kvraft/kvraft/internal/command"
)

// Item is what a key holds. Its value is shared by every View that has it: it is never written to.
type Item struct {
	Value   []byte
	Version uint64 // revision of the request that wrote it, never 0
}

// State is what the log adds up to. Only one goroutine at a time may call its methods.
type State struct {
	// items is read through copies while it is written. This relies on what btree v1.8.2 does: Copy gives the original and
	// the copy new owner ids, and whatever writes to a node first replaces one of another owner by a copy of its own, so a
	// node that a copy can reach is never written again. Get, Ascend and Scan write nothing. Copy itself writes the
	// original's owner id, and so belongs to the goroutine that writes.
	items btree.Map[string, Item]

	bytes    int64  // sum of the lengths of all keys and values
	revision uint64 // number of requests that changed something
	recent   recent
}

// New returns the state before the first log entry.
func New() *State {
	return newState(Window, chunkSize)
}

func newState(window, chunk int) *State {
	return &State{recent: newRecent(window, chunk)}
}

// Apply applies the log entry at index and returns the result of each of its requests, in order. Indexes of successive calls
// rise. The state owns the values of the requests from here on.
//
// A request has its effect in full or none, and once, however many copies of it are in the log. It is effective when it set
// a key or deleted one that was there, and then moves the revision by one: two requests of one entry never share a revision.
func (s *State) Apply(index uint64, reqs []command.Request) []command.Result {
	results := make([]command.Result, len(reqs))
	for i := range reqs {
		results[i] = s.once(index, &reqs[i])
	}
	s.recent.prune()
	return results
}

// once executes a request unless an earlier copy of it was executed, or may have been.
func (s *State) once(index uint64, req *command.Request) command.Result {
	if result, ok := s.recent.find(req.ID); ok {
		return result
	}
	if req.Born < s.recent.floor || req.Born >= index { // the latter cannot be: no copy lies below its index
		return command.Result{Code: command.Expired, Version: index}
	}
	result := s.execute(req.Ops)
	s.recent.add(Remembered{ID: req.ID, Index: index, Result: result})
	return result
}

// execute holds all checks of a request, wherever they stand, against the state before it, and then writes.
func (s *State) execute(ops []command.Op) command.Result {
	for i := range ops {
		if ops[i].Kind != command.Check {
			continue
		}
		if it, _ := s.items.Get(ops[i].Key); it.Version != ops[i].Version {
			return command.Result{Code: command.Conflict, Version: it.Version}
		}
	}
	next, effective := s.revision+1, false
	for i := range ops {
		switch ops[i].Kind {
		case command.Set:
			s.set(ops[i].Key, Item{Value: ops[i].Value, Version: next})
			effective = true
		case command.Delete:
			effective = s.delete(ops[i].Key) || effective
		}
	}
	if effective {
		s.revision = next
	}
	return command.Result{Code: command.OK, Version: s.revision}
}

func (s *State) set(key string, it Item) {
	old, replaced := s.items.Set(key, it)
	if replaced {
		s.bytes -= size(key, old)
	}
	s.bytes += size(key, it)
}

func (s *State) delete(key string) bool {
	// Map.Delete copies its path through the tree before it knows whether the key is there.
	if _, ok := s.items.Get(key); !ok {
		return false
	}
	old, _ := s.items.Delete(key)
	s.bytes -= size(key, old)
	return true
}

func size(key string, it Item) int64 {
	return int64(len(key) + len(it.Value))
}
