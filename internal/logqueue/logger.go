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
	queue *Queue
	sink  hclog.Logger
}

func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	if !l.emits(level) {
		return
	}
	size := len(msg)
	args = settled(args, &size)
	l.queue.put(size, func(waited []any) { l.sink.Log(level, msg, with(args, waited)...) })
}

// Each level has a method of the sink's own: a sink may treat them in its own way.

func (l *logger) Trace(msg string, args ...any) {
	if l.sink.IsTrace() {
		l.put(l.sink.Trace, msg, args)
	}
}

func (l *logger) Debug(msg string, args ...any) {
	if l.sink.IsDebug() {
		l.put(l.sink.Debug, msg, args)
	}
}

func (l *logger) Info(msg string, args ...any) {
	if l.sink.IsInfo() {
		l.put(l.sink.Info, msg, args)
	}
}

func (l *logger) Warn(msg string, args ...any) {
	if l.sink.IsWarn() {
		l.put(l.sink.Warn, msg, args)
	}
}

func (l *logger) Error(msg string, args ...any) {
	if l.sink.IsError() {
		l.put(l.sink.Error, msg, args)
	}
}

func (l *logger) put(write func(msg string, args ...any), msg string, args []any) {
	size := len(msg)
	args = settled(args, &size)
	l.queue.put(size, func(waited []any) { write(msg, with(args, waited)...) })
}

// with adds to arguments that come in pairs.
func with(args, waited []any) []any {
	if len(args)%2 != 0 {
		return args
	}
	return append(args, waited...)
}

func (l *logger) emits(level hclog.Level) bool {
	switch level {
	case hclog.Trace:
		return l.sink.IsTrace()
	case hclog.Debug:
		return l.sink.IsDebug()
	case hclog.Info:
		return l.sink.IsInfo()
	case hclog.Warn:
		return l.sink.IsWarn()
	case hclog.Error:
		return l.sink.IsError()
	}
	return true // the sink decides
}

func (l *logger) IsTrace() bool              { return l.sink.IsTrace() }
func (l *logger) IsDebug() bool              { return l.sink.IsDebug() }
func (l *logger) IsInfo() bool               { return l.sink.IsInfo() }
func (l *logger) IsWarn() bool               { return l.sink.IsWarn() }
func (l *logger) IsError() bool              { return l.sink.IsError() }
func (l *logger) Name() string               { return l.sink.Name() }
func (l *logger) ImpliedArgs() []any         { return l.sink.ImpliedArgs() }
func (l *logger) SetLevel(level hclog.Level) { l.sink.SetLevel(level) }
func (l *logger) GetLevel() hclog.Level      { return l.sink.GetLevel() }
func (l *logger) Named(name string) hclog.Logger {
	return &logger{l.queue, l.sink.Named(name)}
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	return &logger{l.queue, l.sink.ResetNamed(name)}
}

func (l *logger) With(args ...any) hclog.Logger {
	var size int
	return &logger{l.queue, l.sink.With(settled(args, &size)...)}
}

func (l *logger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}

func (l *logger) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	return &writer{l.queue, l.sink.StandardWriter(opts)}
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
