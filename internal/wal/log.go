// Package wal keeps raft's log in segments, files of a fixed size: what is stored costs one
// write and one sync, however many entries there are.
//
// [Create] makes a log. [Open] reads all of one and writes nothing, [Log.Resume] opens it
// for writing, and from then on it is a [raft.LogStore]. Its entries are those from one
// index to another, without a gap. Each entry has a checksum, which is verified whenever it
// is read. An error that wraps [errs.Damaged] names the segment and the offset.
//
// What a crash leaves behind the last whole frame is the rest of a write that nobody was
// told of, and goes. It can look like one that was whole, of which bits have changed since:
// then there is a [Doubt]. Everywhere else each frame proves those before it, as it was
// written when they were durable, and what is wrong with one of these is damage.
//
// A Log has a goroutine while a new segment is filled with zeros, for which Close waits. It
// only makes a file, and hands it over by a channel. The methods may be called from any
// goroutine, one at a time of those that write. The mutex named writing is held while the disk works, and before mu, which never
// is. After an error of a write nothing is written any more. Tests cut the power, fail the
// disk and flip bits at every operation of a script, and read back what must be there.
package wal

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/durable"
)

// DefaultSegmentSize is large enough for a new segment to be rare, and small enough for a node
// with little data.
const DefaultSegmentSize = 4 << 20

// Options is what a log can be told.
type Options struct {
	SegmentSize int64        // of segments to come, in bytes; 0: DefaultSegmentSize
	Stored      uint64       // for Open: entries up to this index were stored, as its caller knows; 0: it knows of none
	Logger      hclog.Logger // nil: none

	files files // nil: those of the directory
}

func (o Options) withDefaults(dir string) (Options, error) {
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	var err error
	if o.files == nil {
		o.files, err = openDirectory(dir)
	}
	return o, err
}

// Log is a log in segments.
type Log struct {
	Options
	id ID

	writing sync.Mutex // held by the one that writes
	broken  error      // why nothing is written any more; guarded by writing
	frame   []byte     // the last one, whose memory is used again; guarded by writing
	current *segment   // where the next frame goes; guarded by writing
	// spare follows current, ready to be written to; nil: there was no room for it.
	// Guarded by writing.
	spare   *segment
	filling <-chan filled // of a goroutine that makes a file; nil: there is none. Guarded by writing

	mu          sync.RWMutex // guards the following, and the entries of each segment
	segments    []*segment   // by number; the first ones may be without a live entry
	first, last uint64       // 0, 0: the log is empty
	doubt       Doubt
}

// Doubt is about a frame at the end of the log that is not whole although one of its marks
// is there: either a crash tore the write apart, or the entries had been stored, perhaps
// acknowledged, and are damaged. They are gone. A voter that doubts must not vote for a
// candidate that could lack them, nor lead: not before the log reaches Index.
type Doubt struct {
	Index uint64 // of the last such entry; 0: there is no doubt
	Term  uint64 // its term
	// Configures says that a configuration is among them: who the voters are is in doubt.
	Configures bool
}

// Reached reports whether a log whose newest entry has that index and term can lack none
// of what is in doubt, unless it was never committed: one with an entry of a later term has
// it from a leader who had all that was (section 5.4 of the Raft paper).
func (d Doubt) Reached(index, term uint64) bool {
	return cmp.Or(cmp.Compare(term, d.Term), cmp.Compare(index, d.Index)) >= 0
}

// Create makes an empty log in dir, which is made as well, or must be empty.
func Create(dir string, opt Options) (*Log, error) {
	if opt.files == nil {
		if err := durable.MakeDir(dir); err != nil {
			return nil, err
		}
	}
	opt, err := opt.withDefaults(dir)
	if err != nil {
		return nil, err
	}
	l := &Log{Options: opt}
	if names, err := l.files.list(); err != nil || len(names) > 0 {
		return nil, errors.Join(fmt.Errorf("create a log in %s: there is %q", dir, names), err, l.files.Close())
	}
	_, _ = rand.Read(l.id[:]) // which never fails
	first, err := l.createSegment(l.fill(), 1)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create a log: %w", err), l.files.Close())
	}
	l.segments, l.current = []*segment{first}, first
	return l, nil
}

// ID tells the log from any other.
func (l *Log) ID() ID { return l.id }

// Doubt is what is in doubt; see there.
func (l *Log) Doubt() Doubt {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.doubt
}

// Close closes the segments. What was stored is durable without it.
func (l *Log) Close() (err error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.broken = errors.Join(l.broken, errClosed)
	if l.filling != nil {
		err = l.dropFilled(<-l.filling)
	}
	for _, s := range l.segments {
		err = errors.Join(err, s.file.Close())
	}
	return errors.Join(err, l.files.Close())
}

func (l *Log) dropFilled(f filled) error {
	if l.filling = nil; f.err != nil { // nobody needs the file
		return nil
	}
	return errors.Join(f.file.Close(), l.files.remove(unfinished))
}

var errClosed = errors.New("the log is closed")

// FirstIndex is the index of the first entry; 0: there is none.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.first, nil
}

// LastIndex is the index of the last entry; 0: there is none.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last, nil
}

// IsMonotonic tells raft that the log can have no gaps.
func (l *Log) IsMonotonic() bool { return true }

// Resume opens the log for writing. What a crash has left behind its end no frame that is
// written from now on can be mixed up with: they have another salt.
func (l *Log) Resume() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	for _, s := range l.segments {
		writable, err := l.files.open(s.name, true)
		if err != nil {
			return err
		}
		if err := s.file.Close(); err != nil {
			return errors.Join(err, writable.Close())
		}
		s.file = writable
	}
	if err := l.files.remove(unfinished); err != nil {
		return err
	}
	if err := l.makeDurable(); err != nil {
		return fmt.Errorf("make durable what the log has: %w", err)
	}
	if err := l.beginSession(); err != nil {
		return fmt.Errorf("begin to write the log: %w", err)
	}
	return nil
}

// makeDurable makes sure of what was read. It may be in memory alone, when it was not the
// power that failed but the process; and after an error of a sync a system may take what it
// has in memory for written, so that the last frame is written again, and each header.
func (l *Log) makeDurable() error {
	last := l.newestFrame()
	for _, s := range l.segments {
		err := s.rewrite(0, headerSize)
		if err == nil && s == last {
			err = s.rewrite(s.newest, s.end)
		}
		if err == nil {
			err = s.file.Sync()
		}
		if err != nil {
			return err
		}
	}
	return l.files.sync()
}

func (l *Log) beginSession() error {
	if l.spare != nil { // a write to it may have been torn
		if err := l.renew(l.spare, l.spare.number); err != nil {
			return err
		}
	} else if err := l.prepareAhead(); err != nil {
		return err
	}
	m := mark{kind: kindSession, configures: l.doubt.Configures, index: l.doubt.Index, first: l.last, term: l.doubt.Term}
	if _, err := l.write(m, nil); err != nil {
		return err
	}
	l.current.resalt(l.current.salt + 1)
	return nil
}

// StoreLog stores one entry.
func (l *Log) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs stores entries that follow the last one, all or none of them. They are durable
// when it returns nil.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.checkFollow(entries); err != nil {
		return err
	}
	index, newest := entries[0].Index, entries[len(entries)-1]
	first := l.first
	if first == 0 {
		first = index
	}
	configures := slices.ContainsFunc(entries, func(e *raft.Log) bool { return e.Type == raft.LogConfiguration })
	m := mark{kind: kindEntries, configures: configures, count: uint32(len(entries)), index: index, first: first, term: newest.Term}
	offsets, err := l.write(m, entries)
	if err != nil {
		return fmt.Errorf("store entries %d to %d: %w", index, newest.Index, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(l.current, m, offsets)
	return nil
}

func (l *Log) checkFollow(entries []*raft.Log) error {
	last := l.last
	for _, entry := range entries {
		if entry.Index == 0 || last != 0 && entry.Index != last+1 {
			return fmt.Errorf("entry %d was to follow entry %d", entry.Index, last)
		}
		last = entry.Index
	}
	return nil
}

// DeleteRange deletes the entries from to, both included, which the log must begin or end
// with. Where it ends with them, that is durable when it returns. Where it begins with
// them, the next write makes it so: until then they could be there again after a crash.
func (l *Log) DeleteRange(from, to uint64) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	from, to = max(from, l.first), min(to, l.last)
	switch {
	case l.broken != nil:
		return l.broken
	case l.first == 0 || from > to:
		return nil
	case to == l.last:
		return l.deleteSuffix(from)
	case from == l.first:
		return l.deletePrefix(to)
	}
	return fmt.Errorf("deleting the entries %d to %d would tear the log %d to %d apart", from, to, l.first, l.last)
}

func (l *Log) deleteSuffix(from uint64) error {
	m := mark{kind: kindCut, index: from, first: l.first, term: l.last}
	if from == l.first { // all goes, what was deleted before it as well
		m.index, m.first = 0, 0
	}
	if _, err := l.write(m, nil); err != nil {
		return fmt.Errorf("delete the entries from %d on: %w", from, err)
	}
	l.mu.Lock()
	l.forgetFrom(from)
	l.mu.Unlock()
	return l.removeUnneeded()
}

func (l *Log) deletePrefix(to uint64) error {
	l.mu.Lock()
	l.forgetBelow(to + 1)
	l.mu.Unlock()
	return l.removeUnneeded()
}

// add takes note of the entries of a frame in s. Held: mu.
func (l *Log) add(s *segment, m mark, offsets []uint32) {
	if l.first == 0 || m.index != l.last+1 { // nothing before it is needed
		l.forgetFrom(0)
		l.first = m.index
	}
	s.add(m.index, offsets)
	l.last = m.index + uint64(m.count) - 1
	if l.doubt.Reached(l.last, m.term) {
		l.doubt = Doubt{}
	}
}

// forgetFrom forgets the entries from index on. Held: mu.
func (l *Log) forgetFrom(index uint64) {
	for _, s := range l.segments {
		s.cut(index)
	}
	if index <= l.first {
		l.first, l.last = 0, 0
	}
	l.last = min(l.last, index-1)
}

// forgetBelow forgets the entries below index. Held: mu.
func (l *Log) forgetBelow(index uint64) {
	if l.first != 0 {
		l.first = max(l.first, index)
	}
	if l.first > l.last {
		l.first, l.last = 0, 0
	}
}

// write writes a frame and syncs it.
func (l *Log) write(m mark, entries []*raft.Log) (offsets []uint32, err error) {
	if l.broken != nil {
		return nil, l.broken
	}
	if err := l.takeFilled(); err != nil {
		l.broken = err
		return nil, err
	}
	size := frameSize(entries)
	if size > maxFrame {
		return nil, fmt.Errorf("%d bytes are too much for one write", size)
	}
	if l.current.end+size > l.current.size {
		if err := l.advance(size); err != nil {
			if !isFull(err) { // else nothing has changed, and there may be room the next time
				l.broken = err
			}
			return nil, err
		}
	}
	s := l.current
	l.frame, offsets = appendFrame(l.frame[:0], m, entries, s.at(s.end))
	if _, err = s.file.WriteAt(l.frame, s.end); err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		l.broken = err
		return nil, err
	}
	s.end += size
	if cap(l.frame) > keptFrame {
		l.frame = nil
	}
	return offsets, nil
}

const (
	maxFrame  = 1 << 31 // offsets have 32 bits
	keptFrame = 4 << 20 // of memory, for the next one
)
