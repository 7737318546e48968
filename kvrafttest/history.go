package kvrafttest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/kvraft/kvraft"
)

// KV is what a [History] records calls of. A [kvraft.Store] is one.
type KV interface {
	Get(ctx context.Context, key string, opts ...kvraft.ReadOption) (kvraft.Entry, error)
	Set(ctx context.Context, key string, value []byte, opts ...kvraft.WriteOption) (uint64, error)
	Delete(ctx context.Context, key string, opts ...kvraft.WriteOption) (uint64, error)
}

// History records what clients of a cluster saw, for Check to judge whether some
// order of the calls, each taking effect at one moment between its begin and its
// end, explains it. It may be used from many goroutines.
type History struct {
	mu    sync.Mutex
	clock int64    // guarded by mu: numbers begins and ends
	calls []record // guarded by mu

	batches int        // guarded by mu: numbers them
	views   []viewed   // guarded by mu
	watches []*watched // guarded by mu
}

type kind int

const (
	get kind = iota
	set
	remove
)

// record is one call.
type record struct {
	kind     kind
	key      string
	value    string // set: what was written; get: what was read
	version  uint64 // what the call returned; 0: absent, or not known
	guarded  bool   // by IfVersion(expect)
	expect   uint64
	outcome  outcome
	batch    int   // of which it is a part; 0: it is a call of its own
	from, to int64 // math.MaxInt64: it may take effect at any time from from on
}

type outcome int

const (
	done     outcome = iota
	conflict         // the condition did not hold
	unknown          // it may or may not take effect
)

// NewHistory returns an empty history.
func NewHistory() *History { return new(History) }

// Len returns how many calls with a known or unknown effect were recorded, each key of a
// Batch or a View as one; reads that failed and writes that were not applied say nothing
// and are not counted.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.calls)
}

// Get records a linearizable read.
func (h *History) Get(ctx context.Context, kv KV, key string) (kvraft.Entry, error) {
	r := record{kind: get, key: key, from: h.tick()}
	entry, err := kv.Get(ctx, key)
	if err != nil && !errors.Is(err, kvraft.ErrNotFound) {
		return entry, err
	}
	r.value, r.version = string(entry.Value), entry.Version
	h.add(r)
	return entry, err
}

// Set records a write.
func (h *History) Set(ctx context.Context, kv KV, key, value string) (uint64, error) {
	r := record{kind: set, key: key, value: value, from: h.tick()}
	version, err := kv.Set(ctx, key, []byte(value))
	h.wrote(r, version, err)
	return version, err
}

// SetIf records a write under the condition IfVersion(expect).
func (h *History) SetIf(ctx context.Context, kv KV, key, value string, expect uint64) (uint64, error) {
	r := record{kind: set, key: key, value: value, guarded: true, expect: expect, from: h.tick()}
	version, err := kv.Set(ctx, key, []byte(value), kvraft.IfVersion(expect))
	h.wrote(r, version, err)
	return version, err
}

// Delete records a delete.
func (h *History) Delete(ctx context.Context, kv KV, key string) (uint64, error) {
	r := record{kind: remove, key: key, from: h.tick()}
	version, err := kv.Delete(ctx, key)
	h.wrote(r, version, err)
	return version, err
}

// Batcher is what a [History] records batches of. A [kvraft.Store] is one, and a [Client].
type Batcher interface {
	Batch(ctx context.Context, ops ...kvraft.Op) (uint64, error)
}

// Batch records a batch that sets keys and deletes others.
func (h *History) Batch(ctx context.Context, kv Batcher, sets map[string]string, deletes ...string) (uint64, error) {
	h.mu.Lock()
	h.batches++
	batch := h.batches
	h.mu.Unlock()
	from := h.tick()
	var ops []kvraft.Op
	var parts []record
	for _, key := range slices.Sorted(maps.Keys(sets)) {
		ops = append(ops, kvraft.SetOp(key, []byte(sets[key])))
		parts = append(parts, record{kind: set, key: key, value: sets[key], batch: batch, from: from})
	}
	for _, key := range deletes {
		ops = append(ops, kvraft.DeleteOp(key))
		parts = append(parts, record{kind: remove, key: key, batch: batch, from: from})
	}
	version, err := kv.Batch(ctx, ops...)
	for i := range parts {
		if !parts[i].end(version, err) {
			return version, err
		}
	}
	h.add(parts...)
	return version, err
}

func (h *History) wrote(r record, version uint64, err error) {
	if r.end(version, err) {
		h.add(r)
	}
}

// end notes how a write ended, and reports whether it may have had effect, or a conflict.
func (r *record) end(version uint64, err error) bool {
	switch {
	case err == nil:
		r.version = version
	case errors.Is(err, kvraft.ErrConflict):
		r.outcome = conflict
	case errors.Is(err, kvraft.ErrUnknown):
		r.outcome = unknown
	default:
		return false // not applied: as if it had never been
	}
	return true
}

// tick numbers the begins and ends of calls. A clock would do, but virtual time
// stands still while calls run, and would call too many of them concurrent.
func (h *History) tick() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	return h.clock
}

// add records a call, or what belongs to one.
func (h *History) add(parts ...record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	for _, r := range parts {
		r.to = h.clock
		if r.outcome == unknown {
			r.to = math.MaxInt64
		}
		h.calls = append(h.calls, r)
	}
}

// Check fails the test unless the history is linearizable. It checks twice: in
// one pass over the versions that calls returned, which is exact about order and
// copes with millions of calls, and finds a Batch that was seen in part and a Watch that
// left out a change; and key by key with the Porcupine checker, which knows nothing of
// versions. Porcupine has limit of real time for the whole; if
// it cannot decide, that is a failure: use more keys, or fewer clients on each.
// Call it outside of a synctest bubble, where time is real.
func (h *History) Check(tb testing.TB, limit time.Duration) {
	tb.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, fault := range slices.Concat(checkVersions(h.calls), checkViews(h.calls, h.views), checkWatches(h.calls, h.watches)) {
		tb.Errorf("not linearizable: %s", fault)
	}
	if result := porcupine.CheckOperationsTimeout(model, operations(h.calls), limit); result != porcupine.Ok {
		tb.Errorf("Porcupine finds the history of %d calls %s", len(h.calls), result)
	}
}

// checkVersions walks through begins and ends in their order. When a call begins,
// everything that had ended before bounds from below what it may return.
func checkVersions(calls []record) []string {
	type moment struct {
		at    int64
		call  int
		begin bool
	}
	var moments []moment
	for i, c := range calls {
		if c.outcome == done {
			moments = append(moments, moment{c.from, i, true}, moment{c.to, i, false})
		}
	}
	slices.SortFunc(moments, func(a, b moment) int { return cmp.Compare(a.at, b.at) })

	var faults []string
	values := setsByVersion(calls)
	ended := map[string]uint64{} // the newest version of each key that had been seen or written
	newest := uint64(0)          // likewise of all writes
	atBegin := make([]uint64, len(calls))
	deleted := map[string]bool{} // keys that somebody has tried to delete
	for _, c := range calls {
		if c.kind == remove {
			deleted[c.key] = true
		}
	}
	for version, sets := range values {
		for _, c := range sets[1:] {
			if c.batch == 0 || c.batch != sets[0].batch {
				faults = append(faults, fmt.Sprintf("two writes got version %d: %+v and %+v", version, sets[0], c))
			}
		}
	}
	faults = append(faults, checkConditions(calls)...)
	for _, m := range moments {
		c := calls[m.call]
		switch {
		case m.begin && c.kind == get:
			atBegin[m.call] = ended[c.key]
		case m.begin:
			atBegin[m.call] = newest
		case c.kind == get && c.version == 0:
			if atBegin[m.call] > 0 && !deleted[c.key] {
				faults = append(faults, fmt.Sprintf("%+v found nothing after version %d was there", c, atBegin[m.call]))
			}
		case c.kind == get:
			if c.version < atBegin[m.call] {
				faults = append(faults, fmt.Sprintf("%+v is older than version %d, which was there before it began", c, atBegin[m.call]))
			}
			if sets := values[c.version]; len(sets) > 0 && !wasSet(sets, c.key, c.value, c.to) {
				faults = append(faults, fmt.Sprintf("%+v did not read what was written: %+v", c, sets))
			}
			ended[c.key] = max(ended[c.key], c.version)
		case c.kind == set:
			if c.version <= atBegin[m.call] {
				faults = append(faults, fmt.Sprintf("%+v got a version no newer than %d, which had ended before it began", c, atBegin[m.call]))
			}
			ended[c.key] = max(ended[c.key], c.version)
			newest = max(newest, c.version)
		case c.kind == remove:
			// What was there before is older than the version it returned.
			if c.version < atBegin[m.call] {
				faults = append(faults, fmt.Sprintf("%+v returned a version older than %d, which had ended before it began", c, atBegin[m.call]))
			}
			ended[c.key] = max(ended[c.key], c.version)
			newest = max(newest, c.version)
		}
	}
	return faults
}

// setsByVersion are the sets by the version that they got: several, if they are a batch.
func setsByVersion(calls []record) map[uint64][]record {
	sets := map[uint64][]record{}
	for _, c := range calls {
		if c.kind == set && c.outcome == done {
			sets[c.version] = append(sets[c.version], c)
		}
	}
	return sets
}

// wasSet reports whether one of the sets gave a key its value, and began before a time.
func wasSet(sets []record, key, value string, before int64) bool {
	return slices.ContainsFunc(sets, func(w record) bool { return w.key == key && w.value == value && w.from < before })
}

// checkConditions makes sure that no write came between a write under a condition
// and the version that it was made for.
func checkConditions(calls []record) []string {
	versions := map[string][]uint64{} // of the sets of a key
	for _, c := range calls {
		if c.kind == set && c.outcome == done {
			versions[c.key] = append(versions[c.key], c.version)
		}
	}
	for _, of := range versions {
		slices.Sort(of)
	}
	var faults []string
	for _, c := range calls {
		if c.kind != set || c.outcome != done || !c.guarded || c.expect == 0 {
			continue
		}
		of := versions[c.key]
		at, _ := slices.BinarySearch(of, c.version)
		if at > 0 && of[at-1] > c.expect {
			faults = append(faults, fmt.Sprintf("%+v was made for version %d, but version %d came between", c, c.expect, of[at-1]))
		}
	}
	return faults
}

// state is a key in the model: a register that may be absent. Versions do not
// appear in it, but for telling whether a condition could hold.
type state struct {
	value   string
	present bool
}

// model is a single key.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(record).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return state{} },
	Step: func(before, _, output any) (bool, any) {
		now, c := before.(state), output.(record)
		switch {
		case c.kind == get:
			return now == state{c.value, c.version != 0}, now
		case c.outcome == conflict:
			return true, now
		case c.kind == remove:
			return true, state{}
		case c.guarded && c.outcome == done:
			return now.present == (c.expect != 0), state{c.value, true}
		default:
			return true, state{c.value, true}
		}
	},
}

// operations gives each call of unknown outcome a client of its own, as its
// client went on to other things while it may still take effect.
func operations(calls []record) []porcupine.Operation {
	ops := make([]porcupine.Operation, len(calls))
	for i, c := range calls {
		ops[i] = porcupine.Operation{ClientId: i, Input: c, Output: c, Call: c.from, Return: c.to}
	}
	return ops
}
