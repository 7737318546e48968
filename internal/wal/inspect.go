package wal

import (
	"errors"
	"io"
	"slices"

	"github.com/hashicorp/raft"
)

// Inspect reads a log in which anything may be damaged, past all that cannot be read. visit
// gets each entry, of so many bytes, and what is wrong with it: then the entry is what its
// bytes say all the same, or nil if they are none. skip is told
// of what cannot be read, and the lowest index that may be there; the log goes on behind
// it. An error of either ends the reading. Of a write that was torn apart at the end of the
// log nothing is told.
func Inspect(dir string, id ID, visit func(index uint64, entry *raft.Log, size int, err error) error, skip func(low uint64, err error) error) (err error) {
	opt, err := Options{}.withDefaults(dir)
	if err != nil {
		return err
	}
	l := &Log{Options: opt, id: id}
	defer func() { err = errors.Join(err, l.Close()) }()
	i := &inspection{}
	if err := i.read(l); err != nil {
		return err
	}
	for _, f := range i.found {
		switch {
		case f.record == nil:
			err = skip(f.index, f.err)
		case f.index < i.first && f.err != nil: // it was deleted: nothing is missing
			err = skip(f.index, f.err)
		case f.index < i.first:
		default:
			err = visit(f.index, f.entry(), len(f.record), f.err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// FindID returns the ID of the log in dir, as far as a segment of it tells.
func FindID(dir string) (id ID, found bool) {
	from, err := openDirectory(dir)
	if err != nil {
		return id, false
	}
	defer from.Close()
	names, _ := from.list()
	for _, name := range names {
		f, err := from.open(name, false)
		if err != nil {
			continue
		}
		s := &segment{name: name, file: f}
		found, _ = s.readHeader()
		if _ = f.Close(); found {
			return s.id, true
		}
	}
	return id, false
}

// inspection is what is found of a log.
type inspection struct {
	first uint64 // of the log, as its newest frame has it
	found []stored
}

// stored is what is stored at an index, or, without a record, a place that cannot be read
// and the index that comes next.
type stored struct {
	index  uint64
	record []byte
	err    error
}

// entry is what the record says, whatever its checksum; nil: it is none.
func (f stored) entry() *raft.Log {
	if !hasExtensions(f.record[recordHead:]) {
		return nil
	}
	entry := new(raft.Log)
	decodeRecord(f.record, f.index, entry)
	return entry
}

func (i *inspection) skip(errs ...error) {
	var next uint64
	if n := len(i.found); n > 0 {
		next = i.found[n-1].index
		if i.found[n-1].record != nil {
			next++
		}
	}
	for _, err := range errs {
		i.found = append(i.found, stored{index: next, err: err})
	}
}

// read reads what can be read of a log.
func (i *inspection) read(l *Log) error {
	wrong := map[uint64][]error{} // with a segment, by its number; 0: it has none that can be read
	err := l.openSegments(func(number uint64, err error) { wrong[number] = append(wrong[number], err) })
	if err != nil {
		return err
	}
	for at, s := range l.segments {
		if at > 0 && s.number > l.segments[at-1].number+1 { // the one that is not in its place
			i.skip(wrong[0]...)
			delete(wrong, 0)
		}
		i.skip(wrong[s.number]...)
		delete(wrong, s.number)
		i.readSegment(s)
	}
	i.skip(wrong[0]...)
	if i.isWhole() && len(l.segments) > 0 {
		if err := l.checkFront(i.last()); err != nil {
			i.skip(err)
		}
	}
	return nil
}

// isWhole reports whether nothing is wrong so far.
func (i *inspection) isWhole() bool {
	return !slices.ContainsFunc(i.found, func(f stored) bool { return f.err != nil })
}

// last is the last entry that was found; 0: none.
func (i *inspection) last() uint64 {
	if len(i.found) == 0 {
		return 0
	}
	return i.found[len(i.found)-1].index
}

// readSegment reads what can be read of a segment.
func (i *inspection) readSegment(s *segment) {
	size, err := s.file.size()
	var content []byte
	if err == nil {
		content, err = s.read(nil, min(size, s.size))
	}
	if err != nil {
		i.skip(err)
		return
	}
	for {
		m, _, err := s.next(content)
		var torn *tornError
		switch {
		case err == nil, m.kind == kindEntries && !errors.As(err, &torn): // one of them is damaged
		case errors.As(err, &torn) && torn.doubt == (Doubt{}), err == io.EOF:
			return
		default:
			i.skip(err)
			if !s.seek(content) {
				return
			}
			continue
		}
		if err := s.checkKind(m); err != nil {
			i.skip(err)
		}
		i.apply(s, m, content)
		s.newest, s.ends = s.end, m.ends()
		s.end = min(s.end+max(int64(m.length), alignment), int64(len(content)))
		if m.kind == kindSession {
			s.resalt(s.salt + 1)
		}
	}
}

// seek goes on to the next frame that begins as one should.
func (s *segment) seek(content []byte) bool {
	for at := s.end + alignment; at < int64(len(content)); at += alignment {
		if m, valid := markAt(content[at:], s.at(at)); valid && !m.end {
			s.end = at
			return true
		}
	}
	return false
}

// apply does to what was found what a frame says.
func (i *inspection) apply(s *segment, m mark, content []byte) {
	switch m.kind {
	case kindCut:
		i.cut(m.index)
		i.first = m.first
	case kindEntries:
		i.records(s, m, content)
		i.first = m.first
	}
}

// cut forgets the entries from index on, but not what could not be read: the log is not
// opened with it, whatever there was.
func (i *inspection) cut(index uint64) {
	i.found = slices.DeleteFunc(i.found, func(f stored) bool { return f.index >= index && f.err == nil })
	for at := range i.found {
		if f := &i.found[at]; f.index >= index {
			f.record = nil
		}
	}
}

func (i *inspection) records(s *segment, m mark, content []byte) {
	at, end := s.end+markSize, min(s.end+int64(m.length)-markSize, int64(len(content)))
	for index := m.index; index < m.index+uint64(m.count) && at < end; index++ {
		length, err := recordAt(content[at:end], index, s.salt)
		if length == 0 {
			i.skip(s.damaged(at, err))
			return
		}
		if err != nil {
			err = s.damaged(at, err)
		}
		i.found = append(i.found, stored{index, content[at : at+int64(length)], err})
		at += int64(length)
	}
}
