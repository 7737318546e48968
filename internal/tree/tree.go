// Package tree is the ordered map that holds the keys of the state: a B+ tree, of which a view can be taken in constant time
// and be read without a lock while the map goes on.
//
// A view shares its nodes with the map. Each node has the epoch in which it was made, and View begins another one. A node of
// an earlier epoch is copied before it is changed, and so is every node on the path to it (path copying: Driscoll et al.,
// "Making Data Structures Persistent", 1989). What a view can reach is never written to again.
//
// With millions of keys a tree waits for memory, and the garbage collector visits all of it. So a key, its value and its
// version are one allocation, without a pointer in it (see record), and a search looks at few of them: a node holds eight bytes
// of each of its keys, its head, and only keys with equal heads are compared. Neighbors begin alike, so heads leave out what
// all keys between the node's fences share. Fences are the separators to the left and to the right of a node, and a separator
// is no longer than it needs to be (Bayer and Unterauer, "Prefix B-Trees", 1977; for fence keys and normalized keys see
// Graefe, "Modern B-Tree Techniques", 2011).
//
// One goroutine at a time may call the methods of a Map. Any number may read a View. The tests hold both against a sorted
// list, and check every invariant of the nodes.
package tree

// Map is an ordered map of versioned values. The zero value is not ready: see New.
type Map struct {
	contents
	epoch uint64
}

// View is a Map at one moment.
type View struct{ contents }

// contents is what a Map and a View of it can both be asked for.
type contents struct {
	root  *node
	keys  int
	bytes int64
}

// New returns an empty map.
func New() Map { return Map{contents: contents{root: new(node)}} }

// View returns the map as it is now. Whatever is written next is written to copies of what the view shares.
func (m *Map) View() View {
	m.epoch++
	return View{m.contents}
}

// Len returns the number of keys.
func (c contents) Len() int { return c.keys }

// Bytes returns the sum of the lengths of all keys and values.
func (c contents) Bytes() int64 { return c.bytes }

// Get returns what key holds, and whether it is there.
func (c contents) Get(key string) (Item, bool) { return c.root.get(key) }

// Ascend goes through the keys from the first that is not less than from, in ascending order of their bytes, until yield
// returns false. A key that is kept keeps its value in memory.
func (c contents) Ascend(from string, yield func(key string, it Item) bool) {
	c.root.ascend(from, yield)
}

// Set makes key hold a copy of value. It returns its own copies, which share an allocation, and whether the key was not there.
func (m *Map) Set(key string, value []byte, version uint64) (kept string, it Item, created bool) {
	s := newSetter(m, key, value, version)
	old, right, separator := s.set(m.own(&m.root), fences{})
	if right != nil {
		left := m.root
		m.root = &node{epoch: m.epoch, children: append(make([]*node, 0, fanout+1), left, right)}
		m.root.fill([]string{separator}, m.root.children, fences{})
	}
	m.bytes += int64(s.record.size())
	if old == "" {
		m.keys++
	} else {
		m.bytes -= int64(old.size())
	}
	return s.key, s.record.item(), old == ""
}

// Delete removes key, and reports whether it was there.
func (m *Map) Delete(key string) bool {
	if _, ok := m.Get(key); !ok { // or the way to it would be copied for nothing
		return false
	}
	old := m.remove(m.own(&m.root), fences{}, key)
	if m.root.n == 0 && !m.root.isLeaf() {
		m.root = m.root.children[0]
	}
	m.keys--
	m.bytes -= int64(old.size())
	return true
}

// own returns a node to write to: the one that is there, or a copy in its place.
func (m *Map) own(at **node) *node {
	if (*at).epoch != m.epoch {
		c := **at
		c.epoch = m.epoch
		if !c.isLeaf() {
			c.children = append(make([]*node, 0, fanout+1), c.children...)
		}
		*at = &c
	}
	return *at
}

// setter is a call of Set.
type setter struct {
	*Map
	key    string
	record record
}

func newSetter(m *Map, key string, value []byte, version uint64) setter {
	r := newRecord(key, value, version)
	return setter{m, r.key(), r}
}

// set puts the record into the tree below n, which it owns. If that fills n, the upper part of n is moved to right.
func (s *setter) set(n *node, within fences) (old record, right *node, separator string) {
	i, found := n.search(s.key)
	switch {
	case n.isLeaf() && found:
		old = record(n.entries[i])
		n.entries[i] = string(s.record)
		return old, nil, ""
	case n.isLeaf():
		n.insert(i, string(s.record), head(s.key, n.skip))
	default:
		if found {
			i++
		}
		old, right, separator = s.set(s.own(&n.children[i]), n.fencesOf(i, within))
		if right == nil {
			return old, nil, ""
		}
		n.insert(i, separator, head(separator, n.skip))
		n.insertChild(i+1, right)
	}
	if n.n < fanout {
		return old, nil, ""
	}
	at := n.n / 2
	if i == n.n-1 { // keys that are set in order leave full nodes behind
		at = n.n - 2
	}
	right = &node{epoch: s.epoch}
	return old, right, n.split(right, at, n.entries[:], n.children, within)
}

// remove takes a key that is there out of the tree below n, which it owns.
func (m *Map) remove(n *node, within fences, key string) (old record) {
	i, found := n.search(key)
	if n.isLeaf() {
		old = record(n.entries[i])
		n.cut(i)
		return old
	}
	if found {
		i++
	}
	old = m.remove(m.own(&n.children[i]), n.fencesOf(i, within), key)
	if n.children[i].n < fewest {
		m.rebalance(n, max(i-1, 0), within)
	}
	return old
}

// rebalance merges the children i and i+1 of n, or lets them share their entries evenly if one would be nearly full.
func (m *Map) rebalance(n *node, i int, within fences) {
	left, right := m.own(&n.children[i]), n.children[i+1]
	entries := append(make([]string, 0, 2*fanout), left.entries[:left.n]...)
	if !left.isLeaf() {
		entries = append(entries, n.entries[i])
	}
	entries = append(entries, right.entries[:right.n]...)
	children := append(append([]*node(nil), left.children...), right.children...)
	both := fences{n.fencesOf(i, within).low, n.fencesOf(i+1, within).high}
	if len(entries) < fanout*3/4 { // and so not split again by the next key
		left.fill(entries, children, both)
		n.cut(i)
		n.cutChild(i + 1)
		return
	}
	separator := left.split(m.own(&n.children[i+1]), len(entries)/2, entries, children, both)
	n.entries[i], n.heads[i] = separator, head(separator, n.skip)
}
