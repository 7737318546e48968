// Package disk keeps what a node must not forget: its log, and beside that one record with
// its term, its vote, its identity and its promises. A [Log] is what raft sees of the one,
// and its [Stable] what raft sees of the other.
//
// A log stands on a directory of segments beside a raft.db, which has the record, or on a
// store of the user's own, see engine. It puts before that what raft counts on: a checksum
// for each entry, the newest entries in memory, a watchdog for a disk that hangs, and the
// end of the node at the first error. [Open] reads all of it and writes nothing; then come
// [Log.OpenForWriting], [Log.Settle] with the newest snapshot, and [Log.Tidy]; raft runs;
// then [Log.Flush] and [Log.Close]. A directory that is hraftd's is taken over on the way,
// and one that is another program's is refused. [OpenReader] is for a look at a stopped
// node's log, damaged or not.
//
// Methods may be called from any goroutine once raft runs. Two channels take the place of
// locks, as they are held while the disk writes: the Log's end, for where the log ends, and
// the Stable's turn, for the record. end is held before turn, as a deletion lowers what the
// record counts on; who holds turn changes nothing of the log. The mutex of the window is
// held last, and never while the disk works. One goroutine at a time writes a leader's
// entries behind raft's back, and Flush waits for it. Tests run scripts on a store whose
// k-th operation goes wrong, for each k, and raft itself on such a store.
package disk

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/errs"
)

// deleteChunk is how many entries one transaction deletes in a store of the user's: writes
// wait for it.
const deleteChunk = 1024

// Log is the log store that raft sees: a base store behind checksums, fail-stop
// and a watchdog, with the newest entries in memory.
type Log struct {
	*failStop
	*logWindow
	stable *Stable
	base   engine
	atOnce uint64 // how many entries one write to base deletes at the most
	dir    string
	name   string
	log    hclog.Logger

	// fresh says that base was empty when it was opened, hraftds that it has what
	// hraftd has written and no record yet.
	fresh, hraftds bool
	// whose tells which member a store of hraftd's is, and owner is what it has told.
	whose   func(raft.Configuration) (id string, err error)
	owner   string
	logName string // of the log in the engine, for the record
	// severed is the first of the entries in front of a gap; 0: there is none.
	severed uint64
	hooks   atomic.Pointer[Hooks] // nil: raft has yet to start
	// behind is the latest write for which raft did not wait; nil: there was none.
	behind atomic.Pointer[writeBehind]
	// end is held by the one that changes where the log ends, for as long as it does.
	// Else what a snapshot replaces up to the end of the log could be deleted, from its
	// end on, beside entries that follow it: a power loss would leave these without
	// those before. It is a channel, as it is held while the disk writes, and held before
	// the turn of stable.
	end chan struct{}
}

// Flush is for a stop in order, when raft has ended. It waits until nothing is being
// written, however long that takes, and records how far the log reaches, for a start that
// can then tell whether all of it is still there.
func (l *Log) Flush() error {
	if w := l.behind.Load(); w != nil {
		<-w.ended
	}
	if l.Err() != nil {
		return nil
	}
	return l.stable.raiseTail()
}

// Close closes the files, and lets go of the directory.
func (l *Log) Close() error {
	if l.base == nil {
		return nil
	}
	return l.base.Close()
}

// read reads one entry from base and checks that it is the right one.
func (l *Log) read(index uint64, entry *raft.Log) error {
	*entry = raft.Log{} // a decoder may keep what it does not find, or write into old slices
	err := boltlog.Contain(func() error { return l.base.GetLog(index, entry) })
	if err != nil {
		return fmt.Errorf("read entry %d: %w", index, err)
	}
	return l.stable.record.Load().verifyEntry(entry, index)
}

// FirstIndex returns the index of the first entry, 0 when there is none.
func (l *Log) FirstIndex() (uint64, error) {
	first, _ := l.Bounds()
	return first, l.Err()
}

// LastIndex returns the index of the last entry, 0 when there is none.
func (l *Log) LastIndex() (uint64, error) {
	_, last := l.Bounds()
	return last, l.Err()
}

// IsMonotonic tells raft that the log has no gaps: after installing a snapshot
// it clears the log instead of leaving one.
func (l *Log) IsMonotonic() bool { return true }

// GetLog reads an entry, from memory if it is one of the newest. The entry's
// data must not be changed.
func (l *Log) GetLog(index uint64, entry *raft.Log) error {
	err := l.Err()
	if err == nil && l.get(index, entry) {
		return nil
	}
	if err == nil {
		err = l.getStored(index, entry)
	}
	if err == nil || err == raft.ErrLogNotFound {
		return err
	}
	if raftPanicsOnReadErrors() {
		endGoroutine()
	}
	return err
}

func (l *Log) getStored(index uint64, entry *raft.Log) error {
	err := l.read(index, entry)
	if err == nil {
		return nil
	}
	if !errors.Is(err, raft.ErrLogNotFound) {
		return l.Fail(fmt.Errorf("%s: %w", l.name, err))
	}
	if l.holds(index) {
		return l.Fail(fmt.Errorf("%w: %s: entry %d has vanished", errs.Damaged, l.name, index))
	}
	if raftPanicsOnReadErrors() {
		return l.Fail(fmt.Errorf("%w: %s: entry %d is to be applied and is not there", errs.Damaged, l.name, index))
	}
	return raft.ErrLogNotFound
}

// StoreLog stores one entry; see StoreLogs.
func (l *Log) StoreLog(entry *raft.Log) error {
	return l.StoreLogs([]*raft.Log{entry})
}

// StoreLogs stores entries that follow the last one, each with its checksum.
// One that brings a checksum, from a leader, must match it. A leader goes on while
// they are being stored; see writeBehind.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return l.Err()
	}
	if err := l.hold(l.end); err != nil {
		return err
	}
	defer func() { <-l.end }()
	if err := l.awaitAll(); err != nil {
		return err
	}
	sealed, err := l.seal(entries)
	if err != nil {
		return l.Fail(fmt.Errorf("%s: store entries: %w", l.name, err))
	}
	if l.maySend(sealed) {
		l.storeBehind(sealed)
		return nil
	}
	if err := l.store(sealed); err != nil {
		return err
	}
	l.append(sealed...)
	return nil
}

func (l *Log) store(sealed []*raft.Log) error {
	return l.write("store entries", dataSize(sealed), func() error { return l.base.StoreLogs(sealed) })
}

// dataSize is how many bytes the entries carry.
func dataSize(entries []*raft.Log) (bytes int) {
	for _, entry := range entries {
		bytes += len(entry.Data)
	}
	return bytes
}

// seal returns copies of the entries with checksums: raft's own are shared
// with its replication, which reads them meanwhile.
func (l *Log) seal(entries []*raft.Log) ([]*raft.Log, error) {
	copies := make([]raft.Log, len(entries))
	sealed := make([]*raft.Log, len(entries))
	sums := make([]byte, 0, checksumSize*len(entries))
	_, last := l.Bounds()
	for i, entry := range entries {
		// A gap, or an entry over another one, would make the log one that
		// the next start must refuse.
		if last != 0 && entry.Index != last+1 {
			return nil, fmt.Errorf("entry %d was to follow entry %d", entry.Index, last)
		}
		last = entry.Index
		copies[i], sealed[i] = *entry, &copies[i]
		if len(entry.Extensions) > 0 {
			if err := verifyChecksum(entry); err != nil {
				return nil, err
			}
			continue
		}
		sums = appendChecksum(sums, entry)
		copies[i].Extensions = sums[len(sums)-checksumSize : len(sums) : len(sums)]
	}
	return sealed, nil
}

// DeleteRange deletes the entries from to, both included: a prefix of the log,
// a suffix, or all of it. In segments that is one write. In a store of the user's it takes
// small transactions, between which others can write, in an order that leaves a log which
// raft can start from, wherever a crash interrupts it:
//
//   - A prefix goes in ascending order. What is left is a suffix without a
//     hole, and it starts inside or right after the snapshot for which the
//     prefix was deleted.
//   - A suffix goes in descending order: what is left is a prefix without a
//     hole. Ascending, the entries after the hole would survive.
//   - The whole log goes when a snapshot replaces it, in descending order. What
//     is left starts where it did and ends below the snapshot, or disagrees
//     with it, or is continued by it: alignWith tells these apart. Ascending,
//     it could start above the snapshot, as damage would.
func (l *Log) DeleteRange(from, to uint64) error {
	done, err := l.deleteEnd(from, to)
	if done || err != nil {
		return err
	}
	first, last := l.Bounds()
	from = max(from, first)
	switch {
	case first == 0 || from > to:
		return nil
	case from == first:
		return l.deletePrefix(from, to)
	}
	return l.Fail(fmt.Errorf("%s: deleting the entries %d to %d would tear the log %d to %d apart", l.name, from, to, first, last))
}

// deleteEnd deletes the entries if the log ends with them.
func (l *Log) deleteEnd(from, to uint64) (done bool, err error) {
	if err := l.hold(l.end); err != nil {
		return false, err
	}
	defer func() { <-l.end }()
	if err := l.AwaitStored(to); err != nil {
		return false, err
	}
	first, last := l.Bounds()
	from = max(from, first)
	if first == 0 || from > last || to < last {
		return false, nil
	}
	return true, l.deleteSuffix(from, last)
}

// Both forget the entries first and delete them then, so that a reader who
// finds one missing can tell that from a loss.

func (l *Log) deletePrefix(from, to uint64) error {
	for low := from; low <= to; {
		high := low + min(to-low, l.atOnce-1)
		l.dropBelow(high + 1)
		if err := l.deleteStored(low, high); err != nil {
			return err
		}
		low = high + 1
	}
	return nil
}

func (l *Log) deleteSuffix(from, to uint64) error {
	if hooks := l.hooks.Load(); hooks != nil && hooks.MayCut != nil {
		if err := hooks.MayCut(from); err != nil {
			return l.Fail(fmt.Errorf("%s: delete the entries %d to %d: %w", l.name, from, to, err))
		}
	}
	l.dropFrom(from)
	if err := l.stable.lowerTail(from - 1); err != nil {
		return err
	}
	for high := to; high >= from; {
		low := high - min(high-from, l.atOnce-1)
		if err := l.deleteStored(low, high); err != nil {
			return err
		}
		high = low - 1
	}
	return nil
}

func (l *Log) deleteStored(low, high uint64) error {
	return l.write("delete entries", 0, func() error { return l.base.DeleteRange(low, high) })
}

// Settle makes the record and the log fit the newest snapshot that was found. It comes
// before raft starts.
func (l *Log) Settle(newest SnapshotMark) (err error) {
	switch {
	case l.hraftds:
		err = l.takeOver(newest)
	case newest != l.stable.Record().Snapshot:
		err = l.stable.Remember(newest)
	}
	if err != nil {
		return err
	}
	if err := l.dropSevered(); err != nil {
		return err
	}
	return l.alignWith(newest.Index, newest.Term)
}

// IsNew reports whether there was nothing yet when the log was opened.
func (l *Log) IsNew() bool { return l.fresh }

// IsHraftds reports whether the log is hraftd's, and not taken over yet.
func (l *Log) IsHraftds() bool { return l.hraftds }

// Name is what errors call the log.
func (l *Log) Name() string { return l.name }

// CheckFollows makes sure that the log has lost no entries behind the newest snapshot.
func (l *Log) CheckFollows(newest SnapshotMark) error {
	if first, _ := l.Bounds(); first > newest.Index+1 {
		return fmt.Errorf("%w: %s: the log starts at entry %d, the newest snapshot ends at %d", errs.Damaged, l.name, first, newest.Index)
	}
	return nil
}

// alignWith makes the log fit the newest snapshot, which ends at index with
// term (0, 0: there is none). A crash between the completion of an installed
// snapshot and the clearing of the log leaves a log that ends below it or that
// disagrees with it: such a log is deleted, as raft would have. For Open, before raft.
func (l *Log) alignWith(index, term uint64) error {
	first, last := l.Bounds()
	switch {
	case first == 0:
		return nil
	case last < index:
		l.log.Warn("deleting a log that the newest snapshot replaces", "last", last, "snapshot", index)
		return l.DeleteRange(first, last)
	case first > index:
		return nil
	}
	var entry raft.Log
	if err := l.GetLog(index, &entry); err != nil {
		return err
	}
	if entry.Term == term {
		return nil
	}
	l.log.Warn("deleting a log that disagrees with the newest snapshot", "index", index, "term", entry.Term, "snapshot_term", term)
	return l.DeleteRange(first, last)
}
