// Package logqueue keeps a slow log sink from holding up whoever logs.
//
// A logger writes where it was told to, a pipe that nobody reads for example, and its
// caller waits for that. raft logs on the goroutine that does everything else. So
// what is logged goes into a [Queue], which is bounded, and one goroutine writes it
// to the sink. A line that finds the queue full is dropped and counted; the count is
// logged when there is room again.
//
// Lines keep their order. The sink puts its own time on a line, which is when it was
// written; one that has waited for longer than a second says for how long. It looks at
// its level then too, so a line that waits while SetLevel silences it is not written.
//
// [New] starts the goroutine, which belongs to the queue: Close lets it write what is
// queued and waits for it, but not for ever. A sink that hangs keeps that one
// goroutine until it returns. The one lock is held for moments, and never while the
// sink is called. The tests have sinks that hang.
package logqueue

import (
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	maxLines = 4096    // in a queue
	maxBytes = 1 << 20 // likewise, about
)

// Queue is what waits to be logged. Its methods may be called from any goroutine.
type Queue struct {
	sink hclog.Logger
	wake chan struct{} // holds a signal when there may be something to do
	done chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	lines   []line // guarded by mu
	bytes   int    // guarded by mu: of the lines
	dropped int    // guarded by mu: since the last line that was taken
	closed  bool   // guarded by mu: nothing is taken any more
}

type line struct {
	at    time.Time
	bytes int
	write func(waited []any) // waited is to be added to the arguments
}

// New returns a queue in front of sink, and starts its goroutine.
func New(sink hclog.Logger) *Queue {
	q := &Queue{sink: sink, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go q.run()
	return q
}

// Logger returns a logger that writes to the sink by way of the queue. What is logged
// after Close is lost.
func (q *Queue) Logger() hclog.Logger { return &logger{q.sink, q} }

// Close takes no further line, and waits until those that are queued are written, or
// for patience. It reports whether they are; the others are lost.
func (q *Queue) Close(patience time.Duration) bool {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-q.done:
		return true
	case <-timer.C:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lines, q.dropped = nil, 0
	return false
}

// put never waits for the sink.
func (q *Queue) put(bytes int, write func(waited []any)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if len(q.lines) >= maxLines || q.bytes+bytes > maxBytes && len(q.lines) > 0 {
		q.dropped++
		return
	}
	if q.dropped > 0 {
		q.lines = append(q.lines, q.reportDropped(q.dropped))
		q.dropped = 0
	}
	q.lines = append(q.lines, line{time.Now(), bytes, write})
	q.bytes += bytes
	q.signal()
}

func (q *Queue) reportDropped(n int) line {
	return line{at: time.Now(), write: func(waited []any) {
		q.sink.Warn("log lines were dropped: they came faster than they could be written", append([]any{"lines", n}, waited...)...)
	}}
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *Queue) run() {
	defer close(q.done)
	for range q.wake {
		for {
			next, ok := q.take()
			if !ok {
				break
			}
			next.write(waited(time.Since(next.at)))
		}
		if q.isClosed() {
			return
		}
	}
}

// take returns the line to write next. What was dropped at the end is reported when
// nothing follows it.
func (q *Queue) take() (next line, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(q.lines) > 0:
		next = q.lines[0]
		q.lines[0] = line{}
		q.lines = q.lines[1:]
		q.bytes -= next.bytes
		return next, true
	case q.dropped > 0:
		next = q.reportDropped(q.dropped)
		q.dropped = 0
		return next, true
	}
	return line{}, false
}

func (q *Queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && len(q.lines) == 0
}

// waited is what a line says that had to wait for others.
func waited(d time.Duration) []any {
	if d < time.Second {
		return nil
	}
	return []any{"logged_after", d.Round(time.Millisecond).String()}
}
