package tree

import (
	"slices"
	"strings"
)

// The sizes are measured: with larger nodes a read gains less than a write loses, which copies a leaf.
const (
	fanout = 35         // a node with as many texts is divided. So many fill the 896 bytes that the allocator has for it
	fewest = fanout / 4 // a node with less, after a key was deleted, gets some of its neighbour's or all
)

// node is a leaf, or an inner node. The keys below children[i] are not less than texts[i-1], and are less than texts[i].
type node struct {
	epoch    uint64 // of the map when it was made: later it is not written to
	skip     int    // bytes that all keys between the bounds of the node share
	n        int
	heads    [fanout]uint64
	texts    [fanout]string // of a leaf: records; of an inner node: separators
	children []*node        // n+1 of them; none: a leaf
}

func (n *node) isLeaf() bool { return n.children == nil }

// bounds are the separators around a node, or "" where there is none.
type bounds struct{ low, high string }

func (n *node) boundsOf(child int, within bounds) bounds {
	b := within
	if child > 0 {
		b.low = n.texts[child-1]
	}
	if child < n.n {
		b.high = n.texts[child]
	}
	return b
}

// shared is how many bytes both begin with. So does every key that is not less than a and less than b.
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
		return record(n.texts[i]).key()
	}
	return n.texts[i]
}

// search returns the first place of which the key is not less than key, and whether it is equal. The key lies between the
// bounds of the node.
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
			return record(n.texts[i]).item(), true
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
		if r := record(n.texts[i]); !yield(r.key(), r.item()) {
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
	copy(n.texts[i+1:n.n+1], n.texts[i:n.n])
	copy(n.heads[i+1:n.n+1], n.heads[i:n.n])
	n.texts[i], n.heads[i] = text, head
	n.n++
}

func (n *node) insertChild(i int, child *node) { n.children = slices.Insert(n.children, i, child) }

func (n *node) cut(i int) {
	copy(n.texts[i:n.n-1], n.texts[i+1:n.n])
	copy(n.heads[i:n.n-1], n.heads[i+1:n.n])
	n.n--
	n.texts[n.n] = "" // or it would stay in memory
}

func (n *node) cutChild(i int) { n.children = slices.Delete(n.children, i, i+1) }

// fill gives a node between bounds its contents.
func (n *node) fill(texts []string, children []*node, within bounds) {
	n.n = copy(n.texts[:], texts)
	clear(n.texts[n.n:])
	if len(children) > 0 {
		n.children = append(make([]*node, 0, fanout+1), children...)
	}
	n.skip = shared(within.low, within.high)
	for i := range n.n {
		n.heads[i] = head(n.key(i), n.skip)
	}
}

// distribute gives the first texts to the node and the others to right, and returns what stands between them: in a leaf a
// text that is as short as can be, in an inner node the one at the place where it is divided.
func (n *node) distribute(right *node, at int, texts []string, children []*node, within bounds) (separator string) {
	texts, children = slices.Clone(texts), slices.Clone(children)
	if len(children) == 0 {
		last, first := record(texts[at-1]).key(), record(texts[at]).key()
		separator = strings.Clone(first[:shared(last, first)+1])
		n.fill(texts[:at], nil, bounds{within.low, separator})
		right.fill(texts[at:], nil, bounds{separator, within.high})
		return separator
	}
	separator = texts[at]
	n.fill(texts[:at], children[:at+1], bounds{within.low, separator})
	right.fill(texts[at+1:], children[at+1:], bounds{separator, within.high})
	return separator
}
