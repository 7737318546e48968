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
	lastKey string
	note    string // the name of the last one
	last    uint64 // index of the last request that was remembered, or floor
}

// NewLoader starts from a View's Revision and Floor.
func NewLoader(revision, floor uint64) *Loader {
	return newLoader(revision, floor, Window, chunkSize)
}

func newLoader(revision, floor uint64, window, chunk int) *Loader {
	s := newState(window, chunk)
	s.revision = revision
	s.recent.floor = floor
	return &Loader{state: s, last: floor}
}

// Add adds a key; keys rise strictly. A version lies between 1 and the revision. The state owns the value from here on. After
// an error the Loader is of no more use.
func (l *Loader) Add(key string, it Item) error {
	s := l.state
	if s.items.Len() > 0 && key <= l.lastKey {
		return fmt.Errorf("key %q after %q", key, l.lastKey)
	}
	if it.Version == 0 || it.Version > s.revision {
		return fmt.Errorf("key %q has version %d at revision %d", key, it.Version, s.revision)
	}
	s.items.Load(key, &it)
	s.bytes += size(key, it)
	l.lastKey = key
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

// Remember adds a remembered request. The indexes do not fall, and none is below the floor: one may be equal to it, when the
// last requests that were forgotten shared an entry with the first that are left. After an error the Loader is of no more
// use.
func (l *Loader) Remember(rec Remembered) error {
	s := l.state
	if rec.Index < l.last {
		return fmt.Errorf("remembered request at index %d after index %d", rec.Index, l.last)
	}
	if rec.Result.Code != command.OK && rec.Result.Code != command.Conflict {
		return fmt.Errorf("remembered request at index %d has result code %d", rec.Index, rec.Result.Code)
	}
	if rec.Result.Version > s.revision {
		return fmt.Errorf("remembered request at index %d has version %d at revision %d", rec.Index, rec.Result.Version, s.revision)
	}
	if _, ok := s.recent.find(rec.ID); ok {
		return fmt.Errorf("request %x is remembered twice", rec.ID)
	}
	if s.recent.len == s.recent.window {
		return errors.New("more remembered requests than the window holds")
	}
	s.recent.add(rec)
	l.last = rec.Index
	return nil
}

// State returns the rebuilt state. The Loader must not be used after it.
func (l *Loader) State() *State {
	return l.state
}
