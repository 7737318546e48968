package life

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/kvraft/kvraft/internal/errs"
)

var errDisk = errors.New("disk")

func TestTheFirstReasonStays(t *testing.T) {
	l := New()
	var told []error
	l.OnStop = func(why error) { told = append(told, why) }
	if l.Err() != nil {
		t.Errorf("it has not stopped: %v", l.Err())
	}
	l.Stop(errDisk)
	l.Stop(errs.Closed)
	<-l.Stopping()
	if l.Err() != errDisk || len(told) != 1 || told[0] != errDisk {
		t.Errorf("stopped because of %v, told %v", l.Err(), told)
	}
	if l.Context().Err() != nil {
		t.Error("what was under way does not go on")
	}
	l.End()
	if cause := context.Cause(l.Context()); cause != errDisk {
		t.Errorf("ended because of %v", cause)
	}
}

func TestAFaultEndsAtOnce(t *testing.T) {
	l := New()
	l.Fail(errDisk)
	if cause := context.Cause(l.Context()); cause != l.Err() || !errors.Is(cause, errs.Closed) || !errors.Is(cause, errDisk) {
		t.Errorf("ended because of %v, stopped because of %v", cause, l.Err())
	}
}

func TestAnEndWithoutAReasonIsClosed(t *testing.T) {
	l := New()
	l.End()
	if l.Err() != errs.Closed || context.Cause(l.Context()) != errs.Closed {
		t.Errorf("stopped because of %v, ended because of %v", l.Err(), context.Cause(l.Context()))
	}
}

func TestNothingIsStartedOnceTheEndIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		release, waited := make(chan struct{}), make(chan struct{})
		if !l.Go(func() { <-release }) {
			t.Fatal("it starts nothing")
		}
		go func() {
			l.Wait()
			close(waited)
		}()
		synctest.Wait()
		if l.Go(func() { t.Error("it runs") }) {
			t.Error("a goroutine is started while the others are waited for")
		}
		select {
		case <-waited:
			t.Error("a goroutine was not waited for")
		default:
		}
		close(release)
		<-waited
	})
}

func TestWhatRunsApartMayPanicOrEndItsGoroutine(t *testing.T) {
	l := New()
	for want, f := range map[string]func() error{
		"start: storage failed": func() error { runtime.Goexit(); return nil },
		"start: unreadable":     func() error { panic("unreadable") },
		"start: disk":           func() error { return errDisk },
	} {
		if err := l.Apart("start", f); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := l.Apart("start", func() error { return nil }); err != nil {
		t.Error(err)
	}
	l.Fail(errDisk)
	if err := l.Apart("start", func() error { return nil }); !errors.Is(err, errDisk) || !strings.HasPrefix(err.Error(), "start: ") {
		t.Errorf("got %v, want why it has stopped", err)
	}
}
