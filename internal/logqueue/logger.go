package logqueue

import (
	"bytes"
	"io"
	"log"

	"github.com/hashicorp/go-hclog"
)

// logger is a hclog.Logger whose lines go through a queue. Levels and names are those
// of the logger behind it, to which everything else is left.
type logger struct {
	hclog.Logger // the sink: only the goroutine of the queue may write to it
	queue        *Queue
}

func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	write := func(msg string, args ...any) { l.Logger.Log(level, msg, args...) }
	l.put(level >= l.GetLevel(), write, msg, args)
}

// Each level has a method of the sink's own: a sink may treat them in its own way.

func (l *logger) Trace(msg string, args ...any) { l.put(l.IsTrace(), l.Logger.Trace, msg, args) }
func (l *logger) Debug(msg string, args ...any) { l.put(l.IsDebug(), l.Logger.Debug, msg, args) }
func (l *logger) Info(msg string, args ...any)  { l.put(l.IsInfo(), l.Logger.Info, msg, args) }
func (l *logger) Warn(msg string, args ...any)  { l.put(l.IsWarn(), l.Logger.Warn, msg, args) }
func (l *logger) Error(msg string, args ...any) { l.put(l.IsError(), l.Logger.Error, msg, args) }

// put queues a line for a method of the sink, if that emits it.
func (l *logger) put(emits bool, write func(msg string, args ...any), msg string, args []any) {
	if !emits {
		return
	}
	args, size := settled(args)
	l.queue.put(len(msg)+size, func(waited []any) {
		if len(args)%2 == 0 { // else they are no pairs, to which another can be added
			args = append(args, waited...)
		}
		write(msg, args...)
	})
}

func (l *logger) Named(name string) hclog.Logger {
	return &logger{l.Logger.Named(name), l.queue}
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	return &logger{l.Logger.ResetNamed(name), l.queue}
}

func (l *logger) With(args ...any) hclog.Logger {
	args, _ = settled(args)
	return &logger{l.Logger.With(args...), l.queue}
}

func (l *logger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}

func (l *logger) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	return &writer{l.queue, l.Logger.StandardWriter(opts)}
}

// writer is what a logger of the standard library writes to, a line at a time.
type writer struct {
	queue *Queue
	sink  io.Writer
}

func (w *writer) Write(b []byte) (int, error) {
	text := bytes.Clone(b) // the caller's from now on
	w.queue.put(len(text), func([]any) { _, _ = w.sink.Write(text) })
	return len(b), nil
}
