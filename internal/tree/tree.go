// Package tree is the ordered map that holds the keys of the state: a B+ tree, of which a view can be taken at any time for
// nothing, and be read without a lock while the map goes on.
//
// A view shares its nodes with the map. Each node has the epoch that it was made in, and View ends the epoch of the map. What
// changes a node of an earlier epoch changes a copy of it, and so a copy of each node on the way to it (Driscoll et al.,
// "Making data structures persistent", 1989, section 2): what a view can reach is never written to again.
//
// With millions of keys a tree waits for memory, and the collector goes through all of it. So there is one piece of memory for
// each key, without pointers in it (see record), and a search touches few of them: a node has eight bytes of each of its
// keys, its heads, and only keys with the same head are compared. As neighbours begin alike, heads begin behind what all keys
// that can be in the node share. That is what the separators around the node share, and a separator is not longer than it
// needs to be (Bayer and Unterauer, "Prefix B-trees", 1977).
//
// One goroutine at a time may call the methods of a Map. A View may be read by any number. The tests hold both against a
// sorted list, and look at every rule that the nodes obey.
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
	len   int
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
func (c contents) Len() int { return c.len }

// Bytes returns the sum of the lengths of all keys and values.
func (c contents) Bytes() int64 { return c.bytes }

// Get returns what key holds, and whether it is there.
func (c contents) Get(key string) (Item, bool) { return c.root.get(key) }

// Ascend goes through the keys from the first that is not less than from, in ascending order of their bytes, until yield
// returns false.
func (c contents) Ascend(from string, yield func(key string, it Item) bool) {
	c.root.ascend(from, yield)
}

// Set makes key hold a copy of value. It returns what it keeps of key and value, and whether the key was not there.
func (m *Map) Set(key string, value []byte, version uint64) (kept string, it Item, created bool) {
	s := newSetter(m, key, value, version)
	old, right, separator := s.set(m.own(&m.root), bounds{})
	if right != nil {
		left := m.root
		m.root = &node{epoch: m.epoch, children: append(make([]*node, 0, fanout+1), left, right)}
		m.root.fill([]string{separator}, m.root.children, bounds{})
	}
	m.bytes += int64(s.record.size())
	if old == "" {
		m.len++
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
	old := m.remove(m.own(&m.root), bounds{}, key)
	if m.root.n == 0 && !m.root.isLeaf() {
		m.root = m.root.children[0]
	}
	m.len--
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

// set puts the record into the tree below n, which it owns. If n is full then, its upper half is in right, above separator.
func (s *setter) set(n *node, within bounds) (old record, right *node, separator string) {
	i, found := n.search(s.key)
	switch {
	case n.isLeaf() && found:
		old = record(n.texts[i])
		n.texts[i] = string(s.record)
		return old, nil, ""
	case n.isLeaf():
		n.insert(i, string(s.record), head(s.key, n.skip))
	default:
		if found {
			i++
		}
		old, right, separator = s.set(s.own(&n.children[i]), n.boundsOf(i, within))
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
	if i == n.n-1 { // keys that come in order leave full nodes behind
		at = n.n - 2
	}
	right = &node{epoch: s.epoch}
	return old, right, n.distribute(right, at, n.texts[:], n.children, within)
}

// remove takes a key that is there out of the tree below n, which it owns.
func (m *Map) remove(n *node, within bounds, key string) (old record) {
	i, found := n.search(key)
	if n.isLeaf() {
		old = record(n.texts[i])
		n.cut(i)
		return old
	}
	if found {
		i++
	}
	old = m.remove(m.own(&n.children[i]), n.boundsOf(i, within), key)
	if n.children[i].n < fewest {
		m.balance(n, max(i-1, 0), within)
	}
	return old
}

// balance makes one of the children i and i+1 of n, or two of like sizes.
func (m *Map) balance(n *node, i int, within bounds) {
	left, right := m.own(&n.children[i]), m.own(&n.children[i+1])
	texts := append(make([]string, 0, 2*fanout), left.texts[:left.n]...)
	if !left.isLeaf() {
		texts = append(texts, n.texts[i])
	}
	texts = append(texts, right.texts[:right.n]...)
	children := append(append([]*node(nil), left.children...), right.children...)
	both := bounds{n.boundsOf(i, within).low, n.boundsOf(i+1, within).high}
	if len(texts) < fanout {
		left.fill(texts, children, both)
		n.cut(i)
		n.cutChild(i + 1)
		return
	}
	separator := left.distribute(right, len(texts)/2, texts, children, both)
	n.texts[i], n.heads[i] = separator, head(separator, n.skip)
}
