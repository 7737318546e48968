// Package progress tells whether something stands still.
//
// Contact is no sign of work. A node whose disk hangs, whose raft goroutine waits for
// one call, or whose large packets are lost answers heartbeats and does nothing else.
// So what is watched is work: whether there is any, and whether some of it gets done.
//
// Time counts only as far as the watcher itself has run. It looks again and again, and
// from one look to the next never more than one step counts. A process that was stopped
// for an hour (SIGSTOP, a virtual machine that was suspended, a laptop that slept) finds
// an hour gone and counts one step of it: what it watches was stopped as well, and has
// the rest of its time. On a machine that is too busy the watcher gets its turn as rarely
// as those it watches, and counts less. Either way an alarm comes late, never early.
//
// Nothing here starts a goroutine but the timer of [After]. The package knows no clock
// but what [Watch.Look] is told and, in After, time.AfterFunc, so that it is tested in
// virtual time.
package progress

import (
	"sync"
	"time"
)

// Watch watches one kind of work. The zero value is not of use: set Step. It is for one
// goroutine.
type Watch struct {
	Step time.Duration // the most that counts between two looks; about as often as it looks

	looked  time.Time
	work    bool
	done    uint64
	stalled time.Duration
}

// Look returns for how long there has been work and none of it was done. done is
// different whenever some was.
func (w *Watch) Look(now time.Time, work bool, done uint64) (stalled time.Duration) {
	passed := max(min(now.Sub(w.looked), w.Step), 0)
	if work && w.work && done == w.done {
		w.stalled += passed
	} else {
		w.stalled = 0
	}
	w.looked, w.work, w.done = now, work, done
	return w.stalled
}

// steps is how often a timer looks.
const steps = 8

// After calls f on a goroutine of its own when d has passed, as a Watch counts, unless
// stop is called before. f may still begin while stop is called.
func After(d time.Duration, f func()) (stop func()) {
	t := &timer{step: max(d/steps, 1), left: steps, f: f}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(t.step, t.look)
	return t.stop
}

type timer struct {
	step time.Duration
	f    func()

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	left  int         // guarded by mu: steps; 0: it is over
}

func (t *timer) look() {
	t.mu.Lock()
	if t.left == 0 {
		t.mu.Unlock()
		return
	}
	t.left--
	over := t.left == 0
	if !over {
		t.timer.Reset(t.step)
	}
	t.mu.Unlock()
	if over {
		t.f()
	}
}

func (t *timer) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left = 0
	t.timer.Stop()
}
