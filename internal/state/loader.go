package state

import (
	"errors"
	"fmt"

	"github.com/kvraft/kvraft/internal/command"
)

// Loader rebuilds a State from what a View of it yields: every key, every note and every remembered request, each in the
// View's order. It refuses what no View can yield, but cannot see what is missing.
type Loader struct {
	state   *State
	discard bool // the keys: it only checks
	keys    uint64
	lastKey string
	note    string // the name of the last one
	own     uint64 // index of the last request of a store's that was remembered, or their floor
	callers uint64 // index of the last of a caller's, or 0
	marked  bool   // the floor of callers is known
}

// NewLoader starts from a View's Revision and the Floor of its Own requests.
func NewLoader(revision, floor uint64) *Loader {
	return newLoader(revision, floor, formatWindows)
}

// NewChecker is a Loader that refuses the same and keeps no keys: its State is of no use.
func NewChecker(revision, floor uint64) *Loader {
	l := NewLoader(revision, floor)
	l.discard = true
	return l
}

func newLoader(revision, floor uint64, w windows) *Loader {
	s := newState(w)
	s.revision = revision
	s.memory.own.floor = floor
	return &Loader{state: s, own: floor}
}

// Add adds a key; keys rise strictly. A version lies between 1 and the revision. The state keeps copies of key and value.
// After an error the Loader is of no more use.
func (l *Loader) Add(key string, value []byte, version uint64) error {
	s := l.state
	if l.keys > 0 && key <= l.lastKey {
		return fmt.Errorf("key %q after %q", key, l.lastKey)
	}
	if version == 0 || version > s.revision {
		return fmt.Errorf("key %q has version %d at revision %d", key, version, s.revision)
	}
	l.keys++
	l.lastKey = key
	if l.discard {
		return nil
	}
	s.items.Set(key, value, version)
	return nil
}

// Note adds a note; names rise strictly, and no text is empty. After an error the Loader is of no more use.
func (l *Loader) Note(name, text string) error {
	s := l.state
	if len(s.notes) > 0 && name <= l.note {
		return fmt.Errorf("note %q after %q", name, l.note)
	}
	if text == "" {
		return fmt.Errorf("note %q is empty", name)
	}
	if s.notes == nil {
		s.notes = make(map[string]string)
	}
	s.notes[name] = text
	l.note = name
	return nil
}

// Remember adds one of a View's Own requests. The indexes do not fall, and none is below the floor: one may be equal to it,
// when the last requests that were forgotten shared an entry with the first that are left. After an error the Loader is of no
// more use.
func (l *Loader) Remember(rec Remembered) error {
	if rec.Digest != (command.Digest{}) {
		return errors.New("a request of a store's with a digest")
	}
	return l.remember(&l.state.memory.own, rec, &l.own)
}

// SetCallersFloor takes the Floor of a View's requests of Callers. Without it the requests are those of a View that is
// Unmarked.
func (l *Loader) SetCallersFloor(floor uint64) { l.marked, l.state.memory.callers.floor = true, floor }

// RememberCaller adds one of a View's requests of Callers. The indexes do not fall; they may be below the floor, which old
// entries have raised. After an error the Loader is of no more use.
func (l *Loader) RememberCaller(rec Remembered) error {
	return l.remember(&l.state.memory.callers, rec, &l.callers)
}

func (l *Loader) remember(r *recent, rec Remembered, last *uint64) error {
	if rec.Index < *last {
		return fmt.Errorf("remembered request at index %d after index %d", rec.Index, *last)
	}
	switch rec.Result.Code {
	case command.OK, command.Conflict, command.Created:
	default:
		return fmt.Errorf("remembered request at index %d has result code %d", rec.Index, rec.Result.Code)
	}
	if rec.Result.Version > l.state.revision {
		return fmt.Errorf("remembered request at index %d has version %d at revision %d", rec.Index, rec.Result.Version, l.state.revision)
	}
	if _, ok := r.find(rec.ID); ok {
		return fmt.Errorf("request %x is remembered twice", rec.ID)
	}
	if r.len == r.window {
		return errors.New("more remembered requests than the window holds")
	}
	r.add(rec)
	*last = rec.Index
	return nil
}

// State returns the rebuilt state. The Loader must not be used after it.
func (l *Loader) State() *State {
	if !l.marked {
		l.state.memory.callers.floor = l.own
	}
	return l.state
}
