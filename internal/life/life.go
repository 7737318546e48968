// Package life is how a node ends: until when it takes calls, until when anything of it
// may go on, why it stopped, and who may start a goroutine that its end waits for.
//
// First a node stops: it takes no more calls, while those that are under way go on. Then
// it ends: its context does, and with that whatever waits. A fault brings both at once.
//
//	s.life.Go(work)        // unless it is too late
//	s.life.Stop(why)       // from any goroutine; the first reason stays
//	s.life.End()
//	s.life.Wait()
//
// A Life has no goroutine of its own. Its mutex is held while a goroutine is started, and
// never while its user is called; Stop and Err take no lock.
package life

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kvraft/kvraft/internal/errs"
)

// A Life is that of one node.
type Life struct {
	OnStop func(why error) // called once, by the Stop that is the first; set before use

	ctx      context.Context
	cancel   context.CancelCauseFunc
	why      atomic.Pointer[error] // set before stopping is closed
	stopping chan struct{}
	work     sync.WaitGroup

	mu     sync.Mutex
	barred bool // guarded by mu: no goroutine may be started any more
}

// New begins a Life.
func New() *Life {
	l := &Life{stopping: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return l
}

// Context ends with the Life, with the reason as its cause.
func (l *Life) Context() context.Context { return l.ctx }

// Stopping returns a channel that is closed when no further call is taken.
func (l *Life) Stopping() <-chan struct{} { return l.stopping }

// Err returns nil until the first Stop, and then why that was.
func (l *Life) Err() error {
	if why := l.why.Load(); why != nil {
		return *why
	}
	return nil
}

// Stop makes the node refuse calls, because of why. Only the first has an effect.
func (l *Life) Stop(why error) {
	if !l.why.CompareAndSwap(nil, &why) {
		return
	}
	close(l.stopping)
	if l.OnStop != nil {
		l.OnStop(why)
	}
}

// End ends what still goes on. A node that has not stopped does, with errs.Closed.
func (l *Life) End() {
	l.Stop(errs.Closed)
	l.cancel(l.Err())
}

// Fail stops and ends the node at once, because of a fault. It does not wait.
func (l *Life) Fail(fault error) {
	l.Stop(fmt.Errorf("%w: %w", errs.Closed, fault))
	l.End()
}

// Go starts a goroutine that Wait waits for, unless that waits already.
func (l *Life) Go(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.barred {
		return false
	}
	l.work.Go(f)
	return true
}

// Wait waits for every goroutine. No other is started from then on.
func (l *Life) Wait() {
	l.mu.Lock()
	l.barred = true
	l.mu.Unlock()
	l.work.Wait()
}

// Apart runs f, which calls raft, on a goroutine of its own, and waits for it: storage
// that fails ends the goroutine that met the fault, and raft panics on what it cannot
// read. The error begins with what f is.
func (l *Life) Apart(what string, f func() error) error {
	err := errors.New("storage failed")
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%v", p)
			}
		}()
		err = f()
	}()
	<-done
	if err = errors.Join(err, l.Err()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
