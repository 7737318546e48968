package kvraft

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/kvraft/kvraft/internal/state"
)

// View is the whole store at one version. It never changes, holds no lock, and
// costs the store nothing but the memory of what is overwritten while it is kept.
type View struct {
	at state.View // not *applied, which holds the history of its moment
}

// View returns the store at one moment, by default linearizable: not older than
// any write that had completed before the call. All waiting and failing is here;
// what is read from a View neither waits nor fails. Errors are those of Get,
// without those of the key.
func (s *Store) View(ctx context.Context, opts ...ReadOption) (*View, error) {
	o := gather[readOptions](opts)
	if o.level == Stale {
		now, err := s.localState(ctx, o)
		if err != nil {
			return nil, err
		}
		return &View{now.view}, nil
	}
	if err := s.freshen(ctx, o.level); err != nil {
		return nil, err
	}
	return &View{s.fsm.now.Load().view}, nil
}

// freshen waits until this node's state is as fresh as the leader's.
func (s *Store) freshen(ctx context.Context, l ReadLevel) error {
	index, err := s.readIndex(ctx, l)
	if err != nil {
		return err
	}
	err = s.fsm.awaitIndex(ctx, index)
	if err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("%w: wait for log index %d: %w", ErrNoLeader, index, err)
	}
	return err
}

// Version returns the version of the newest write in the view.
func (v *View) Version() uint64 { return v.at.Revision() }

// Len returns how many keys there are.
func (v *View) Len() int { return v.at.Len() }

// Get returns the entry of a key, and whether it is there.
func (v *View) Get(key string) (Entry, bool) {
	item, ok := v.at.Get(key)
	if !ok {
		return Entry{}, false
	}
	return entry(key, item), true
}

// All goes through all entries in the order of their keys' bytes.
func (v *View) All() iter.Seq[Entry] { return v.Range("", "") }

// Prefix goes through the entries whose keys begin with prefix, in order.
func (v *View) Prefix(prefix string) iter.Seq[Entry] {
	return v.while(prefix, func(key string) bool { return strings.HasPrefix(key, prefix) })
}

// Range goes through the entries with from <= key < to, in order. An empty to
// means that there is no end.
func (v *View) Range(from, to string) iter.Seq[Entry] {
	return v.while(from, func(key string) bool { return to == "" || key < to })
}

func (v *View) while(from string, in func(key string) bool) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		v.at.Ascend(from, func(key string, item state.Item) bool {
			return in(key) && yield(entry(key, item))
		})
	}
}
