package state

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/kvraft/kvraft/internal/command"
)

// replica is a state and the log index that it has applied.
type replica struct {
	*State
	index uint64
}

// sizes are windows for tests, of which the callers' is twice the stores'.
func sizes(window, chunk int) windows { return windows{own: window, callers: 2 * window, chunk: chunk} }

// newReplica returns a replica whose consistency is checked when the test ends.
func newReplica(t *testing.T, window, chunk int) *replica {
	r := &replica{State: newState(sizes(window, chunk))}
	t.Cleanup(func() { checkConsistency(t, r.State) })
	return r
}

// entry applies the next log entry.
func (r *replica) entry(reqs ...command.Request) []command.Result {
	r.index++
	return r.Apply(r.index, reqs)
}

func request(id, born uint64, ops ...command.Op) command.Request {
	req := command.Request{Born: born, Ops: ops}
	binary.BigEndian.PutUint64(req.ID[:], id)
	return req
}

func set(key, value string) command.Op {
	return command.Op{Kind: command.Set, Key: key, Value: []byte(value)}
}

func del(key string) command.Op {
	return command.Op{Kind: command.Delete, Key: key}
}

func check(key string, version uint64) command.Op {
	return command.Op{Kind: command.Check, Key: key, Version: version}
}

func ok(revision uint64) command.Result {
	return command.Result{Code: command.OK, Version: revision}
}

func conflict(version uint64) command.Result {
	return command.Result{Code: command.Conflict, Version: version}
}

func expired(index uint64) command.Result {
	return command.Result{Code: command.Expired, Version: index}
}

// plainly takes Created for OK: TestARequestTellsThatItMadeItsKey looks at the difference.
func plainly(results []command.Result) []command.Result {
	results = slices.Clone(results)
	for i := range results {
		if results[i].Code == command.Created {
			results[i].Code = command.OK
		}
	}
	return results
}

func wantResults(t *testing.T, got []command.Result, want ...command.Result) {
	t.Helper()
	got = plainly(got)
	if !slices.Equal(got, want) {
		t.Errorf("results %v, want %v", got, want)
	}
}

// wantItems takes the items in the form key=value@version.
func wantItems(t *testing.T, v View, want ...string) {
	t.Helper()
	if got := items(v, ""); !slices.Equal(got, want) {
		t.Errorf("items %q, want %q", got, want)
	}
}

func items(v View, from string) []string {
	var list []string
	v.Ascend(from, func(key string, it Item) bool {
		list = append(list, fmt.Sprintf("%s=%s@%d", key, it.Value, it.Version))
		return true
	})
	return list
}

func TestAStateKeepsNothingOfAnEntry(t *testing.T) {
	r := newReplica(t, 32, 8)
	r.entry(request(1, 0, set("there", "1")))
	entry := command.Append(nil, []command.Request{request(2, 1, set("a", "1"), set("there", "2"), note("name", "text")), request(3, 1, del("there"))})
	reqs, err := command.Decode(entry)
	if err != nil {
		t.Fatal(err)
	}
	r.entry(reqs...)
	for i := range entry {
		entry[i] = 0xff
	}
	wantItems(t, r.View(), "a=1@2")
	if got := r.View().Note("name"); got != "text" {
		t.Errorf("the note is %q", got)
	}
	if c := r.Changes(); len(c) != 3 || c[0].Key != "a" || c[1].Key != "there" || c[2].Key != "there" || c[0].Value != "1" {
		t.Errorf("changes %v", c)
	}
}

// checkConsistency holds what a state counts and looks up against what it holds.
func checkConsistency(t *testing.T, s *State) {
	t.Helper()
	v := s.View()
	keys, bytes := 0, int64(0)
	v.Ascend("", func(key string, it Item) bool {
		keys++
		bytes += int64(len(key) + len(it.Value))
		if it.Version == 0 || it.Version > v.Revision() {
			t.Errorf("%q has version %d at revision %d", key, it.Version, v.Revision())
		}
		if got, ok := v.Get(key); !ok || got.Version != it.Version {
			t.Errorf("Get %q = %v, %v, want %v", key, got, ok, it)
		}
		return true
	})
	if keys != v.Len() || bytes != v.Bytes() {
		t.Errorf("%d keys of %d bytes, counted as %d of %d", keys, bytes, v.Len(), v.Bytes())
	}
	checkRequests(t, v.Own(), &s.memory.own, v.Own().Floor)
	checkRequests(t, v.Callers(), &s.memory.callers, 0)
}

func checkRequests(t *testing.T, of Requests, r *recent, last uint64) {
	t.Helper()
	records := 0
	of.All(func(rec Remembered) bool {
		records++
		if rec.Index < last {
			t.Errorf("request %x at index %d stands after index %d", rec.ID, rec.Index, last)
		}
		last = rec.Index
		if got, ok := r.find(rec.ID); !ok || *got != rec {
			t.Errorf("request %x is found as %v, %v, want %v", rec.ID, got, ok, rec)
		}
		return true
	})
	if records != of.Len || records > r.window {
		t.Errorf("%d requests are remembered, counted as %d, window %d", records, of.Len, r.window)
	}
}

func TestEachEffectiveRequestOfAGroupGetsARevisionOfItsOwn(t *testing.T) {
	r := newReplica(t, 32, 8)
	wantResults(t, r.entry(
		request(1, 0, set("a", "1"), set("b", "1")),
		request(2, 0, set("b", "2")),
	), ok(1), ok(2))
	wantItems(t, r.View(), "a=1@1", "b=2@2")
}

func TestTheChangesAreWhatEachRequestLeaves(t *testing.T) {
	r := newReplica(t, 32, 8)
	first := request(1, 0, set("a", "1"), set("b", "1"))
	for i, step := range []struct {
		reqs []command.Request
		want []string
	}{
		{[]command.Request{first, request(2, 0, set("b", "2")), request(3, 0, del("a"))}, []string{"a=1@1", "b=1@1", "b=2@2", "-a@3"}},
		{[]command.Request{first, request(4, 0, del("a")), request(5, 0, check("b", 9), set("b", "3"))}, nil}, // a copy, no effect, a conflict
		{[]command.Request{request(6, 0, set("c", "1"), set("d", "1"), set("c", "2"), del("b"))}, []string{"d=1@4", "c=2@4", "-b@4"}},
		{[]command.Request{request(7, 0, set("e", "1"), del("e"))}, nil}, // and yet a version of its own
		{[]command.Request{request(8, 0, del("c"), set("c", "3")), request(9, 0, set("d", "2"), del("d"), note("n", "1"))}, []string{"c=3@6", "-d@7"}},
		{[]command.Request{request(10, 0, set("f", "1"), del("f"), set("f", "2"), set("c", "4"))}, []string{"f=2@8", "c=4@8"}},
		{nil, nil},
	} {
		r.entry(step.reqs...)
		var got []string
		for _, c := range r.Changes() {
			if c.Deleted {
				got = append(got, fmt.Sprintf("-%s@%d", c.Key, c.Version))
			} else {
				got = append(got, fmt.Sprintf("%s=%s@%d", c.Key, c.Value, c.Version))
			}
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("step %d: changes %q, want %q", i, got, step.want)
		}
	}
}

// Whoever begins with a view, and follows the changes from there, has the state; but for those to the base.
func TestTheChangesAddUpToTheState(t *testing.T) {
	for _, legacy := range []uint64{0, 20} {
		r := newReplica(t, 32, 8)
		c := clients{rnd: rand.New(rand.NewPCG(11, legacy))}
		var last uint64
		follows := map[string]Item{}
		for r.index < 400 {
			base := r.Base()
			if r.index < legacy {
				r.index++
				r.ApplyLegacy(set(fmt.Sprint("k", c.rnd.IntN(9)), fmt.Sprint(r.index)))
			} else {
				r.entry(c.entry(r.index+1, r.View())...)
			}
			if last = max(last, r.Base()); r.Base() != base { // begin with a view
				follows = map[string]Item{}
				r.View().Ascend("", func(key string, it Item) bool { follows[key] = it; return true })
			}
			for _, c := range r.Changes() {
				if c.Version < last || c.Version > r.revision || c.Version <= r.Base() {
					t.Fatalf("a change of version %d after %d, at revision %d", c.Version, last, r.revision)
				}
				last = c.Version
				if follows[c.Key] = c.Item; c.Deleted {
					delete(follows, c.Key)
				}
			}
			got := map[string]Item{}
			r.View().Ascend("", func(key string, it Item) bool { got[key] = it; return true })
			if r.index > legacy && !reflect.DeepEqual(got, follows) {
				t.Fatalf("at index %d the changes add up to %v, want %v", r.index, follows, got)
			}
		}
		if want := min(legacy, 2); r.Base() != want {
			t.Errorf("base %d, want %d", r.Base(), want)
		}
	}
}

func note(name, text string) command.Op {
	return command.Op{Kind: command.Note, Key: name, Value: []byte(text)}
}

func TestANoteIsNoKeyAndMovesNoRevision(t *testing.T) {
	r := newReplica(t, Window, chunkSize)
	wantResults(t, r.entry(request(1, 0, set("k", "v"))), ok(1))
	before := r.View()
	wantResults(t, r.entry(request(2, 0, note("b", "2"), note("a", "1"))), ok(1))
	v := r.View()
	wantItems(t, v, "k=v@1")
	if v.NotesLen() != 2 || v.Note("a") != "1" || v.Note("b") != "2" || v.Note("k") != "" {
		t.Errorf("notes %v", v.notes)
	}
	wantResults(t, r.entry(request(3, 0, note("a", ""), note("c", ""))), ok(1))
	if after := r.View(); after.NotesLen() != 1 || after.Note("a") != "" || v.Note("a") != "1" || before.NotesLen() != 0 {
		t.Errorf("notes %v; the views before it: %v, %v", after.notes, v.notes, before.notes)
	}
	if before.Hash() == v.Hash() {
		t.Error("the hash does not tell notes apart")
	}
	reload(t, v, Window, chunkSize)
}

func TestARequestWithoutEffectLeavesTheRevision(t *testing.T) {
	r := newReplica(t, 32, 8)
	wantResults(t, r.entry(
		request(1, 0, del("a")),
		request(2, 0),
		request(3, 0, set("a", "1")),
		request(4, 0, check("a", 1)),
		request(5, 0, set("a", "1")),
		request(6, 0, del("a"), del("a")),
	), ok(0), ok(0), ok(1), ok(1), ok(2), ok(3))
	wantItems(t, r.View())
}

func TestAnEntryWithoutRequestsChangesNothing(t *testing.T) {
	r := newReplica(t, 32, 8)
	r.entry(request(1, 0, set("a", "1")))
	before := r.View().Hash()
	wantResults(t, r.entry())
	if r.View().Hash() != before {
		t.Error("the state changed")
	}
}

func TestSetsAndDeletesOfARequestApplyInOrder(t *testing.T) {
	r := newReplica(t, 32, 8)
	wantResults(t, r.entry(
		request(1, 0, set("a", "1"), set("a", "2"), set("b", "1"), del("b")),
		request(2, 0, del("a"), set("a", "3")),
	), ok(1), ok(2))
	wantItems(t, r.View(), "a=3@2")
}

func TestAFailedCheckRefusesTheWholeRequest(t *testing.T) {
	r := newReplica(t, 32, 8)
	r.entry(request(1, 0, set("a", "1")), request(2, 0, set("b", "1")))
	wantResults(t, r.entry(
		request(3, 0, set("c", "1"), check("a", 1), check("b", 1), check("a", 0), del("a")),
		request(4, 0, set("c", "1"), check("c", 9)),
	), conflict(2), conflict(0))
	wantItems(t, r.View(), "a=1@1", "b=1@2")
	if got := r.View().Revision(); got != 2 {
		t.Errorf("revision %d, want 2", got)
	}
}

func TestChecksSeeTheStateBeforeTheirRequestWhereverTheyStand(t *testing.T) {
	r := newReplica(t, 32, 8)
	wantResults(t, r.entry(
		request(1, 0, set("a", "1"), check("a", 0)),
		request(2, 0, set("a", "2"), del("a"), check("a", 1)),
	), ok(1), ok(2))
	wantItems(t, r.View())
}

func TestARequestOfAGroupSeesThoseBeforeIt(t *testing.T) {
	r := newReplica(t, 32, 8)
	wantResults(t, r.entry(
		request(1, 0, check("a", 0), set("a", "1")),
		request(2, 0, check("a", 0), set("a", "2")),
		request(3, 0, check("a", 1), set("a", "3")),
	), ok(1), conflict(1), ok(2))
	wantItems(t, r.View(), "a=3@2")
}

// model does what the rules say in the plainest way, and never forgets a request: forgotten only says how many of the oldest
// a state has to forget.
type model struct {
	items        map[string]Item
	revision     uint64
	own, callers *modelTable
	seen         map[string]int // how often each case came up
}

type modelTable struct {
	window, chunk int
	memory        []Remembered
	position      map[command.ID]int // in memory
	forgotten     int
	raised        uint64 // the floor is not below it
}

func newModel(window, chunk int) *model {
	table := func(window int) *modelTable {
		return &modelTable{window: window, chunk: chunk, position: map[command.ID]int{}}
	}
	w := sizes(window, chunk)
	return &model{items: map[string]Item{}, own: table(w.own), callers: table(w.callers), seen: map[string]int{}}
}

func (m *modelTable) floor() uint64 {
	if m.forgotten == 0 {
		return m.raised
	}
	return max(m.raised, m.memory[m.forgotten-1].Index)
}

func (m *model) apply(t *testing.T, index uint64, reqs []command.Request) []command.Result {
	results := []command.Result{}
	for _, req := range reqs {
		of, who := m.own, "own"
		if req.Origin == command.Caller {
			of, who = m.callers, "a caller's"
		}
		at, applied := of.position[req.ID]
		switch {
		case applied && at >= of.forgotten && of.memory[at].Digest != req.Digest:
			m.seen["reused"]++
			results = append(results, command.Result{Code: command.Reused, Version: index})
		case applied && at >= of.forgotten:
			m.seen[fmt.Sprintf("%s repeated code %d", who, of.memory[at].Result.Code)]++
			results = append(results, of.memory[at].Result)
		case req.Born < of.floor():
			m.seen[fmt.Sprintf("%s expired, was applied: %v", who, applied)]++
			results = append(results, expired(index))
		case applied:
			t.Fatalf("the rules let request %x of index %d take effect again at %d", req.ID, of.memory[at].Index, index)
		default:
			result := m.execute(req.Ops)
			m.seen[fmt.Sprintf("%s new code %d", who, result.Code)]++
			of.position[req.ID] = len(of.memory)
			of.memory = append(of.memory, Remembered{ID: req.ID, Digest: req.Digest, Index: index, Result: result})
			results = append(results, result)
			if req.Origin == command.Unmarked {
				m.callers.raised = index
			}
		}
	}
	m.own.forget(m, "own")
	m.callers.forget(m, "a caller's")
	return results
}

func (m *modelTable) forget(all *model, who string) {
	for len(m.memory)-m.forgotten > m.window {
		m.forgotten += m.chunk
		if m.forgotten < len(m.memory) && m.memory[m.forgotten].Index == m.floor() {
			all.seen[who+" forgot part of an entry"]++
		}
	}
}

func (m *model) execute(ops []command.Op) command.Result {
	after, effective, changes, made := maps.Clone(m.items), false, 0, false
	for _, op := range ops {
		_, there := after[op.Key]
		switch op.Kind {
		case command.Check:
			if now := m.items[op.Key].Version; now != op.Version {
				return conflict(now)
			}
		case command.Set:
			after[op.Key] = Item{Value: string(op.Value), Version: m.revision + 1}
			effective, changes, made = true, changes+1, !there
		case command.Delete:
			delete(after, op.Key)
			effective = effective || there
			if there {
				changes++
			}
		}
	}
	if effective {
		m.items = after
		m.revision++
	}
	if changes == 1 && made {
		return command.Result{Code: command.Created, Version: m.revision}
	}
	return ok(m.revision)
}

// wantState compares all that a view shows with the model.
func (m *model) wantState(t *testing.T, v View) {
	t.Helper()
	got := map[string]Item{}
	var keys []string
	v.Ascend("", func(key string, it Item) bool {
		got[key] = it
		keys = append(keys, key)
		return true
	})
	if !reflect.DeepEqual(got, m.items) || !slices.IsSorted(keys) {
		t.Fatalf("items %v in order %q, want %v", got, keys, m.items)
	}
	if v.Revision() != m.revision {
		t.Fatalf("revision %d, want %d", v.Revision(), m.revision)
	}
	m.own.want(t, v.Own())
	m.callers.want(t, v.Callers())
}

func (m *modelTable) want(t *testing.T, of Requests) {
	t.Helper()
	if of.Floor != m.floor() {
		t.Fatalf("floor %d, want %d", of.Floor, m.floor())
	}
	if got := remembered(of); !slices.Equal(got, m.memory[m.forgotten:]) {
		t.Fatalf("remembered %v, want %v", got, m.memory[m.forgotten:])
	}
}

func remembered(of Requests) []Remembered {
	list := []Remembered{}
	of.All(func(rec Remembered) bool {
		list = append(list, rec)
		return true
	})
	return list
}

// clients makes log entries out of new requests, some of them late, and copies of old ones, of which some are none.
type clients struct {
	rnd    *rand.Rand
	marked uint64 // requests are Unmarked up to this index, and a few of them after it
	sent   []command.Request
}

func (c *clients) entry(index uint64, v View) []command.Request {
	n := c.rnd.IntN(6)
	if c.rnd.IntN(100) == 0 {
		n = 50 // more than the window holds
	}
	reqs := []command.Request{}
	for range n {
		if len(c.sent) == 0 || c.rnd.IntN(3) > 0 {
			c.sent = append(c.sent, c.request(index, v))
			reqs = append(reqs, c.sent[len(c.sent)-1])
			continue
		}
		age := c.rnd.IntN(min(len(c.sent), 160))
		req := c.sent[len(c.sent)-1-age]
		if req.Origin == command.Caller && c.rnd.IntN(10) == 0 {
			req.Digest[0]++
		}
		reqs = append(reqs, req)
	}
	return reqs
}

func (c *clients) request(index uint64, v View) command.Request {
	born := index - 1 - min(index-1, c.rnd.Uint64N(12))
	req := request(uint64(len(c.sent)), born)
	if index > c.marked && c.rnd.IntN(500) > 0 {
		req.Origin = command.Own + command.Origin(c.rnd.IntN(2))
	}
	if req.Origin == command.Caller {
		req.Digest = command.Digest{7: byte(len(c.sent))}
	}
	for range c.rnd.IntN(4) {
		key := fmt.Sprint("k", c.rnd.IntN(150))
		switch c.rnd.IntN(5) {
		case 0:
			req.Ops = append(req.Ops, del(key))
		case 1:
			now, _ := v.Get(key)
			req.Ops = append(req.Ops, check(key, now.Version+c.rnd.Uint64N(5)/4))
		default:
			req.Ops = append(req.Ops, set(key, fmt.Sprint(c.rnd.Uint32N(1000))))
		}
	}
	return req
}

func TestAStateBehavesLikeTheModelThroughRepetitionsAndSnapshots(t *testing.T) {
	const window, chunk = 32, 8
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			c := clients{rnd: rand.New(rand.NewPCG(seed, 0)), marked: 150}
			r, m := newReplica(t, window, chunk), newModel(window, chunk)
			type kept struct {
				view View
				hash [32]byte
			}
			var views []kept
			for r.index < 1500 {
				reqs := c.entry(r.index+1, r.View())
				got := r.entry(reqs...)
				if want := m.apply(t, r.index, reqs); !slices.Equal(got, want) {
					t.Fatalf("index %d: results %v, want %v", r.index, got, want)
				}
				switch c.rnd.IntN(20) {
				case 0:
					m.wantState(t, r.View())
					views = append(views, kept{r.View(), r.View().Hash()})
				case 1:
					r.State = reload(t, r.View(), window, chunk)
				}
			}
			m.wantState(t, r.View())
			for _, k := range views {
				if k.view.Hash() != k.hash {
					t.Errorf("the view of revision %d changed after it was taken", k.view.Revision())
				}
			}
			for _, what := range []string{
				"own new code 0", "own new code 1", "own repeated code 0", "own repeated code 1",
				"own expired, was applied: true", "own expired, was applied: false", "own forgot part of an entry",
				"a caller's new code 0", "a caller's new code 1", "a caller's repeated code 0", "a caller's repeated code 1",
				"a caller's expired, was applied: true", "a caller's expired, was applied: false", "a caller's forgot part of an entry",
				"reused",
			} {
				if m.seen[what] == 0 {
					t.Errorf("never happened: %s; seen %v", what, m.seen)
				}
			}
		})
	}
}

// benchmarkApply applies groups of n sets to a state of 1e5 keys and takes a view after each, as a store does.
func benchmarkApply(b *testing.B, n int) {
	s, keys := benchState(1e5)
	index, id := uint64(1e5), uint64(1e6)
	rnd := rand.New(rand.NewPCG(1, 1))
	reqs := make([]command.Request, n)
	value := make([]byte, 100)
	var published atomic.Pointer[View]
	b.ReportAllocs()
	for b.Loop() {
		for i := range reqs {
			id++
			reqs[i] = request(id, index, command.Op{Kind: command.Set, Key: keys[rnd.IntN(len(keys))], Value: value})
		}
		index++
		s.Apply(index, reqs)
		v := s.View()
		published.Store(&v)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/request")
}

// benchState returns a state of n keys and the keys.
func benchState(n int) (*State, []string) {
	s := New()
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("bench/key/%08d", i*7919%n)
		s.Apply(uint64(i+1), []command.Request{request(uint64(i), uint64(i), set(keys[i], "value"))})
	}
	return s, keys
}

func BenchmarkApply1(b *testing.B)   { benchmarkApply(b, 1) }
func BenchmarkApply256(b *testing.B) { benchmarkApply(b, 256) }

func TestARequestTellsThatItMadeItsKey(t *testing.T) {
	r := newReplica(t, 32, 8)
	r.entry(request(1, 0, set("there", "1")))
	for i, c := range []struct {
		ops  []command.Op
		made bool
	}{
		{[]command.Op{set("a", "1")}, true},
		{[]command.Op{set("a", "2")}, false},
		{[]command.Op{check("b", 0), set("b", "1")}, true},
		{[]command.Op{check("b", 0), set("b", "1")}, false}, // a conflict
		{[]command.Op{del("a")}, false},
		{[]command.Op{set("a", "3")}, true},
		{[]command.Op{del("absent")}, false},
		{[]command.Op{del("absent"), set("c", "1")}, true},
		{[]command.Op{set("d", "1"), del("d")}, false},
		{[]command.Op{set("d", "1"), set("d", "2")}, false}, // not one write
		{[]command.Op{set("e", "1"), set("f", "1")}, false},
		{[]command.Op{set("g", "1"), set("there", "2")}, false},
		{[]command.Op{del("there"), set("there", "3")}, false},
		{[]command.Op{note("n", "1")}, false},
	} {
		req := request(uint64(10+i), 1, c.ops...)
		first := r.entry(req)[0]
		if made := first.Code == command.Created; made != c.made {
			t.Errorf("%d: %v, made: %v", i, first, c.made)
		}
		if again := r.entry(req)[0]; again != first {
			t.Errorf("%d: a copy is answered %v, the first %v", i, again, first)
		}
	}
}
