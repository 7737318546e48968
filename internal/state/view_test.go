package state

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kvraft/kvraft/internal/command"
)

func TestAViewDoesNotSeeWhatIsAppliedAfterIt(t *testing.T) {
	r := newReplica(t, 4, 2)
	r.entry(request(1, 0, set("a", "1"), set("b", "1")))
	v := r.View()
	hash, records := v.Hash(), remembered(v.Own())
	r.entry(request(2, 1, set("a", "2"), del("b"), set("c", "2")))
	fill(r, 20)
	wantItems(t, v, "a=1@1", "b=1@1")
	if v.Revision() != 1 || v.Len() != 2 || v.Bytes() != 4 || v.Own().Floor != 0 {
		t.Errorf("revision %d, %d keys, %d bytes, floor %d", v.Revision(), v.Len(), v.Bytes(), v.Own().Floor)
	}
	if got := remembered(v.Own()); !slices.Equal(got, records) || len(got) != 1 {
		t.Errorf("remembered %v, want %v", got, records)
	}
	if v.Hash() != hash {
		t.Error("the hash changed")
	}
}

func TestAViewReadsAKeyAndSaysWhetherItIsThere(t *testing.T) {
	r := newReplica(t, 4, 2)
	r.entry(request(1, 0, set("a", "1"), set("empty", "")))
	if it, ok := r.View().Get("a"); !ok || string(it.Value) != "1" || it.Version != 1 {
		t.Errorf("a = %v, %v", it, ok)
	}
	if it, ok := r.View().Get("empty"); !ok || len(it.Value) != 0 || it.Version != 1 {
		t.Errorf("empty = %v, %v", it, ok)
	}
	if it, ok := r.View().Get("b"); ok {
		t.Errorf("b = %v", it)
	}
}

func TestAscendStartsAtTheFirstKeyNotBelowFromAndStopsWhenTold(t *testing.T) {
	r := newReplica(t, 4, 2)
	r.entry(request(1, 0, set("a", "1"), set("b", "1"), set("b\x00", "1"), set("", "1")))
	v := r.View()
	for from, want := range map[string][]string{
		"":     {"=1@1", "a=1@1", "b=1@1", "b\x00=1@1"},
		"a":    {"a=1@1", "b=1@1", "b\x00=1@1"},
		"a!":   {"b=1@1", "b\x00=1@1"},
		"zoom": nil,
	} {
		if got := items(v, from); !slices.Equal(got, want) {
			t.Errorf("from %q: %q, want %q", from, got, want)
		}
	}
	var seen []string
	v.Ascend("", func(key string, _ Item) bool {
		seen = append(seen, key)
		return len(seen) < 2
	})
	if !slices.Equal(seen, []string{"", "a"}) {
		t.Errorf("saw %q", seen)
	}
}

func TestRememberedStopsWhenTold(t *testing.T) {
	r := newReplica(t, 8, 2)
	fill(r, 7)
	for n := 1; n <= 7; n++ {
		seen := 0
		r.View().Own().All(func(Remembered) bool {
			seen++
			return seen < n
		})
		if seen != n {
			t.Errorf("saw %d, want %d", seen, n)
		}
	}
}

func TestReplicasThatAppliedTheSameLogHaveTheSameHash(t *testing.T) {
	const window, chunk = 32, 8
	a, b := newReplica(t, window, chunk), newReplica(t, window, chunk)
	c := clients{rnd: rand.New(rand.NewPCG(1, 2)), marked: 200}
	for a.index < 500 {
		reqs := c.entry(a.index+1, a.View())
		a.entry(reqs...)
		b.entry(reqs...)
		if a.View().Hash() != b.View().Hash() {
			t.Fatalf("index %d: hashes differ", a.index)
		}
	}
}

func TestTheHashTellsStatesApart(t *testing.T) {
	load := func(revision, floor uint64, key, value string, version uint64, rec Remembered) View {
		l := newLoader(revision, floor, sizes(4, 2))
		if err := l.Add(key, []byte(value), version); err != nil {
			t.Fatal(err)
		}
		if err := l.Remember(rec); err != nil {
			t.Fatal(err)
		}
		return l.State().View()
	}
	rec := Remembered{ID: command.ID{1}, Index: 9, Result: ok(3)}
	id, index, result := rec, rec, rec
	id.ID = command.ID{2}
	index.Index = 8
	result.Result = conflict(3)
	callers := func(floor uint64, list ...Remembered) View {
		l := newLoader(5, 1, sizes(4, 2))
		l.SetCallersFloor(floor)
		for _, r := range list {
			if err := l.RememberCaller(r); err != nil {
				t.Fatal(err)
			}
		}
		return l.State().View()
	}
	digest := rec
	digest.Digest = command.Digest{1}
	seen := map[[32]byte]string{}
	for name, v := range map[string]View{
		"no caller":        callers(0),
		"floor of callers": callers(2),
		"a caller":         callers(0, rec),
		"digest":           callers(0, digest),
		"empty":            New().View(),
		"base":             load(5, 1, "k", "v", 2, rec),
		"revision":         load(6, 1, "k", "v", 2, rec),
		"floor":            load(5, 2, "k", "v", 2, rec),
		"key":              load(5, 1, "l", "v", 2, rec),
		"value":            load(5, 1, "k", "w", 2, rec),
		"boundary":         load(5, 1, "kv", "", 2, rec),
		"version":          load(5, 1, "k", "v", 3, rec),
		"request id":       load(5, 1, "k", "v", 2, id),
		"index":            load(5, 1, "k", "v", 2, index),
		"result":           load(5, 1, "k", "v", 2, result),
	} {
		if other, taken := seen[v.Hash()]; taken {
			t.Errorf("%s and %s have the same hash", name, other)
		}
		seen[v.Hash()] = name
	}
}

func TestReadersOfViewsNeedNoLockWhileEntriesAreApplied(t *testing.T) {
	r := newReplica(t, 64, 8)
	var published atomic.Pointer[View]
	publish := func() {
		v := r.View()
		published.Store(&v)
	}
	publish()

	var done atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			last := uint64(0)
			for finished := false; !finished; {
				finished = done.Load()
				v := *published.Load()
				if v.Revision() < last {
					t.Errorf("revision %d after %d", v.Revision(), last)
				}
				last = v.Revision()
				left, _ := v.Get("left")
				right, _ := v.Get("right")
				if left.Version != right.Version || string(left.Value) != string(right.Value) {
					t.Errorf("left is %v, right is %v in one view", left, right)
				}
				if first, second := v.Hash(), v.Hash(); first != second {
					t.Error("a view changed while it was read")
				}
			}
		})
	}

	rnd := rand.New(rand.NewPCG(3, 4))
	for id := uint64(0); r.index < 2000; id += 3 {
		key, value := fmt.Sprint("k", rnd.IntN(500)), fmt.Sprint(r.index)
		r.entry(
			request(id, r.index, set("left", value), set(key, value), set("right", value)),
			request(id+1, r.index, del(fmt.Sprint("k", rnd.IntN(500)))),
			request(id+2, r.index, check(key, 0), set(key, "")),
		)
		publish()
	}
	done.Store(true)
	readers.Wait()
}

func BenchmarkGet(b *testing.B) {
	s, keys := benchState(1e5)
	v := s.View()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := v.Get(keys[i%len(keys)]); !ok {
			b.Fatal("absent")
		}
		i++
	}
}

func BenchmarkView(b *testing.B) {
	s, _ := benchState(1e5)
	var published atomic.Pointer[View]
	b.ReportAllocs()
	for b.Loop() {
		v := s.View()
		published.Store(&v)
	}
}

// BenchmarkAscend goes through 100,000 keys.
func BenchmarkAscend(b *testing.B) {
	s, keys := benchState(1e5)
	v := s.View()
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		v.Ascend("", func(string, Item) bool { n++; return true })
		if n != len(keys) {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(keys)), "ns/key")
}
