package state

import (
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/tree"
)

// What hraftd has written comes before everything else in a log, and a snapshot of hraftd's is a map without versions. So a
// state that holds nothing else, a legacy state, depends on its map alone: it is at revision 1, and every key has version 1,
// however often it was set. It need not be marked as one: any other state past revision 0 remembers a request, or has
// forgotten one. (An empty map is at revision 1 too: raft takes no snapshot of a state machine that has applied nothing, so
// that each stands for one entry at least.)
//
// The first entry of another kind, whatever it says, ends the legacy state: it is at revision 2 then, and so is every key. A
// version that a reader got in the middle of hraftd's log, from a node that lagged behind, is none that a key still has.
const legacyRevision = 1

// NewLegacy returns the state that a snapshot of hraftd holds.
func NewLegacy(pairs map[string]string) *State {
	s := New()
	s.revision = legacyRevision
	for key, value := range pairs {
		s.set(key, []byte(value), legacyRevision)
	}
	s.clearChanges()
	return s
}

// ApplyLegacy applies a log entry of hraftd's. All of them come before the first call of Apply.
func (s *State) ApplyLegacy(op command.Op) {
	s.revision, s.base = legacyRevision, legacyRevision
	switch op.Kind {
	case command.Set:
		s.set(op.Key, op.Value, legacyRevision)
	case command.Delete:
		s.delete(op.Key, legacyRevision)
	}
	s.clearChanges() // of a version that has many
}

// Base returns the version above which Changes tells all. What came to a legacy state it does not tell, nor that its end gave
// every key another version.
func (s *State) Base() uint64 { return s.base }

func (s *State) isLegacy() bool {
	return s.revision == legacyRevision && s.memory.isEmpty()
}

// endLegacy goes through every key, once in the life of a cluster.
func (s *State) endLegacy() {
	s.revision = legacyRevision + 1
	s.base = s.revision
	items := tree.New()
	s.items.Ascend("", func(key string, it Item) bool {
		items.Set(key, it.Bytes(), s.revision)
		return true
	})
	s.items = items
}
