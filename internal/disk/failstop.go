package disk

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/progress"
)

// failStop remembers the first storage error of a node. From then on nothing
// touches the disk: after a failed fsync nobody knows what a second try would
// mean, and a node that goes on with a failing disk wins elections it cannot
// serve.
type failStop struct {
	stall time.Duration // a small write that lasts longer has failed; 0: no limit
	tell  func(error)   // told the first error, once

	writing atomic.Int32 // how many writes are under way, each with a watchdog of its own

	cause  atomic.Pointer[error]
	failed chan struct{} // closed once cause is set
}

func newFailStop(stall time.Duration, tell func(error)) *failStop {
	return &failStop{stall: stall, tell: tell, failed: make(chan struct{})}
}

// Err returns the error that stopped the node, or nil.
func (f *failStop) Err() error {
	if cause := f.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}

// Fail records err, unless another came first, and returns the recorded one.
func (f *failStop) Fail(err error) error {
	if f.cause.CompareAndSwap(nil, &err) {
		close(f.failed)
		f.tell(err)
	}
	return f.Err()
}

// hold takes a channel that is held while the disk writes, unless the store fails first.
func (f *failStop) hold(turn chan struct{}) error {
	select {
	case turn <- struct{}{}:
		return nil
	case <-f.failed:
		return f.Err()
	}
}

// Writing reports whether a write is under way.
func (f *failStop) Writing() bool { return f.writing.Load() > 0 }

// write runs op, a write of so many bytes to the base store. A disk that hangs is a
// disk that failed: the watchdog says so while op still hangs, and when op returns at
// last, its caller sees that failure, whatever op says. A disk that is slow has time by
// what is written, and one that was stopped together with this process has not failed.
func (f *failStop) write(what string, bytes int, op func() error) error {
	if err := f.Err(); err != nil {
		return err
	}
	if f.stall > 0 {
		limit := f.stall + time.Duration(bytes>>20)*time.Second
		stop := progress.After(limit, func() {
			f.Fail(fmt.Errorf("%s: no answer from the disk within %v", what, limit))
		})
		defer stop()
	}
	f.writing.Add(1)
	defer f.writing.Add(-1)
	if err := boltlog.Contain(op); err != nil {
		return f.Fail(fmt.Errorf("%s: %w", what, err))
	}
	return f.Err()
}

// raftPanicsOnReadErrors reports whether the caller of GetLog is one that
// answers an error with a panic, which would take the whole process down: the
// application of committed entries, and the reading of the log when raft
// starts. Others, such as replication, handle an error well, and ending their
// goroutine would leave raft waiting for it. So the stack decides; it is only
// looked at when something failed. The names are those of the version in go.mod: with
// another one TestRaftOverAStoreThatFailsAnywhereEndsWithoutAPanic tells.
func raftPanicsOnReadErrors() bool {
	var callers [32]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers[:])])
	for {
		frame, more := frames.Next()
		if name, ok := strings.CutPrefix(frame.Function, "github.com/hashicorp/raft."); ok {
			switch name {
			case "NewRaft", "(*Raft).processLogs", "(*Raft).liveBootstrap":
				return true
			}
		}
		if !more {
			return false
		}
	}
}
