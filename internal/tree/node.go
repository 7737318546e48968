package tree

import (
	"slices"
	"strings"
)

// The sizes are measured: with larger nodes a read gains less than a write loses, which copies a leaf.
const (
	fanout = 35         // a node that reaches it is split; the node fills an allocation of 896 bytes
	fewest = fanout / 4 // a node that a deletion leaves with fewer is merged with a neighbor, or shares its entries
)

// node is a leaf, or an inner node. The keys below children[i] are not less than entries[i-1], and are less than entries[i].
type node struct {
	epoch    uint64 // of the map when it was made: later it is not written to
	skip     int    // bytes that both fences begin with, and so every key between them
	n        int
	heads    [fanout]uint64
	entries  [fanout]string // of a leaf: records; of an inner node: separators
	children []*node        // n+1 of them; none: a leaf
}

func (n *node) isLeaf() bool { return n.children == nil }

// fences are the separators to the left and the right of a node, "" where there is none: no key below it is less than low, and
// all are less than high.
type fences struct{ low, high string }

func (n *node) fencesOf(child int, within fences) fences {
	b := within
	if child > 0 {
		b.low = n.entries[child-1]
	}
	if child < n.n {
		b.high = n.entries[child]
	}
	return b
}

// shared is how many bytes a and b both begin with. Every key k with a <= k < b begins with them too: anything else that is
// not less than a is greater than all that begins with them, b included.
func shared(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// head is the eight bytes of a key behind those that are skipped, zeros where it ends.
func head(key string, skip int) uint64 {
	key = key[skip:]
	if len(key) >= 8 {
		return uint64(key[7]) | uint64(key[6])<<8 | uint64(key[5])<<16 | uint64(key[4])<<24 |
			uint64(key[3])<<32 | uint64(key[2])<<40 | uint64(key[1])<<48 | uint64(key[0])<<56
	}
	h := uint64(0)
	for i := range len(key) {
		h |= uint64(key[i]) << (56 - 8*i)
	}
	return h
}

func (n *node) key(i int) string {
	if n.isLeaf() {
		return record(n.entries[i]).key()
	}
	return n.entries[i]
}

// search returns the first place of which the key is not less than key, and whether it is equal. The key lies between the
// fences of the node.
func (n *node) search(key string) (i int, found bool) {
	h := head(key, n.skip)
	low, high := 0, n.n
	for low < high {
		mid := int(uint(low+high) / 2)
		if n.heads[mid] < h || n.heads[mid] == h && n.key(mid) < key {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < n.n && n.heads[low] == h && n.key(low) == key
}

func (n *node) get(key string) (Item, bool) {
	for {
		i, found := n.search(key)
		if n.isLeaf() {
			if !found {
				return Item{}, false
			}
			return record(n.entries[i]).item(), true
		}
		if found {
			i++
		}
		n = n.children[i]
	}
}

// ascend reports whether to go on.
func (n *node) ascend(from string, yield func(string, Item) bool) bool {
	i, found := n.search(from)
	if !n.isLeaf() && found {
		i++
	}
	if n.isLeaf() {
		return n.all(i, yield)
	}
	return n.children[i].ascend(from, yield) && n.all(i+1, yield)
}

// all goes through what the node has from place i on.
func (n *node) all(i int, yield func(string, Item) bool) bool {
	for ; i < n.n && n.isLeaf(); i++ {
		if r := record(n.entries[i]); !yield(r.key(), r.item()) {
			return false
		}
	}
	for ; i < len(n.children); i++ {
		if !n.children[i].all(0, yield) {
			return false
		}
	}
	return true
}

func (n *node) insert(i int, text string, head uint64) {
	copy(n.entries[i+1:n.n+1], n.entries[i:n.n])
	copy(n.heads[i+1:n.n+1], n.heads[i:n.n])
	n.entries[i], n.heads[i] = text, head
	n.n++
}

func (n *node) insertChild(i int, child *node) { n.children = slices.Insert(n.children, i, child) }

func (n *node) cut(i int) {
	copy(n.entries[i:n.n-1], n.entries[i+1:n.n])
	copy(n.heads[i:n.n-1], n.heads[i+1:n.n])
	n.n--
	n.entries[n.n] = "" // or it would stay in memory
}

func (n *node) cutChild(i int) { n.children = slices.Delete(n.children, i, i+1) }

// fill gives a node between fences its contents.
func (n *node) fill(entries []string, children []*node, within fences) {
	n.n = copy(n.entries[:], entries)
	clear(n.entries[n.n:])
	if len(children) > 0 {
		n.children = append(make([]*node, 0, fanout+1), children...)
	}
	n.skip = shared(within.low, within.high)
	for i := range n.n {
		n.heads[i] = head(n.key(i), n.skip)
	}
}

// split leaves the first entries to the node, gives the others to right, and returns what separates them: in a leaf the
// shortest key that does, in an inner node the separator at that place.
func (n *node) split(right *node, at int, entries []string, children []*node, within fences) (separator string) {
	entries, children = slices.Clone(entries), slices.Clone(children)
	if len(children) == 0 {
		last, first := record(entries[at-1]).key(), record(entries[at]).key()
		separator = strings.Clone(first[:shared(last, first)+1])
		n.fill(entries[:at], nil, fences{within.low, separator})
		right.fill(entries[at:], nil, fences{separator, within.high})
		return separator
	}
	separator = entries[at]
	n.fill(entries[:at], children[:at+1], fences{within.low, separator})
	right.fill(entries[at+1:], children[at+1:], fences{separator, within.high})
	return separator
}
