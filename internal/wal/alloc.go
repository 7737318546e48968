package wal

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// unfinished is the name of a segment before it is whole.
const unfinished = "segment.new"

// keptSegments is how many segments of which nothing is needed are kept to be taken again.
const keptSegments = 8

// advance goes on to the next segment, which is made larger for a frame that needs more.
func (l *Log) advance(need int64) error {
	if l.spare == nil {
		err := l.prepare()
		if lacksDescriptors(err) && l.current.size+segmentSizeFor(need) <= maxSegment {
			return l.extend(need)
		}
		if err != nil {
			return err
		}
	}
	if size := segmentHeader + need; size > l.spare.size {
		if err := l.grow(size); err != nil {
			return err
		}
	}
	l.current, l.spare = l.spare, nil
	return l.prepareAhead()
}

// prepareAhead has the segment after the current one ready before it is needed: a disk that
// is full, or a process without file descriptors, is met while there is room in the current
// one, and not within a write. A new file is filled with zeros beside the writes, any of
// which would wait for that as long as for many others.
func (l *Log) prepareAhead() error {
	if l.canRenew() {
		return l.unlessShort(l.prepare())
	}
	if l.filling == nil {
		ended := make(chan filled, 1)
		l.filling = ended
		l.files.beside(func() { ended <- l.fill() })
	}
	return l.takeFilled()
}

// filled is a file for a segment to come, or why there is none.
type filled struct {
	file file
	err  error
}

// takeFilled makes the spare segment of the file that was being filled, if that has ended.
func (l *Log) takeFilled() error {
	if l.spare != nil {
		return nil
	}
	select {
	case f := <-l.filling:
		l.filling = nil
		return l.unlessShort(l.addSegment(f))
	default:
		return nil
	}
}

// awaitFilled returns a file that is filled, now or ahead.
func (l *Log) awaitFilled() filled {
	if l.filling != nil {
		f := <-l.filling
		l.filling = nil
		if !isShort(f.err) { // else there may be room by now
			return f
		}
	}
	return l.fill()
}

func isShort(err error) bool { return isFull(err) || lacksDescriptors(err) }

// unlessShort is err, unless it is for want of room or descriptors: what there is will do
// for a while.
func (l *Log) unlessShort(err error) error {
	if isShort(err) {
		l.Logger.Warn("no room for the next segment of the log", "left_bytes", l.current.size-l.current.end, "error", err)
		return nil
	}
	return err
}

// errNoRoom is about the disk, when nothing has changed yet but the size of a file.
var errNoRoom = errors.New("there is no room for a segment")

// noRoom is err, or an errNoRoom if that is what it is about.
func noRoom(err error) error {
	if diskIsFull(err) {
		err = fmt.Errorf("%w: %w", errNoRoom, err)
	}
	return err
}

func isFull(err error) bool { return errors.Is(err, errNoRoom) }

// lacksDescriptors reports whether a file could not be opened for want of a descriptor.
func lacksDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// prepare makes the segment after the current one: the oldest if nothing of it is needed,
// else a new one.
func (l *Log) prepare() error {
	if !l.canRenew() {
		return l.addSegment(l.awaitFilled())
	}
	number := l.current.number + 1
	if err := l.renew(l.segments[0], number); err != nil {
		return fmt.Errorf("prepare segment %d: %w", number, err)
	}
	return nil
}

func (l *Log) canRenew() bool {
	oldest := l.segments[0]
	return l.isUnneeded(oldest) && oldest.size == l.SegmentSize
}

// isUnneeded reports whether no entry of the log is in a segment, nor a session that says
// what is in doubt, nor the last frame, which says where the log ends.
func (l *Log) isUnneeded(s *segment) bool {
	if s == l.current || s == l.spare || s.number+1 == l.current.number && l.current.end == segmentHeader {
		return false
	}
	return l.doubt == (Doubt{}) && (l.first == 0 || len(s.offsets) == 0 || s.last() < l.first)
}

// renew takes the file of a segment for the one with that number, the newest.
func (l *Log) renew(old *segment, number uint64) error {
	s := &segment{name: old.name, file: old.file, id: l.id, number: number, size: old.size}
	if err := s.begin(); err != nil {
		return err
	}
	l.setSpare(s, old)
	return nil
}

// extend makes the current segment larger, which takes no descriptor as the next one would.
func (l *Log) extend(need int64) error {
	s := *l.current
	s.size += max(l.SegmentSize, segmentSizeFor(need))
	err := s.allocate()
	if err == nil {
		_, err = s.file.WriteAt(s.header(), 0)
	}
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("extend segment %d: %w", s.number, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current.size = s.size
	return nil
}

// segmentSizeFor is how large a segment is to be for that much.
func segmentSizeFor(size int64) int64 {
	return (size + segmentHeader - 1) / segmentHeader * segmentHeader
}

// maxSegment is how large one can be extended to: offsets have 32 bits.
const maxSegment = 1 << 31

// grow makes the spare segment larger.
func (l *Log) grow(size int64) error {
	s := *l.spare
	s.size = segmentSizeFor(size)
	err := s.allocate()
	if err == nil {
		err = s.begin()
	}
	if err == nil {
		l.setSpare(&s, l.spare)
	}
	return err
}

// addSegment makes the segment after the current one of a filled file.
func (l *Log) addSegment(f filled) error {
	number := l.current.number + 1
	s, err := l.createSegment(f, number)
	if err != nil {
		return fmt.Errorf("prepare segment %d: %w", number, err)
	}
	l.setSpare(s, nil)
	return nil
}

// setSpare puts a segment at the end of the list, where old is taken out.
func (l *Log) setSpare(s, old *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = slices.DeleteFunc(l.segments, func(other *segment) bool { return other == old })
	l.segments = append(l.segments, s)
	l.spare = s
}

// fill makes a file for a segment. It uses nothing of the log that changes.
func (l *Log) fill() filled {
	f, err := l.files.create(unfinished)
	if err != nil {
		return filled{err: noRoom(err)}
	}
	if err := (&segment{file: f, size: l.SegmentSize}).allocate(); err != nil {
		return filled{err: l.discard(f, err)}
	}
	return filled{file: f}
}

// createSegment makes a segment of a filled file, which gets its name when it is whole.
func (l *Log) createSegment(f filled, number uint64) (*segment, error) {
	if f.err != nil {
		return nil, f.err
	}
	s := &segment{name: fmt.Sprintf("segment-%06d", number), file: f.file, id: l.id, number: number, size: l.SegmentSize}
	err := s.begin()
	if err == nil {
		err = l.files.rename(unfinished, s.name)
	}
	if err == nil {
		err = l.files.sync()
	}
	if err != nil {
		return nil, l.discard(f.file, err)
	}
	return s, nil
}

// discard gives up an unfinished file because of err.
func (l *Log) discard(f file, err error) error {
	if closing := f.Close(); closing != nil || !isFull(err) {
		return errors.Join(err, closing)
	}
	if removing := l.files.remove(unfinished); removing != nil { // it may have all the room there was
		return removing
	}
	return err
}

// removeUnneeded removes the oldest segments if nothing of them is needed, but for a few
// that are to be taken again. A crash never leaves a gap: each is gone before the next goes.
func (l *Log) removeUnneeded() error {
	unneeded := 0
	for unneeded < len(l.segments) && l.isUnneeded(l.segments[unneeded]) {
		unneeded++
	}
	for ; unneeded > 0; unneeded-- {
		oldest := l.segments[0]
		if unneeded <= keptSegments && oldest.size == l.SegmentSize {
			return nil
		}
		l.mu.Lock()
		l.segments = slices.Clone(l.segments[1:])
		l.mu.Unlock()
		err := oldest.file.Close()
		if err == nil {
			err = l.files.remove(oldest.name)
		}
		if err == nil {
			err = l.files.sync()
		}
		if err != nil {
			l.broken = fmt.Errorf("remove %s: %w", oldest.name, err)
			return l.broken
		}
	}
	return nil
}
