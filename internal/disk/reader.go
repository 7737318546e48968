package disk

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/wal"
)

// Reader is what a stopped node has of a log, damaged or not, and of its record.
type Reader struct {
	// record allows everything if there is none that can be read. Without a Format it is
	// none, and has at most what raft keeps.
	Record Record
	Err    error // what is wrong with the raft.db, or with the record; nil: nothing

	dir  string
	file *boltlog.Reader
	lost bool // the record cannot be read, and does not name the log
}

// OpenReader opens the log of the stopped node in dir, to look at it. Nothing in dir is
// changed, and until Close no node can open it. Its error wraps [errs.Locked],
// [errs.Invalid] when there is no node's data, or [errs.Foreign].
func OpenReader(dir string) (*Reader, error) {
	path := filepath.Join(dir, boltlog.Name)
	file, err := boltlog.OpenReader(path, lockPatience)
	if err != nil && !errors.Is(err, errs.Damaged) {
		return nil, nameForeign(dir, nil, false, err)
	}
	r := &Reader{dir: dir, file: file, Err: err, Record: Record{ChecksummedFrom: math.MaxUint64}}
	r.lost = !file.CanRead()
	if file.CanRead() {
		r.Err = errors.Join(err, r.readRecord())
	}
	if r.Err != nil {
		r.Err = fmt.Errorf("%s: %w", path, r.Err)
	}
	if r.Record.Format == 0 {
		if err := checkForeign(dir); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}

// checkForeign returns an [errs.Foreign] for a directory without a record if a start would.
func checkForeign(dir string) error {
	l, err := Open(Options{Dir: dir, CacheBytes: 1, Fail: func(error) {}})
	switch {
	case errors.Is(err, errs.Foreign):
		return err
	case err == nil:
		return l.Close()
	}
	return nil // all else has its place in the Reader
}

// Close lets go of the directory.
func (r *Reader) Close() error { return r.file.Close() }

func (r *Reader) readRecord() error {
	values, damage := r.file.Values()
	if damage != nil {
		damage = fmt.Errorf("%w: read the node's record: %w", errs.Damaged, damage)
	}
	stored, found := values[string(boltlog.RecordKey)]
	if !found {
		r.Record.Raft = values // hraftd's
		return errors.Join(damage, checkNoLog(r.dir))
	}
	m, err := DecodeRecord(stored)
	if err != nil {
		r.lost = true
		return err
	}
	r.Record = m
	if m.Log == "" {
		return errors.Join(damage, checkNoLog(r.dir))
	}
	return errors.Join(damage, r.checkNoEntries())
}

// checkNoEntries reads what is beside a log in segments in the raft.db, where the log was
// before: none of it is the log, but a start is refused if the file is damaged there.
func (r *Reader) checkNoEntries() error {
	err := r.file.Entries(
		func(uint64, *raft.Log, int, error) error { return nil },
		func(_ uint64, err error) error { return err },
	)
	if err != nil {
		return fmt.Errorf("%w: %w", errs.Damaged, err)
	}
	return nil
}

// Entry is an entry, or, without one, something that is wrong from an index on.
type Entry struct {
	Index uint64
	Size  int       // bytes that are stored
	Log   *raft.Log // nil: there is none that can be read
}

// Entries reads the log from index from to index to, both included, and verifies what it
// reads. The newest snapshot ends at snapshot. An error, which wraps [errs.Damaged] or
// [errs.Newer], says what is wrong: with the entry beside it, or with a place where entries
// should be. The log goes on behind it, until yield returns false.
func (r *Reader) Entries(from, to, snapshot uint64, yield func(Entry, error) bool) {
	reading := &logReading{record: &r.Record, whole: r.Err == nil, from: from, to: to, snapshot: snapshot, yield: yield}
	if r.entries(reading) == nil {
		reading.end()
	}
}

func (r *Reader) entries(reading *logReading) error {
	dir, id, err := r.findSegments()
	switch {
	case err != nil:
		return reading.skip(0, err)
	case dir != "":
		return wal.Inspect(dir, id, reading.visit, reading.skip)
	case r.file.CanRead():
		return r.file.Entries(reading.visit, reading.skip)
	}
	return errStop // r.Err says why
}

// findSegments finds the log in segments; "": there is none. One that no record names any
// more names itself.
func (r *Reader) findSegments() (dir string, id wal.ID, err error) {
	if r.Record.Log != "" {
		return findLog(r.dir, r.Record.Log)
	}
	if dir := filepath.Join(r.dir, logDir); r.lost {
		if id, found := wal.FindID(dir); found {
			return dir, id, nil
		}
	}
	return "", id, nil
}

// logReading reads the log once.
type logReading struct {
	record   *Record
	whole    bool // nothing is wrong with the file
	from, to uint64
	snapshot uint64 // the index at which the newest one ends
	yield    func(Entry, error) bool

	next   uint64 // the index at which the log should go on; 0: not known yet
	term   uint64 // of the last entry
	unread error  // why entries before the one that comes could not be read
}

var errStop = errors.New("no more is wanted")

func (r *logReading) visit(index uint64, entry *raft.Log, size int, err error) error {
	if !r.bridge(index) || index > r.to {
		return errStop
	}
	r.next = index + 1
	if index < r.from {
		return nil
	}
	if err == nil {
		err = r.verify(index, entry)
	} else if !errors.Is(err, errs.Damaged) { // else it says where
		err = fmt.Errorf("%w: read entry %d: %w", errs.Damaged, index, err)
	}
	if !r.yield(Entry{index, size, entry}, err) {
		return errStop
	}
	return nil
}

// skip takes note of a page or a segment that cannot be read.
func (r *logReading) skip(low uint64, err error) error {
	if r.unread == nil {
		r.unread = err
	}
	if r.next == 0 {
		r.next = low
	}
	return nil
}

// bridge reports what is missing before index. It returns false when no more is wanted.
func (r *logReading) bridge(index uint64) bool {
	low, unread := r.next, r.unread
	r.unread = nil
	switch {
	case unread != nil:
		return r.report(low, index-1, fmt.Errorf("%s: %w", span(low, index-1), unread))
	case low == 0 && index > r.snapshot+1:
		return r.report(r.snapshot+1, index-1, fmt.Errorf("the log starts at entry %d, the newest snapshot ends at %d", index, r.snapshot))
	case low != 0 && low < index:
		return r.report(low, index-1, fmt.Errorf("%s: missing", span(low, index-1)))
	}
	return true
}

func span(low, high uint64) string {
	if low >= high {
		return fmt.Sprintf("entry %d", low)
	}
	return fmt.Sprintf("entries %d to %d", low, high)
}

// end reports what is missing at the end.
func (r *logReading) end() {
	next, tail := max(r.next, 1), r.record.Tail
	switch {
	case r.unread != nil:
		r.report(next, math.MaxUint64, fmt.Errorf("entries from %d on: %w", next, r.unread))
	case next <= tail:
		r.report(next, tail, fmt.Errorf("the log ends at entry %d, but entries up to %d were stored", next-1, tail))
	}
}

// report tells that something is wrong with the entries low to high, if they are wanted.
func (r *logReading) report(low, high uint64, err error) bool {
	if high < r.from || low > r.to {
		return true
	}
	if !errors.Is(err, errs.Newer) { // which may be whole
		err = fmt.Errorf("%w: %w", errs.Damaged, err)
	}
	return r.yield(Entry{Index: max(low, r.from)}, err)
}

// verify returns what is wrong with an entry.
func (r *logReading) verify(index uint64, entry *raft.Log) error {
	before := r.term
	r.term = entry.Term
	if err := r.record.verifyEntry(entry, index); err != nil {
		return err
	}
	kvrafts := r.record.Format > 0
	if r.whole && !kvrafts && len(entry.Extensions) > 0 { // hraftd's have none
		return fmt.Errorf("%w: entry %d is kvraft's, and the node's record is missing", errs.Damaged, index)
	}
	if current := r.record.Term(); kvrafts && (entry.Term < before || entry.Term > current) {
		return fmt.Errorf("%w: entry %d is of term %d, between ones of term %d and the node's term %d", errs.Damaged, index, entry.Term, before, current)
	}
	return nil
}
