package kvrafttest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/kvraft/kvraft"
)

// Watcher is what a [History] records watches of. A [kvraft.Store] is one, and a [Client].
type Watcher interface {
	Watch(ctx context.Context, prefix string, opts ...kvraft.WatchOption) iter.Seq2[kvraft.Event, error]
}

// watched is what a watch has yielded.
type watched struct {
	covers   func(key string) bool
	snapshot bool // it begins with what is there
	events   []seen
}

type seen struct {
	kvraft.Event
	at int64
}

// Watch records a watch: that its events come in the order of their versions, each change
// once and none left out, as it was written, and a [kvraft.Batch] as a whole. What a
// [Client] repeats of one is allowed for.
func (h *History) Watch(ctx context.Context, kv Watcher, prefix string, opts ...kvraft.WatchOption) iter.Seq2[kvraft.Event, error] {
	has := func(flag kvraft.WatchFlag) bool {
		return slices.ContainsFunc(opts, func(o kvraft.WatchOption) bool { f, ok := o.(kvraft.WatchFlag); return ok && f&flag != 0 })
	}
	w := &watched{covers: func(key string) bool { return strings.HasPrefix(key, prefix) }, snapshot: has(kvraft.SnapshotFirst)}
	if has(kvraft.ExactKey) {
		w.covers = func(key string) bool { return key == prefix }
	}
	h.mu.Lock()
	h.watches = append(h.watches, w)
	h.mu.Unlock()
	return func(yield func(kvraft.Event, error) bool) {
		for event, err := range kv.Watch(ctx, prefix, opts...) {
			if err == nil {
				at := h.tick()
				h.mu.Lock()
				event := event
				event.Value = slices.Clone(event.Value)
				w.events = append(w.events, seen{event, at})
				h.mu.Unlock()
			}
			if !yield(event, err) {
				return
			}
		}
	}
}

func checkWatches(calls []record, watches []*watched) (faults []string) {
	sets := setsByVersion(calls)
	for _, w := range watches {
		found := w.checkOrder()
		if len(found) == 0 {
			found = w.checkWhole(sets)
		}
		faults = append(faults, found...)
	}
	return faults
}

// checkOrder makes sure that versions rise, and that those who share one are together.
func (w *watched) checkOrder() (faults []string) {
	snapshot := w.snapshot
	var last kvraft.Event
	for _, e := range w.events {
		switch {
		case snapshot:
			snapshot = e.Kind != kvraft.EventSync
		case e.Version < last.Version:
			faults = append(faults, fmt.Sprintf("a watch goes back from %s to %s", wordsOf(last), wordsOf(e.Event)))
		case e.Version > last.Version && last.More:
			faults = append(faults, fmt.Sprintf("a watch yields a part of a batch: %s, and then %s", wordsOf(last), wordsOf(e.Event)))
		case e.Version == last.Version && e.Kind != kvraft.EventSync && !last.More && last.Kind != "":
			faults = append(faults, fmt.Sprintf("a watch yields %s after it was done with that version", wordsOf(e.Event)))
		}
		last = e.Event
	}
	return faults
}

// checkWhole compares a watch with what was written: between its first event and its
// last it has every change, as it was made.
func (w *watched) checkWhole(sets map[uint64][]record) (faults []string) {
	type change struct {
		version uint64
		key     string
	}
	yielded := map[change]bool{}
	snapshot := w.snapshot
	var first, last uint64
	for _, e := range w.events {
		if e.Kind == kvraft.EventSet && len(sets[e.Version]) > 0 && !wasSet(sets[e.Version], e.Key, string(e.Value), e.at) {
			faults = append(faults, fmt.Sprintf("a watch yields %s, and what was written is %+v", wordsOf(e.Event), sets[e.Version]))
		}
		if snapshot {
			snapshot = e.Kind != kvraft.EventSync
			first = e.Version
			continue
		}
		if first == 0 {
			first = e.Version
		}
		if e.Kind == kvraft.EventSet {
			yielded[change{e.Version, e.Key}] = true
		}
		if !e.More {
			last = e.Version
		}
	}
	for version, of := range sets {
		for _, c := range of {
			if version > first && version <= last && w.covers(c.key) && !yielded[change{version, c.key}] {
				faults = append(faults, fmt.Sprintf("a watch from version %d to %d leaves out %+v", first, last, c))
			}
		}
	}
	return faults
}

func wordsOf(e kvraft.Event) string {
	return fmt.Sprintf("%s %s=%s at version %d", e.Kind, e.Key, e.Value, e.Version)
}
