package wal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/kvraft/kvraft/internal/errs"
)

// Open reads the log in dir and checks all of it. It writes nothing; see Resume. What is
// missing, damaged, doubled or of another log is an error that wraps [errs.Damaged].
func Open(dir string, id ID, opt Options) (*Log, error) {
	opt, err := opt.withDefaults(dir)
	if err != nil {
		return nil, err
	}
	l := &Log{Options: opt, id: id}
	var damage error
	err = l.openSegments(func(_ uint64, err error) { damage = cmp.Or(damage, err) })
	if err = cmp.Or(err, damage); err == nil {
		err = l.scan()
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// openSegments opens the segments in their order. What is wrong with them it reports, with
// the number of the segment if it is known, and goes on.
func (l *Log) openSegments(report func(number uint64, err error)) error {
	names, err := l.files.list()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "segment-") {
			continue
		}
		s, err := l.openSegment(name)
		var number uint64
		if s != nil {
			l.segments, number = append(l.segments, s), s.number
		}
		if err != nil {
			report(number, err)
		}
	}
	if len(l.segments) == 0 {
		report(0, fmt.Errorf("%w: the log has no segment", errs.Damaged))
		return nil
	}
	slices.SortFunc(l.segments, func(a, b *segment) int { return cmp.Compare(a.number, b.number) })
	for i, s := range l.segments[1:] {
		switch before := l.segments[i]; {
		case s.number == before.number:
			report(s.number, s.damaged(0, fmt.Errorf("it is segment %d of the log, and so is %s", s.number, before.name)))
		case s.number != before.number+1:
			report(s.number, fmt.Errorf("%w: between %s and %s the log lacks %d segments", errs.Damaged, before.name, s.name, s.number-before.number-1))
		}
	}
	return nil
}

// openSegment opens a segment, which may be one even if something is wrong with it.
func (l *Log) openSegment(name string) (*segment, error) {
	f, err := l.files.open(name, false)
	if err != nil {
		return nil, err
	}
	s := &segment{name: name, file: f}
	whole, err := s.readHeader()
	if err == nil && s.id != l.id {
		whole, err = false, s.damaged(0, fmt.Errorf("it is a segment of another log, %x", s.id))
	}
	if !whole {
		return nil, errors.Join(err, f.Close())
	}
	return s, err
}

// scan reads all frames.
func (l *Log) scan() error {
	var end *tornError // nil: no frame yet that is not whole
	var content []byte
	for _, s := range l.segments {
		var err error
		if content, err = s.read(content, s.size); err != nil {
			return err
		}
		err = l.scanSegment(s, content, end)
		if err != nil && !errors.As(err, &end) {
			return err
		}
	}
	l.current = l.segments[len(l.segments)-1]
	if n := len(l.segments); n > 1 && l.current.end == segmentHeader && (end == nil || end.segment != l.current) {
		l.current, l.spare = l.segments[n-2], l.current
	}
	if err := l.checkFront(l.last); err != nil {
		return err
	}
	switch {
	case l.last >= l.Stored:
	case end != nil: // no crash has torn it
		return end.segment.damaged(end.segment.end, fmt.Errorf("%w, and entries up to %d were stored", end.err, l.Stored))
	default:
		return l.current.damaged(l.current.end, fmt.Errorf("the log ends with entry %d, but entries up to %d were stored", l.last, l.Stored))
	}
	if end != nil {
		l.Logger.Warn("the log ends with a write that is not whole", "error", end, "in_doubt", end.doubt.Index)
		l.addDoubt(end.doubt)
	}
	return nil
}

// checkFront says what is missing if the entry last, or 0, is the last one that was found
// in the segments, and they have lost what was before them. Where there are later entries
// than those that are lost, who opens the log knows what a snapshot has of these.
func (l *Log) checkFront(last uint64) error {
	lowest := l.segments[0]
	switch s := l.newestFrame(); {
	case s == nil && lowest.number > 1: // each segment but the first one is begun after a frame
		return lowest.damaged(segmentHeader, errors.New("nothing was written to it, and the segments before it are missing"))
	case s != nil && s.ends != last:
		return s.damaged(s.newest, fmt.Errorf("the log ends with entry %d by then, which was in segments that are missing", s.ends))
	}
	return nil
}

// newestFrame is the segment with the last frame that was found; nil: there is none.
func (l *Log) newestFrame() (newest *segment) {
	for _, s := range l.segments {
		if s.newest > 0 {
			newest = s
		}
	}
	return newest
}

// scanSegment reads the frames of a segment. end is what is not whole in one before it: it
// was when anything was written to this one.
func (l *Log) scanSegment(s *segment, content []byte, end *tornError) error {
	for {
		m, offsets, err := s.next(content)
		switch {
		case err == io.EOF:
			return nil
		case end != nil:
			return end.segment.damaged(end.segment.end, fmt.Errorf("%w, and %s was begun after it", end.err, s.name))
		case err != nil:
			return err
		}
		if err := s.checkKind(m); err != nil {
			return err
		}
		if err := l.apply(s, m, offsets); err != nil {
			return s.damaged(s.end, err)
		}
		s.newest, s.ends, s.end = s.end, m.ends(), s.end+int64(m.length)
		if m.kind == kindSession {
			s.resalt(s.salt + 1)
		}
	}
}

// checkKind makes sure that this version knows what the frame at the end of s says.
func (s *segment) checkKind(m mark) error {
	if m.kind < kindEntries || m.kind > kindSession {
		return fmt.Errorf("%w: %s at offset %d has a frame of kind %d", errs.Newer, s.name, s.end, m.kind)
	}
	return nil
}

// read reads the first bytes of a segment, into the memory of b if there is enough.
func (s *segment) read(b []byte, size int64) (content []byte, err error) {
	content = slices.Grow(b[:0], int(size))[:size]
	if n, err := s.file.ReadAt(content, 0); int64(n) < size {
		return nil, fmt.Errorf("read %s at offset %d: %w", s.name, n, err)
	}
	return content, nil
}

// tornError is about the last frame, which is not whole.
type tornError struct {
	segment *segment
	err     error
	doubt   Doubt
}

func (e *tornError) Error() string {
	return fmt.Sprintf("%s at offset %d: %v", e.segment.name, e.segment.end, e.err)
}

// next reads the next frame. Its error is io.EOF if there is none, a tornError, or says
// what is damaged.
func (s *segment) next(content []byte) (m mark, offsets []uint32, err error) {
	m, begun := markAt(content[s.end:], s.at(s.end))
	if begun = begun && !m.end; begun {
		if offsets, err = s.records(content, m); err == nil {
			return m, offsets, nil
		}
	} else {
		m, err = mark{}, errors.New("the beginning of a frame does not match its checksum")
	}
	end, followed := s.behind(content)
	switch {
	case end.kind != 0 && end.kind != kindEntries:
		return end, nil, nil // which says all
	case followed:
		return m, nil, s.damaged(s.end, fmt.Errorf("%w, and others follow it", err))
	case end.kind == 0 && !begun:
		return m, nil, io.EOF
	case end.kind == 0: // the other one says the same
		end = m
	}
	switch {
	case s.end/sector == (s.end+int64(end.length)-1)/sector:
		return m, nil, s.damaged(s.end, err) // no crash tears a sector apart
	}
	return m, nil, &tornError{s, err, Doubt{end.index + uint64(end.count) - 1, end.term, end.configures}}
}

// sector is the least that a disk writes, whole or not at all.
const sector = 512

// records checks the entries of a frame.
func (s *segment) records(content []byte, m mark) (offsets []uint32, err error) {
	if int64(m.length) > int64(len(content))-s.end || m.length < 2*markSize {
		return nil, fmt.Errorf("a frame of %d bytes has no room there", m.length)
	}
	at, end := s.end+markSize, s.end+int64(m.length)-markSize
	for i := range uint64(m.count) {
		length, err := recordAt(content[at:end], m.index+i, s.salt)
		if err != nil {
			return nil, err
		}
		offsets = append(offsets, uint32(at))
		at += int64(length)
	}
	if end-at >= alignment {
		return nil, fmt.Errorf("a frame of %d entries has %d bytes too many", m.count, end-at)
	}
	return offsets, nil
}

// behind looks for what was written where a frame is not whole, or behind it: the end of
// that frame, and any mark of a later one, of that session or a later one.
func (s *segment) behind(content []byte) (end mark, followed bool) {
	for at := s.end; at+markSize <= int64(len(content)); at += alignment {
		salt := binary.BigEndian.Uint64(content[at:])
		if salt-s.salt > mostSessions {
			continue
		}
		m, valid := markAt(content[at:], place{s.number, salt, at})
		if !valid {
			continue
		}
		start := at
		if m.end {
			start = at + markSize - int64(m.length)
		}
		switch {
		case start > s.end || salt != s.salt:
			return end, true
		case start == s.end && m.end:
			end = m
		}
	}
	return end, false
}

// mostSessions is how many sessions without a frame of theirs are looked behind.
const mostSessions = 1 << 16

// addDoubt makes a doubt the log's, unless what is in doubt already is further away.
func (l *Log) addDoubt(d Doubt) {
	if l.doubt.Reached(d.Index, d.Term) {
		d.Configures = d.Configures || l.doubt.Configures
		l.doubt = d
	}
}

// apply does to the log what a frame says.
func (l *Log) apply(s *segment, m mark, offsets []uint32) error {
	switch m.kind {
	case kindSession:
		if l.last != 0 && m.first != l.last {
			return fmt.Errorf("a session begins after entry %d, and not %d", m.first, l.last)
		}
		l.addDoubt(Doubt{m.index, m.term, m.configures})
		return nil
	case kindCut:
		if l.last != 0 && m.term != l.last {
			return fmt.Errorf("the entries %d to %d are deleted after entry %d", m.index, m.term, l.last)
		}
		l.forgetFrom(m.index)
	case kindEntries:
		if m.count == 0 || m.first == 0 || m.index < m.first || m.index+uint64(m.count)-1 < m.index {
			return fmt.Errorf("a frame has %d entries from %d on, of a log from %d on", m.count, m.index, m.first)
		}
		if l.last != 0 && m.index != l.last+1 {
			return fmt.Errorf("entry %d follows entry %d", m.index, l.last)
		}
		l.add(s, m, offsets)
	}
	l.forgetBelow(m.first)
	return nil
}
