package kvraft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/feed"
	"github.com/kvraft/kvraft/internal/state"
)

// Event is what Watch yields.
type Event struct {
	Kind    EventKind
	Key     string // empty in an EventSync
	Value   []byte // of an EventSet: the caller's own copy, but see SharedValues
	Version uint64 // of the write that changed the key; of an EventSync see there

	// More says that others follow that belong to this one: the rest of a Batch, or of
	// a first snapshot. To go on where a watch ended, begin After the Version of
	// the last event without it.
	More bool
}

// EventKind is what has happened.
type EventKind string

// The kinds of events.
const (
	EventSet    EventKind = "set"    // the key has a new value
	EventDelete EventKind = "delete" // the key is gone
	EventSync   EventKind = "sync"   // everything up to Version has been yielded
)

// WatchOption qualifies Watch: a [WatchFlag], or [After] or [SyncEvery].
type WatchOption interface{ qualify(*watchOptions) }

type watchOptions struct {
	flags     WatchFlag
	resumes   bool
	after     uint64
	syncEvery time.Duration
}

// WatchFlag is a WatchOption without a value.
type WatchFlag byte

const (
	// SnapshotFirst begins a watch with the keys that are there, in order, each as an
	// EventSet with the version that it has, and an EventSync with the version that they
	// are of.
	SnapshotFirst WatchFlag = 1 << iota

	// ExactKey makes prefix a key: its changes are yielded, and not those of keys that
	// begin with it.
	ExactKey

	// SharedValues saves the copies of each key and value: those of the events are the
	// store's own. A value must not be written to, and a key that is kept keeps its value
	// in memory.
	SharedValues
)

func (f WatchFlag) qualify(o *watchOptions) { o.flags |= f }

func (o watchOptions) has(f WatchFlag) bool { return o.flags&f != 0 }

// After begins a watch with the first change above a version, such as that of the
// last event that was seen, on whichever node, or of a View. 0 is before the first
// change of all.
func After(version uint64) WatchOption { return after(version) }

type after uint64

func (v after) qualify(o *watchOptions) { o.resumes, o.after = true, uint64(v) }

// SyncEvery adds an EventSync when all that had happened has been yielded, and again
// whenever nothing else was yielded for d. It shows that the watch lives, and keeps
// the version to go on after fresh where few keys are watched. 0: none.
func SyncEvery(d time.Duration) WatchOption { return syncEvery(d) }

type syncEvery time.Duration

func (d syncEvery) qualify(o *watchOptions) { o.syncEvery = time.Duration(d) }

// Watch yields the changes of all keys that begin with prefix, or with [ExactKey] of that
// one key, in the order of their versions, as this node comes to know them. Each change since the watch began is
// yielded, once; of one Batch the events follow each other, one for each key that is
// not as it was. Without an option the watch begins with the first change above what
// this node has when Watch is called; a version of After that it has not reached is
// asked of the leader and waited for.
//
// Whoever has seen an event reads on this node, also with Stale, at least its version.
//
// The iterator may wait as long as it likes between two events: that holds up nobody.
// But the history that it reads from is bounded, see [WithHistory]. A watch that
// ends with ErrCompacted has missed changes, and so has whoever goes on from
// there: begin anew with SnapshotFirst. A restart of the node shortens the history
// to what its log still has.
//
// The watch ends when the caller breaks off, leaving nothing behind, or with an error:
// that of ctx, ErrClosed when the store closes, ErrCompacted, ErrInvalid for a version
// of the future, and ErrNoLeader when ctx ended before a leader could tell whether
// there is such a version.
func (s *Store) Watch(ctx context.Context, prefix string, opts ...WatchOption) iter.Seq2[Event, error] {
	o := gather[watchOptions](opts)
	after := s.fsm.now.Load().view.Revision()
	if o.resumes {
		after = o.after
	}
	return func(yield func(Event, error) bool) {
		w := watch{store: s, ctx: ctx, scope: feed.Scope{Prefix: prefix, Exact: o.has(ExactKey)}, opts: o, after: after, due: o.syncEvery > 0}
		err := w.run(func(e Event) bool { return yield(e, nil) })
		if err != nil && err != errBrokenOff {
			yield(Event{}, fmt.Errorf("watch %.100q: %w", prefix, err))
		}
	}
}

// errBrokenOff is not seen by anybody: the caller wants no more.
var errBrokenOff = errors.New("kvraft: the caller broke off")

// watch is one iteration.
type watch struct {
	store *Store
	ctx   context.Context
	scope feed.Scope
	opts  watchOptions
	after uint64         // everything up to this version was yielded, or is not in the scope
	due   bool           // an EventSync, when nothing else is
	found []state.Change // the changes of one version; copies, as a pointer would keep its segment of the history
}

func (w *watch) run(yield func(Event) bool) error {
	if err := w.begin(yield); err != nil {
		return err
	}
	for {
		if err := w.ended(); err != nil {
			return err
		}
		if err := w.advance(w.store.fsm.now.Load()); err != nil {
			return err
		}
		switch {
		case len(w.found) > 0:
			if !w.yieldFound(yield) {
				return errBrokenOff
			}
		case w.due:
			w.due = false
			if !yield(Event{Kind: EventSync, Version: w.after}) {
				return errBrokenOff
			}
		default:
			w.wait()
		}
	}
}

// begin sees to it that there is something to go on from.
func (w *watch) begin(yield func(Event) bool) error {
	if w.opts.has(SnapshotFirst) && w.opts.resumes {
		return fmt.Errorf("%w: After and SnapshotFirst exclude each other", ErrInvalid)
	}
	if w.opts.syncEvery < 0 {
		return fmt.Errorf("%w: SyncEvery(%v): want 0 or more", ErrInvalid, w.opts.syncEvery)
	}
	if err := w.ended(); err != nil {
		return err
	}
	if w.opts.has(SnapshotFirst) {
		return w.snapshot(yield)
	}
	return w.reach()
}

// snapshot yields what is there.
func (w *watch) snapshot(yield func(Event) bool) error {
	view := w.store.fsm.now.Load().view
	var err error
	view.Ascend(w.scope.Prefix, func(key string, item state.Item) bool {
		if !w.scope.Has(key) {
			return false
		}
		if err = w.ended(); err == nil && !yield(w.set(key, item, true)) {
			err = errBrokenOff
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	w.after, w.due = view.Revision(), false
	if !yield(Event{Kind: EventSync, Version: w.after}) {
		return errBrokenOff
	}
	return nil
}

// set is the event of a key that is there. The store has a key and its value in one
// allocation, of which the caller gets copies: a key that is kept would keep the value too.
func (w *watch) set(key string, item state.Item, more bool) Event {
	e := Event{Kind: EventSet, Key: key, Value: item.Bytes(), Version: item.Version, More: more}
	if !w.opts.has(SharedValues) {
		e.Key, e.Value = strings.Clone(key), bytes.Clone(e.Value)
	}
	return e
}

// reach waits until this node has reached the version to begin after, if there is
// such a version.
func (w *watch) reach() error {
	s := w.store
	if s.fsm.now.Load().view.Revision() >= w.after {
		return nil
	}
	if err := s.freshen(w.ctx, Linearizable); err != nil {
		return err
	}
	if at := s.fsm.now.Load().view.Revision(); at < w.after {
		return fmt.Errorf("%w: version %d lies in the future: the store is at version %d", ErrInvalid, w.after, at)
	}
	return nil
}

func (w *watch) ended() error {
	if err := w.store.node.Life.Err(); err != nil {
		return err
	}
	if w.ctx.Err() != nil {
		return errs.Ended(w.ctx)
	}
	return nil
}

// advance finds the changes of the next version that has any in the scope, or else
// has gone through all that there are.
func (w *watch) advance(now *applied) error {
	w.found = w.found[:0]
	if w.after < now.history.Floor() {
		return &CompactedError{Version: now.history.Floor()}
	}
	for c := range now.history.Since(w.after) {
		if len(w.found) > 0 && c.Version != w.found[0].Version {
			break
		}
		if w.scope.Has(c.Key) {
			w.found = append(w.found, *c)
		}
	}
	if len(w.found) > 0 {
		w.after = w.found[0].Version
	} else {
		w.after = now.view.Revision()
	}
	return nil
}

func (w *watch) yieldFound(yield func(Event) bool) bool {
	defer clear(w.found)
	for i, c := range w.found {
		more := i+1 < len(w.found)
		e := Event{Kind: EventDelete, Key: c.Key, Version: c.Version, More: more}
		if !c.Deleted {
			e = w.set(c.Key, c.Item, more)
		}
		if !yield(e) {
			return false
		}
	}
	return true
}

// wait returns when there is something in the scope, a sync event is due, or the
// watch is to end.
func (w *watch) wait() {
	subscription := w.store.fsm.watchers.Subscribe(w.scope, w.after)
	if subscription == nil {
		return
	}
	var quiet <-chan time.Time
	if w.opts.syncEvery > 0 {
		timer := time.NewTimer(w.opts.syncEvery)
		defer timer.Stop()
		quiet = timer.C
	}
	select {
	case <-subscription.Changed():
	case <-quiet:
		w.due = true
	case <-w.store.node.Life.Stopping():
	case <-w.ctx.Done():
	}
	w.after = max(w.after, w.store.fsm.watchers.Unsubscribe(subscription))
}
