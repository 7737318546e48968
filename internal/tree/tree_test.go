package tree

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// model is what a map should hold.
type model map[string]Item

func (m model) keys() []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// wantContents compares all that can be asked for.
func wantContents(t *testing.T, c contents, want model) {
	t.Helper()
	keys, bytes := want.keys(), 0
	i := 0
	c.Ascend("", func(key string, it Item) bool {
		if i == len(keys) || key != keys[i] || it != want[key] {
			t.Fatalf("key %d is %q: %v, want %q of %d", i, key, it, keys[min(i, len(keys)):], len(keys))
		}
		i++
		bytes += len(key) + len(it.Value)
		return true
	})
	if i != len(keys) || c.Len() != len(keys) || c.Bytes() != int64(bytes) {
		t.Fatalf("%d keys, and %d and %d bytes told, want %d and %d", i, c.Len(), c.Bytes(), len(keys), bytes)
	}
	for key, it := range want {
		if got, ok := c.Get(key); !ok || got != it {
			t.Fatalf("%q is %v, %v, want %v", key, got, ok, it)
		}
	}
}

// wantRules looks at what the nodes of a tree obey.
func wantRules(t *testing.T, m *Map) {
	t.Helper()
	depth := -1
	var look func(n *node, within fences, at int)
	look = func(n *node, within fences, at int) {
		if n.skip > shared(within.low, within.high) {
			t.Fatalf("%d bytes are skipped between %q and %q", n.skip, within.low, within.high)
		}
		if n.n >= fanout || n.n == 0 && at > 0 {
			t.Fatalf("a node has %d entries", n.n)
		}
		for i := range n.n {
			key := n.key(i)
			if key < within.low || within.high != "" && key >= within.high || i > 0 && key <= n.key(i-1) {
				t.Fatalf("key %q after %q between %q and %q", key, n.key(max(i-1, 0)), within.low, within.high)
			}
			if n.heads[i] != head(key, n.skip) {
				t.Fatalf("head %x of %q, of which %d are skipped", n.heads[i], key, n.skip)
			}
		}
		for _, text := range n.entries[n.n:] {
			if text != "" {
				t.Fatalf("a text behind the last is kept: %q", text)
			}
		}
		if n.epoch > m.epoch {
			t.Fatalf("a node of epoch %d in a map of epoch %d", n.epoch, m.epoch)
		}
		if n.isLeaf() {
			if depth < 0 {
				depth = at
			}
			if depth != at {
				t.Fatalf("leaves at depths %d and %d", depth, at)
			}
			return
		}
		if len(n.children) != n.n+1 || cap(n.children) < fanout+1 {
			t.Fatalf("%d children in %d with %d separators", len(n.children), cap(n.children), n.n)
		}
		for i, child := range n.children {
			if child.epoch > n.epoch {
				t.Fatalf("a node of epoch %d has a child of epoch %d", n.epoch, child.epoch)
			}
			look(child, n.fencesOf(i, within), at+1)
		}
	}
	look(m.root, fences{}, 0)
}

// keysOf are makers of keys that differ in how they begin.
var keysOf = map[string]func(rnd *rand.Rand) string{
	"numbers":     func(rnd *rand.Rand) string { return fmt.Sprintf("users/%06d/name", rnd.IntN(3000)) },
	"few letters": func(rnd *rand.Rand) string { return letters(rnd, "ab", 14) },
	"zeros":       func(rnd *rand.Rand) string { return letters(rnd, "\x00\x01\xff", 10) },
	"long": func(rnd *rand.Rand) string {
		return strings.Repeat("x", 100*rnd.IntN(4)) + letters(rnd, "xy", 12)
	},
}

func letters(rnd *rand.Rand, from string, most int) string {
	b := make([]byte, rnd.IntN(most+1))
	for i := range b {
		b[i] = from[rnd.IntN(len(from))]
	}
	return string(b)
}

func TestAMapHoldsWhatWasSetAndAViewStaysAsItWas(t *testing.T) {
	for name, key := range keysOf {
		t.Run(name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 2))
			m, want := New(), model{}
			type kept struct {
				view View
				want model
			}
			var views []kept
			copied := func() model {
				c := model{}
				for key, it := range want {
					c[key] = it
				}
				return c
			}
			for step := range 30_000 {
				deletes := step / 5000 % 2 // it grows and shrinks
				k := key(rnd)
				if was, there := want[k]; rnd.IntN(10) < 1+7*deletes {
					if m.Delete(k) != there {
						t.Fatalf("%q was there: %v", k, there)
					}
					delete(want, k)
				} else {
					value := letters(rnd, "value", 20)
					text, it, created := m.Set(k, []byte(value), was.Version+1)
					if text != k || created == there || it != (Item{value, was.Version + 1}) {
						t.Fatalf("set %q to %q: %q, %v, %v", k, value, text, it, created)
					}
					want[k] = it
				}
				if rnd.IntN(50) == 0 {
					m.View() // nobody keeps it
				}
				if step%1499 == 0 {
					wantRules(t, &m)
					views = append(views, kept{m.View(), copied()})
				}
			}
			wantContents(t, m.contents, want)
			for _, k := range views {
				wantContents(t, k.view.contents, k.want)
			}
			for _, k := range want.keys() {
				m.Delete(k)
			}
			wantRules(t, &m)
			wantContents(t, m.contents, model{})
			if !m.root.isLeaf() {
				t.Error("an empty map has more than a leaf")
			}
		})
	}
}

func TestAscendBeginsAtTheFirstKeyThatIsNotLess(t *testing.T) {
	for name, key := range keysOf {
		rnd := rand.New(rand.NewPCG(3, 4))
		m, want := New(), model{}
		for range 2000 {
			k := key(rnd)
			_, want[k], _ = m.Set(k, nil, 1)
		}
		keys := want.keys()
		for range 2000 {
			from, most := key(rnd), rnd.IntN(100)
			var got []string
			m.Ascend(from, func(key string, _ Item) bool {
				got = append(got, key)
				return len(got) <= most
			})
			first, _ := slices.BinarySearch(keys, from)
			if to := keys[first:min(first+most+1, len(keys))]; !slices.Equal(got, to) {
				t.Fatalf("%s: from %q: %q, want %q", name, from, got, to)
			}
		}
	}
}

func TestKeysThatComeInOrderLeaveFullNodes(t *testing.T) {
	m := New()
	for i := range 10_000 {
		m.Set(fmt.Sprintf("%08d", i), nil, 1)
	}
	leaves := 0
	var count func(n *node)
	count = func(n *node) {
		if n.isLeaf() {
			leaves++
		}
		for _, child := range n.children {
			count(child)
		}
	}
	count(m.root)
	if least := 10_000 / (fanout - 1); leaves > least*11/10 {
		t.Errorf("%d leaves, %d would do", leaves, least)
	}
}

func TestWhatAViewDoesNotShareIsWrittenInPlace(t *testing.T) {
	m := New()
	for i := range 1000 {
		m.Set(fmt.Sprint(i), nil, 1)
	}
	before := m.root
	m.Set("500", nil, 2)
	if m.root != before {
		t.Error("the root was copied without a view")
	}
	m.View()
	if m.Delete("absent"); m.root != before {
		t.Error("to delete what is not there has copied the root")
	}
	if m.Set("500", nil, 3); m.root == before {
		t.Error("the root of a view was written to")
	}
}

func TestViewsAreReadWithoutALockWhileTheMapGoesOn(t *testing.T) {
	m := New()
	var published atomic.Pointer[View]
	publish := func() {
		v := m.View()
		published.Store(&v)
	}
	publish()
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for !done.Load() {
				v := published.Load()
				n := 0
				v.Ascend("", func(key string, it Item) bool {
					n++
					if got, ok := v.Get(key); !ok || got != it {
						t.Errorf("%q is %v and %v in one view", key, it, got)
					}
					return true
				})
				if n != v.Len() {
					t.Errorf("%d keys in a view of %d", n, v.Len())
				}
			}
		})
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	for version := range uint64(20_000) {
		key := fmt.Sprint("key-", rnd.IntN(500))
		if rnd.IntN(3) == 0 {
			m.Delete(key)
		} else {
			m.Set(key, []byte(key), version+1)
		}
		if rnd.IntN(4) == 0 {
			publish()
		}
	}
	done.Store(true)
	readers.Wait()
}

// FuzzMap has operations of three bytes: which, and two of the key.
func FuzzMap(f *testing.F) {
	f.Add([]byte("saasabsbad\x00av\x00\x00sa\x00saa"))
	f.Fuzz(func(t *testing.T, ops []byte) {
		m, want := New(), model{}
		for version := uint64(1); len(ops) >= 3; ops = ops[3:] {
			key := strings.Repeat(string(ops[1:2]), int(ops[2]%16)) + string(ops[2:3])
			switch ops[0] {
			case 'd':
				m.Delete(key)
				delete(want, key)
			case 'v':
				m.View()
			default:
				_, want[key], _ = m.Set(key, ops[:1], version)
			}
			version++
		}
		wantRules(t, &m)
		wantContents(t, m.contents, want)
	})
}

// benchMap has n keys with values of 100 bytes.
func benchMap(n int) (m Map, keys []string) {
	m = New()
	keys = make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%012d", i)
	}
	rnd := rand.New(rand.NewPCG(7, 8))
	for _, i := range rnd.Perm(n) {
		m.Set(keys[i], make([]byte, 100), 1)
	}
	return m, keys
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{1e3, 1e6} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m, keys := benchMap(n)
			v, rnd := m.View(), rand.New(rand.NewPCG(9, 9))
			for b.Loop() {
				if _, ok := v.Get(keys[rnd.IntN(n)]); !ok {
					b.Fatal("absent")
				}
			}
		})
	}
}

// BenchmarkSet takes a view after each 256.
func BenchmarkSet(b *testing.B) {
	for _, n := range []int{1e3, 1e6} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m, keys := benchMap(n)
			rnd, value := rand.New(rand.NewPCG(9, 9)), make([]byte, 100)
			b.ReportAllocs()
			for i := uint64(2); b.Loop(); i++ {
				m.Set(keys[rnd.IntN(n)], value, i)
				if i%256 == 0 {
					m.View()
				}
			}
		})
	}
}
