package boltlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"

	"github.com/kvraft/kvraft/internal/errs"
)

// checkFile reads the whole structure of a raft.db and returns what is
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
// entries could go, of which the record does not know yet.
func checkFile(path string) (meta metaPage, err error) {
	err = readFile(path, func(c *checker) (err error) {
		if meta, err = c.readMetas(); err == nil {
			err = c.checkBuckets(meta.root)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errs.Damaged, err)
		}
		return nil
	})
	return meta, err
}

// readNewestMeta reads the newer meta page of a file.
func readNewestMeta(path string) (meta metaPage, err error) {
	err = readFile(path, func(c *checker) (err error) {
		meta, err = c.readMetas()
		return err
	})
	return meta, err
}

func readFile(path string, read func(*checker) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return read(&checker{file: file, size: info.Size()})
}

// checker is one walk over a bbolt file, in bbolt's own (native) byte order.
type checker struct {
	file     io.ReaderAt
	size     int64
	pageSize int64
	pages    uint64 // the high water mark: pages from here on are not in use
	seen     []bool // pages that were reached
}

const (
	fileMagic    = 0xED0CDAED
	fileVersion  = 2
	pageHeader   = 16
	branchFlag   = 1
	leafFlag     = 2
	bucketFlag   = 1
	bucketHeader = 16
	minPage      = 1 << 10
	maxPage      = 1 << 16
)

// metaPage is the part of a meta page that matters here.
type metaPage struct{ pageSize, root, pages, transaction uint64 }

// readMetas returns the meta page of the newest transaction. With an error it is
// the newest that can be read, or zero.
func (c *checker) readMetas() (newest metaPage, err error) {
	first, err := c.readMeta(0)
	if err != nil {
		err = fmt.Errorf("meta page 0: %w", err)
	}
	second, secondErr := c.readSecondMeta(first.pageSize)
	if err == nil && secondErr != nil {
		err = fmt.Errorf("meta page 1: %w", secondErr)
	}
	if err == nil && second.pageSize != first.pageSize {
		err = fmt.Errorf("meta pages with page sizes %d and %d", first.pageSize, second.pageSize)
	}
	newest = first
	if second.transaction > first.transaction {
		newest = second
	}
	if newest.pageSize == 0 {
		return newest, err
	}
	c.pageSize, c.pages = int64(newest.pageSize), newest.pages
	if inFile := uint64(c.size / c.pageSize); c.pages > inFile {
		err = fmt.Errorf("cut short: %d pages of %d", inFile, c.pages)
		c.pages = inFile
	}
	c.seen = make([]bool, c.pages)
	return newest, err
}

// readSecondMeta looks at every place where it can be if the page size is not
// known.
func (c *checker) readSecondMeta(pageSize uint64) (metaPage, error) {
	if pageSize != 0 {
		return c.readMeta(int64(pageSize))
	}
	for size := uint64(minPage); size <= maxPage; size *= 2 {
		if meta, err := c.readMeta(int64(size)); err == nil && meta.pageSize == size {
			return meta, nil
		}
	}
	return metaPage{}, fmt.Errorf("not found")
}

func (c *checker) readMeta(offset int64) (metaPage, error) {
	var page [pageHeader + 64]byte
	if _, err := c.file.ReadAt(page[:], offset); err != nil {
		return metaPage{}, err
	}
	meta, order := page[pageHeader:], binary.NativeEndian
	sum := fnv.New64a()
	sum.Write(meta[:56])
	switch {
	case order.Uint32(meta[0:]) != fileMagic:
		return metaPage{}, fmt.Errorf("not a bbolt file")
	case order.Uint64(meta[56:]) != sum.Sum64():
		return metaPage{}, fmt.Errorf("wrong checksum")
	case order.Uint32(meta[4:]) != fileVersion:
		return metaPage{}, fmt.Errorf("version %d of the file format", order.Uint32(meta[4:]))
	}
	pageSize := uint64(order.Uint32(meta[8:]))
	if pageSize < minPage || pageSize > maxPage {
		return metaPage{}, fmt.Errorf("page size %d", pageSize)
	}
	return metaPage{
		pageSize:    pageSize,
		root:        order.Uint64(meta[16:]),
		pages:       order.Uint64(meta[40:]),
		transaction: order.Uint64(meta[48:]),
	}, nil
}

// checkBuckets checks what is in both buckets.
func (c *checker) checkBuckets(root uint64) error {
	conf, logs, err := c.buckets(root)
	if err != nil {
		return err
	}
	if err := c.walkBucket(conf, walk{visit: checkConfKey}); err != nil {
		return err
	}
	return c.walkBucket(logs, walk{visit: checkLogKey})
}

// raftBuckets are those that raft-boltdb makes.
var raftBuckets = []string{"conf", "logs"}

// buckets returns the only two that there are.
func (c *checker) buckets(root uint64) (conf, logs element, err error) {
	names, found, err := c.bucketNames(root)
	if err != nil {
		return conf, logs, err
	}
	if !slices.Equal(names, raftBuckets) {
		return conf, logs, errs.Unfamiliar(fmt.Sprintf("buckets %q in place of %q", names, raftBuckets))
	}
	return found[0], found[1], nil
}

func (c *checker) bucketNames(root uint64) (names []string, found []element, err error) {
	w := walk{check: c, visit: func(e element) error {
		found, names = append(found, e), append(names, string(e.key))
		return nil
	}}
	err = w.page(root, nil)
	return names, found, err
}

// walkBucket takes w through one bucket: a page of its own, or, for little data,
// one inside the bucket's value.
func (c *checker) walkBucket(bucket element, w walk) error {
	w.check = c
	if bucket.flags != bucketFlag || len(bucket.value) < bucketHeader {
		return fmt.Errorf("%q in place of a bucket", bucket.key)
	}
	page, inline := binary.NativeEndian.Uint64(bucket.value), bucket.value[bucketHeader:]
	if page != 0 && len(inline) == 0 {
		return w.page(page, nil)
	}
	if page != 0 || len(inline) < pageHeader {
		return fmt.Errorf("bucket %q: bad header", bucket.key)
	}
	if err := w.leaf(inline); err != nil {
		return fmt.Errorf("bucket %q: %w", bucket.key, err)
	}
	return nil
}

func checkLogKey(e element) error {
	if e.flags != 0 || len(e.key) != 8 {
		return fmt.Errorf("%x is not the key of an entry", e.key)
	}
	return nil
}

func checkConfKey(e element) error {
	same := func(key []byte) bool { return bytes.Equal(key, e.key) }
	if e.flags != 0 || !same(RecordKey) && !slices.ContainsFunc(RaftKeys, same) {
		return errs.Unfamiliar(fmt.Sprintf("unknown key %q", e.key))
	}
	return nil
}

// element is one element of a page: a key with its value in a leaf, with
// the page below it in a branch.
type element struct {
	flags      uint32
	page       uint64
	key, value []byte
}

// walk visits the elements of one bucket in key order.
type walk struct {
	check *checker
	visit func(element) error
	// skip, if there is one, is told of each page that cannot be read to its end, and
	// the lowest key that it may have; the walk goes on behind it, unless skip returns
	// an error.
	skip func(low []byte, err error) error
	last []byte // the newest key that was visited
}

// page visits what is below page id, where no key may be below low.
func (w *walk) page(id uint64, low []byte) error {
	page, err := w.check.readPage(id)
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	switch flags := binary.NativeEndian.Uint16(page[8:]); flags {
	case leafFlag:
		err = w.leafFrom(page, low)
	case branchFlag:
		err = w.branch(page, low)
	default:
		err = fmt.Errorf("flags %#x", flags)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func (w *walk) branch(page, low []byte) error {
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
		err := w.page(e.page, e.key)
		if err != nil && w.skip != nil {
			err = w.skip(e.key, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leaf visits a page inside a value, which has no number but the same form.
func (w *walk) leaf(page []byte) error {
	if flags := binary.NativeEndian.Uint16(page[8:]); flags != leafFlag {
		return fmt.Errorf("flags %#x", flags)
	}
	return w.leafFrom(page, nil)
}

func (w *walk) leafFrom(page, low []byte) error {
	elements, err := readElements(page)
	for _, e := range elements {
		if bytes.Compare(e.key, low) < 0 || w.last != nil && bytes.Compare(e.key, w.last) <= 0 {
			return fmt.Errorf("key %x is out of order", e.key)
		}
		w.last = e.key
		if err := w.visit(e); err != nil {
			return err
		}
	}
	return err
}

// readPage reads a page with its overflow pages, each of which may be reached
// only once.
func (c *checker) readPage(id uint64) ([]byte, error) {
	if id < 2 || id >= c.pages {
		return nil, fmt.Errorf("not one of %d pages", c.pages)
	}
	header := make([]byte, pageHeader)
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
// values one after the other. With an error it returns those before it.
func readElements(page []byte) ([]element, error) {
	order := binary.NativeEndian
	leaf := order.Uint16(page[8:]) == leafFlag
	count := int(order.Uint16(page[10:]))
	data := pageHeader + 16*count // where keys and values start
	if data > len(page) {
		return nil, fmt.Errorf("%d elements", count)
	}
	if rest := page[data:]; count == 0 && len(bytes.Trim(rest, "\x00")) > 0 {
		return nil, fmt.Errorf("no elements, but data")
	}
	elements := make([]element, count)
	for i := range elements {
		at := pageHeader + 16*i
		raw, e := page[at:at+16], &elements[i]
		position, keySize, valueSize := order.Uint32(raw[0:]), order.Uint32(raw[4:]), uint32(0)
		if leaf {
			e.flags, position, keySize, valueSize = order.Uint32(raw[0:]), order.Uint32(raw[4:]), order.Uint32(raw[8:]), order.Uint32(raw[12:])
		} else {
			e.page = order.Uint64(raw[8:])
		}
		end := uint64(data) + uint64(keySize) + uint64(valueSize)
		if uint64(at)+uint64(position) != uint64(data) || keySize == 0 || end > uint64(len(page)) {
			return elements[:i], fmt.Errorf("element %d of %d is out of place", i, count)
		}
		e.key = page[data : data+int(keySize)]
		e.value = page[data+int(keySize) : end]
		data = int(end)
	}
	return elements, nil
}

// IsFile reports whether the file is one of raft-boltdb's, whatever its name.
func IsFile(path string) bool {
	var names []string
	err := readFile(path, func(c *checker) error {
		meta, err := c.readMetas()
		if err == nil {
			names, _, err = c.bucketNames(meta.root)
		}
		return err
	})
	return err == nil && slices.Equal(names, raftBuckets)
}
