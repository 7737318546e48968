package kvraft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
)

// checkBoltFile reads the whole structure of a raft.db and returns what is
// wrong with it. bbolt must not see a damaged file: it walks the pages in
// goroutines of its own (when it opens a file, and in Tx.Check), and what
// panics there ends the process.
//
// It is stricter than bbolt in what bit rot needs:
//
//   - Both meta pages must be valid. bbolt falls back to the older one, which
//     would take back the last transaction, an acknowledged one. It does so for
//     a meta page that was torn by a power loss, but that is 80 bytes at the
//     start of a sector, which disks write as a whole.
//   - Elements must fill a page from its start without a gap, as bbolt writes
//     them, so that a page cannot lose its last elements to a changed count.
//   - The buckets and the keys must be those that raft-boltdb and kvraft write.
//
// The values are checked by those who read them. What it cannot see is a page
// number that changed into that of an older copy of the same page: so the last
// entries could go, of which metadata.Tail does not know yet.
func checkBoltFile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	c := &boltCheck{file: file, size: info.Size()}
	root, err := c.readMetas()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := c.checkRoot(root); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

// boltCheck is one walk over a bbolt file, in bbolt's own (native) byte order.
type boltCheck struct {
	file     io.ReaderAt
	size     int64
	pageSize int64
	pages    uint64 // the high water mark: pages from here on are not in use
	seen     []bool // pages that were reached
}

const (
	boltMagic        = 0xED0CDAED
	boltVersion      = 2
	boltPageHeader   = 16
	boltBranchFlag   = 1
	boltLeafFlag     = 2
	boltBucketFlag   = 1
	boltBucketHeader = 16
	boltMinPage      = 1 << 10
	boltMaxPage      = 1 << 16
)

// boltMeta is the part of a meta page that matters here.
type boltMeta struct{ pageSize, root, pages, transaction uint64 }

// readMetas returns the root page of the newest transaction.
func (c *boltCheck) readMetas() (root uint64, err error) {
	first, err := c.readMeta(0)
	if err != nil {
		return 0, fmt.Errorf("meta page 0: %w", err)
	}
	if first.pageSize < boltMinPage || first.pageSize > boltMaxPage {
		return 0, fmt.Errorf("meta page 0: page size %d", first.pageSize)
	}
	second, err := c.readMeta(int64(first.pageSize))
	if err != nil {
		return 0, fmt.Errorf("meta page 1: %w", err)
	}
	newest := first
	if second.transaction > first.transaction {
		newest = second
	}
	c.pageSize, c.pages = int64(first.pageSize), newest.pages
	if second.pageSize != first.pageSize {
		return 0, fmt.Errorf("meta pages with page sizes %d and %d", first.pageSize, second.pageSize)
	}
	if inFile := uint64(c.size / c.pageSize); newest.pages > inFile {
		return 0, fmt.Errorf("cut short: %d pages of %d", inFile, newest.pages)
	}
	c.seen = make([]bool, newest.pages)
	return newest.root, nil
}

func (c *boltCheck) readMeta(offset int64) (boltMeta, error) {
	var page [boltPageHeader + 64]byte
	if _, err := c.file.ReadAt(page[:], offset); err != nil {
		return boltMeta{}, err
	}
	meta, order := page[boltPageHeader:], binary.NativeEndian
	sum := fnv.New64a()
	sum.Write(meta[:56])
	switch {
	case order.Uint32(meta[0:]) != boltMagic:
		return boltMeta{}, fmt.Errorf("not a bbolt file")
	case order.Uint64(meta[56:]) != sum.Sum64():
		return boltMeta{}, fmt.Errorf("wrong checksum")
	case order.Uint32(meta[4:]) != boltVersion:
		return boltMeta{}, fmt.Errorf("version %d of the file format", order.Uint32(meta[4:]))
	}
	return boltMeta{
		pageSize:    uint64(order.Uint32(meta[8:])),
		root:        order.Uint64(meta[16:]),
		pages:       order.Uint64(meta[40:]),
		transaction: order.Uint64(meta[48:]),
	}, nil
}

// checkRoot checks the buckets and what is in them.
func (c *boltCheck) checkRoot(root uint64) error {
	var names []string
	err := c.walk(root, nil, func(e boltElement) error {
		names = append(names, string(e.key))
		return c.checkBucket(e)
	})
	if err != nil {
		return err
	}
	if !slices.Equal(names, []string{"conf", "logs"}) {
		return fmt.Errorf("buckets %q in place of conf and logs", names)
	}
	return nil
}

// checkBucket checks one bucket: a page of its own, or, for little data, one
// inside the bucket's value.
func (c *boltCheck) checkBucket(bucket boltElement) error {
	if bucket.flags != boltBucketFlag || len(bucket.value) < boltBucketHeader {
		return fmt.Errorf("%q in place of a bucket", bucket.key)
	}
	visit := c.checkLogKey
	if string(bucket.key) == "conf" {
		visit = c.checkConfKey
	}
	page, inline := binary.NativeEndian.Uint64(bucket.value), bucket.value[boltBucketHeader:]
	if page != 0 && len(inline) == 0 {
		return c.walk(page, nil, visit)
	}
	if page != 0 || len(inline) < boltPageHeader {
		return fmt.Errorf("bucket %q: bad header", bucket.key)
	}
	walk := boltWalk{check: c, visit: visit}
	if err := walk.leaf(inline); err != nil {
		return fmt.Errorf("bucket %q: %w", bucket.key, err)
	}
	return nil
}

func (c *boltCheck) checkLogKey(e boltElement) error {
	if e.flags != 0 || len(e.key) != 8 {
		return fmt.Errorf("%x is not the key of an entry", e.key)
	}
	return nil
}

func (c *boltCheck) checkConfKey(e boltElement) error {
	same := func(key []byte) bool { return bytes.Equal(key, e.key) }
	if e.flags != 0 || !same(metadataKey) && !slices.ContainsFunc(foreignKeys, same) {
		return fmt.Errorf("unknown key %q", e.key)
	}
	return nil
}

// boltElement is one element of a page: a key with its value in a leaf, with
// the page below it in a branch.
type boltElement struct {
	flags      uint32
	page       uint64
	key, value []byte
}

// boltWalk visits the elements of one bucket in key order.
type boltWalk struct {
	check *boltCheck
	visit func(boltElement) error
	last  []byte // the newest key that was visited
}

func (c *boltCheck) walk(root uint64, low []byte, visit func(boltElement) error) error {
	w := boltWalk{check: c, visit: visit}
	return w.page(root, low)
}

// page visits what is below page id, where no key may be below low.
func (w *boltWalk) page(id uint64, low []byte) error {
	page, err := w.check.readPage(id)
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	switch flags := binary.NativeEndian.Uint16(page[8:]); flags {
	case boltLeafFlag:
		err = w.leafFrom(page, low)
	case boltBranchFlag:
		err = w.branch(page, low)
	default:
		err = fmt.Errorf("flags %#x", flags)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func (w *boltWalk) branch(page, low []byte) error {
	elements, err := readElements(page)
	if err != nil {
		return err
	}
	if len(elements) == 0 {
		return fmt.Errorf("empty branch")
	}
	for _, e := range elements {
		if bytes.Compare(e.key, low) < 0 || w.last != nil && bytes.Compare(e.key, w.last) <= 0 {
			return fmt.Errorf("key %x is out of order", e.key)
		}
		if err := w.page(e.page, e.key); err != nil {
			return err
		}
	}
	return nil
}

// leaf visits a page inside a value, which has no number but the same form.
func (w *boltWalk) leaf(page []byte) error {
	if flags := binary.NativeEndian.Uint16(page[8:]); flags != boltLeafFlag {
		return fmt.Errorf("flags %#x", flags)
	}
	return w.leafFrom(page, nil)
}

func (w *boltWalk) leafFrom(page, low []byte) error {
	elements, err := readElements(page)
	if err != nil {
		return err
	}
	for _, e := range elements {
		if bytes.Compare(e.key, low) < 0 || w.last != nil && bytes.Compare(e.key, w.last) <= 0 {
			return fmt.Errorf("key %x is out of order", e.key)
		}
		w.last = e.key
		if err := w.visit(e); err != nil {
			return err
		}
	}
	return nil
}

// readPage reads a page with its overflow pages, each of which may be reached
// only once.
func (c *boltCheck) readPage(id uint64) ([]byte, error) {
	if id < 2 || id >= c.pages {
		return nil, fmt.Errorf("not one of %d pages", c.pages)
	}
	header := make([]byte, boltPageHeader)
	if _, err := c.file.ReadAt(header, int64(id)*c.pageSize); err != nil {
		return nil, err
	}
	if own := binary.NativeEndian.Uint64(header); own != id {
		return nil, fmt.Errorf("says that it is page %d", own)
	}
	count := 1 + uint64(binary.NativeEndian.Uint32(header[12:]))
	if count > c.pages-id {
		return nil, fmt.Errorf("%d pages long, of %d", count, c.pages)
	}
	for i := id; i < id+count; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("part of two others")
		}
		c.seen[i] = true
	}
	page := make([]byte, int64(count)*c.pageSize)
	if _, err := c.file.ReadAt(page, int64(id)*c.pageSize); err != nil {
		return nil, err
	}
	return page, nil
}

// readElements reads the elements of a page: a table of flags, position, key
// size and value size (position, key size and page in a branch), then keys and
// values one after the other.
func readElements(page []byte) ([]boltElement, error) {
	order := binary.NativeEndian
	leaf := order.Uint16(page[8:]) == boltLeafFlag
	count := int(order.Uint16(page[10:]))
	data := boltPageHeader + 16*count // where keys and values start
	if data > len(page) {
		return nil, fmt.Errorf("%d elements", count)
	}
	if rest := page[data:]; count == 0 && len(bytes.Trim(rest, "\x00")) > 0 {
		return nil, fmt.Errorf("no elements, but data")
	}
	elements := make([]boltElement, count)
	for i := range elements {
		at := boltPageHeader + 16*i
		raw, e := page[at:at+16], &elements[i]
		position, keySize, valueSize := order.Uint32(raw[0:]), order.Uint32(raw[4:]), uint32(0)
		if leaf {
			e.flags, position, keySize, valueSize = order.Uint32(raw[0:]), order.Uint32(raw[4:]), order.Uint32(raw[8:]), order.Uint32(raw[12:])
		} else {
			e.page = order.Uint64(raw[8:])
		}
		end := uint64(data) + uint64(keySize) + uint64(valueSize)
		if uint64(at)+uint64(position) != uint64(data) || keySize == 0 || end > uint64(len(page)) {
			return nil, fmt.Errorf("element %d of %d is out of place", i, count)
		}
		e.key = page[data : data+int(keySize)]
		e.value = page[data+int(keySize) : end]
		data = int(end)
	}
	return elements, nil
}
