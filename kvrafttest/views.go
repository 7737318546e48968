package kvrafttest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/kvraft/kvraft"
)

// Viewer is what a [History] records views of. A [kvraft.Store] is one, and a [Client].
type Viewer interface {
	View(ctx context.Context, opts ...kvraft.ReadOption) (*kvraft.View, error)
}

// viewed is what was read of a view.
type viewed struct {
	version  uint64
	keys     map[string]record
	from, to int64
}

// View records a linearizable view and what it has under the keys: as one read of all of
// them.
func (h *History) View(ctx context.Context, kv Viewer, keys ...string) (*kvraft.View, error) {
	v := viewed{keys: make(map[string]record), from: h.tick()}
	view, err := kv.View(ctx)
	if err != nil {
		return view, err
	}
	v.version = view.Version()
	var parts []record
	for _, key := range keys {
		entry, _ := view.Get(key)
		r := record{kind: get, key: key, value: string(entry.Value), version: entry.Version, from: v.from}
		v.keys[key] = r
		parts = append(parts, r)
	}
	h.add(parts...)
	v.to = h.tick()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.views = append(h.views, v)
	return view, nil
}

// checkViews makes sure that each view is all that was written up to its version, and
// nothing else, and not older than what had been seen when it began.
func checkViews(calls []record, views []viewed) (faults []string) {
	past := pastOf(calls, views)
	written, deleted := newestSets(calls), map[string]bool{}
	for _, c := range calls {
		if c.kind == remove {
			deleted[c.key] = true
		}
	}
	doubtful := doubtfulBatches(calls)
	for _, v := range views {
		if seen := past.before(v.from); v.version < seen {
			faults = append(faults, fmt.Sprintf("a view of version %d is older than version %d, which was there before it began", v.version, seen))
		}
		for key, r := range v.keys {
			if r.version > v.version {
				faults = append(faults, fmt.Sprintf("a view of version %d has %+v", v.version, r))
			}
			at := sort.Search(len(written[key]), func(i int) bool { return written[key][i] > v.version })
			if at > 0 && r.version < written[key][at-1] && (r.version > 0 || !deleted[key]) {
				faults = append(faults, fmt.Sprintf("a view of version %d has %+v, and not what was written as version %d", v.version, r, written[key][at-1]))
			}
			for _, other := range doubtful[r.key+"="+r.value] {
				if o, read := v.keys[other.key]; read && o.version < r.version && (o.version > 0 || !deleted[other.key]) {
					faults = append(faults, fmt.Sprintf("a view of version %d has a part of a batch: %+v, and not %+v", v.version, r, other))
				}
			}
		}
	}
	return faults
}

// newestSets are the versions that the sets of each key got, in order.
func newestSets(calls []record) map[string][]uint64 {
	versions := map[string][]uint64{}
	for _, c := range calls {
		if c.kind == set && c.outcome == done {
			versions[c.key] = append(versions[c.key], c.version)
		}
	}
	for _, of := range versions {
		slices.Sort(of)
	}
	return versions
}

// doubtfulBatches are the sets of each batch of unknown outcome, under each of its keys
// and values; but not those that another write may have made as well.
func doubtfulBatches(calls []record) map[string][]record {
	batches, writers := map[int][]record{}, map[string]int{}
	for _, c := range calls {
		if c.kind != set {
			continue
		}
		writers[c.key+"="+c.value]++
		if c.batch > 0 && c.outcome == unknown {
			batches[c.batch] = append(batches[c.batch], c)
		}
	}
	doubtful := map[string][]record{}
	for _, parts := range batches {
		for _, c := range parts {
			if name := c.key + "=" + c.value; writers[name] == 1 {
				doubtful[name] = parts
			}
		}
	}
	return doubtful
}

// past is what had been seen at a time.
type past struct {
	at     []int64  // in order
	newest []uint64 // until then
}

// pastOf goes by the ends of calls: whoever has got a version has shown that the state
// had it.
func pastOf(calls []record, views []viewed) past {
	type end struct {
		at      int64
		version uint64
	}
	var ends []end
	for _, c := range calls {
		if c.outcome == done && c.to != math.MaxInt64 {
			ends = append(ends, end{c.to, c.version})
		}
	}
	for _, v := range views {
		ends = append(ends, end{v.to, v.version})
	}
	slices.SortFunc(ends, func(a, b end) int { return int(a.at - b.at) })
	p, newest := past{}, uint64(0)
	for _, e := range ends {
		newest = max(newest, e.version)
		p.at, p.newest = append(p.at, e.at), append(p.newest, newest)
	}
	return p
}

// before is the newest version that had been seen before a time.
func (p past) before(at int64) uint64 {
	i := sort.Search(len(p.at), func(i int) bool { return p.at[i] >= at })
	if i == 0 {
		return 0
	}
	return p.newest[i-1]
}
