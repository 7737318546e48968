package memnet

import "time"

// stream is one direction of a connection. Network.mu guards it.
type stream struct {
	edge           *edge
	window         int
	writer, reader *conn
	stalled        bool // behind a large packet that was lost
	dark           bool // for good, see Network.GoDark
	used           int  // bytes written and not read, those included that nobody will read
	data           queue[byte]
	marks          queue[mark] // when data arrives
	end            error       // what the reader meets behind the data: io.EOF, a reset, or nil while the stream is open
	endDue         time.Time
	gone           bool // the writer will not read either: what the reader writes fails
	goneDue        time.Time
}

// mark says that the next n bytes arrive at due; a due of zero says that they have, and no cut withholds them.
type mark struct {
	n   int
	due time.Time
}

// write takes as much of b as the window holds.
func (s *stream) write(b []byte, now time.Time) int {
	if s.edge.largest > 0 && len(b) > s.edge.largest && !s.stalled {
		s.settle(now)
		s.stalled = true
	}
	b = b[:min(len(b), s.window-s.used)]
	if len(b) == 0 {
		return 0
	}
	s.used += len(b)
	if s.end != nil || s.reader.err != nil {
		return len(b) // nobody will read them, of which the writer has not heard
	}
	due := s.due(now)
	if s.marks.empty() && !s.held() {
		s.reader.reads.wakeAt(due, now)
	}
	s.data.push(b...)
	if last := s.marks.last(); last != nil && last.due.Equal(due) {
		last.n += len(b)
	} else {
		s.marks.push(mark{len(b), due})
	}
	return len(b)
}

// read moves bytes that have arrived to b.
func (s *stream) read(b []byte, now time.Time) int {
	n := 0
	for n < len(b) && !s.marks.empty() {
		m := &s.marks.items()[0]
		if !s.arrived(m.due, now) {
			break
		}
		k := min(m.n, len(b)-n)
		n += k
		m.n -= k
		if m.n == 0 {
			s.marks.pop(1)
		}
	}
	copy(b, s.data.items()[:n])
	s.data.pop(n)
	s.used -= n
	return n
}

// finish ends the stream behind what was written, and the connection. Only the first end counts.
func (s *stream) finish(end error, now time.Time) {
	s.finishWriting(end, now)
	if s.gone {
		return
	}
	s.gone, s.goneDue = true, s.due(now)
	if !s.held() {
		s.reader.writes.wakeAt(s.goneDue, now)
	}
}

// finishWriting ends the stream alone.
func (s *stream) finishWriting(end error, now time.Time) {
	if s.end != nil {
		return
	}
	s.end, s.endDue = end, s.due(now)
	if !s.held() {
		s.reader.reads.wakeAt(s.endDue, now)
	}
}

// discard forgets what a closed reader will not read. It stays in used: the writer may fill the window, no more, until it
// learns that the reader is gone.
func (s *stream) discard() {
	delete(s.edge.ends, s.reader)
	s.data, s.marks = queue[byte]{}, queue[mark]{}
}

// due returns when what is sent now arrives: not before what was sent earlier.
func (s *stream) due(now time.Time) time.Time {
	due := now.Add(s.edge.delay)
	if last := s.marks.last(); last != nil && last.due.After(due) {
		return last.due
	}
	return due
}

func (s *stream) arrived(due, now time.Time) bool {
	return due.IsZero() || !s.held() && !now.Before(due)
}

// held says that nothing arrives.
func (s *stream) held() bool { return s.edge.cut || s.stalled || s.dark }

// ended says whether the end has arrived, perhaps with data before it that is not read yet.
func (s *stream) ended(now time.Time) bool {
	return s.end != nil && s.arrived(s.endDue, now)
}

// left says whether the news has arrived that the writer is gone.
func (s *stream) left(now time.Time) bool { return s.gone && s.arrived(s.goneDue, now) }

// next returns when more data or the end arrives; zero: unknown.
func (s *stream) next() time.Time {
	if !s.marks.empty() && !s.held() {
		return s.marks.items()[0].due
	}
	return s.unlessHeld(s.endDue)
}

func (s *stream) unlessHeld(due time.Time) time.Time {
	if s.held() {
		return time.Time{}
	}
	return due
}

// settle marks what has arrived before the edge is cut.
func (s *stream) settle(now time.Time) {
	for i, m := range s.marks.items() {
		if s.arrived(m.due, now) {
			s.marks.items()[i].due = time.Time{}
		}
	}
	if s.ended(now) {
		s.endDue = time.Time{}
	}
	if s.left(now) {
		s.goneDue = time.Time{}
	}
}

// darken loses what has not arrived, and what will be written.
func (s *stream) darken(now time.Time) {
	s.settle(now)
	s.dark = true
}

// hurry lets everything on its way arrive at latest.
func (s *stream) hurry(latest time.Time) {
	for i, m := range s.marks.items() {
		if m.due.After(latest) {
			s.marks.items()[i].due = latest
		}
	}
	for _, due := range []*time.Time{&s.endDue, &s.goneDue} {
		if due.After(latest) {
			*due = latest
		}
	}
}

// queue is a slice that grows at its end and shrinks at its front, and reuses its room.
type queue[T any] struct {
	all  []T
	head int // items before it are gone
}

func (q *queue[T]) items() []T  { return q.all[q.head:] }
func (q *queue[T]) empty() bool { return q.head == len(q.all) }

func (q *queue[T]) last() *T {
	if q.empty() {
		return nil
	}
	return &q.all[len(q.all)-1]
}

func (q *queue[T]) push(items ...T) {
	if len(q.all)+len(items) > cap(q.all) && q.head > len(q.all)/2 { // moving less than has gone keeps it cheap
		q.all = q.all[:copy(q.all, q.items())]
		q.head = 0
	}
	q.all = append(q.all, items...)
}

func (q *queue[T]) pop(n int) {
	q.head += n
	if q.empty() {
		q.all, q.head = q.all[:0], 0
	}
}
