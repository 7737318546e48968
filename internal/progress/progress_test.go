package progress

import (
	"testing"
	"testing/synctest"
	"time"
)

// watched is a Watch and a clock.
type watched struct {
	t    *testing.T
	w    Watch
	now  time.Time
	done uint64
}

func watch(t *testing.T) *watched {
	return &watched{t: t, w: Watch{Step: time.Second}, now: time.Unix(1, 0)}
}

// after lets time pass, and looks.
func (w *watched) after(d time.Duration, work bool, want time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(d)
	if stalled := w.w.Look(w.now, work, w.done); stalled != want {
		w.t.Errorf("stalled for %v, want %v", stalled, want)
	}
}

func TestWorkThatIsNotDoneStandsStill(t *testing.T) {
	w := watch(t)
	w.after(0, true, 0)
	w.after(time.Second, true, time.Second)
	w.after(time.Second/2, true, time.Second*3/2)
	w.done++
	w.after(time.Second, true, 0)
	w.after(time.Second, true, time.Second)
}

func TestWithoutWorkNothingStandsStill(t *testing.T) {
	w := watch(t)
	for range 10 {
		w.after(time.Second, false, 0)
	}
	w.after(time.Second, true, 0) // it has just come
	w.after(time.Second, true, time.Second)
	w.after(time.Second, false, 0)
	w.after(time.Second, true, 0)
}

func TestAPauseOfTheWatcherCountsAsOneStep(t *testing.T) {
	w := watch(t)
	w.after(0, true, 0)
	w.after(time.Second, true, time.Second)
	w.after(10*time.Hour, true, 2*time.Second)
	w.after(time.Second, true, 3*time.Second)
}

func TestAClockThatIsSetBackCountsNothingTwice(t *testing.T) {
	w := watch(t)
	w.after(0, true, 0)
	w.after(time.Second, true, time.Second)
	w.after(-time.Hour, true, time.Second)
	w.after(time.Second, true, 2*time.Second)
}

func TestAfterItsTimeTheFunctionIsCalledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, calls := time.Now(), 0
		After(8*time.Second, func() {
			calls++
			if took := time.Since(began); took != 8*time.Second {
				t.Errorf("called after %v", took)
			}
		})
		time.Sleep(time.Minute)
		synctest.Wait() // orders the call before what follows
		if calls != 1 {
			t.Errorf("called %d times", calls)
		}
	})
}

func TestWhatIsStoppedInTimeIsNotCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, when := range []time.Duration{0, time.Second, 4 * time.Second, 8*time.Second - 1} {
			stop := After(8*time.Second, func() { t.Errorf("called, though stopped after %v", when) })
			time.Sleep(when)
			stop()
			stop()
			time.Sleep(time.Minute)
		}
	})
}

// As after a pause of the process, when a timer is late: it fires once.
func TestATimerThatIsLateCountsOneStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		called := false
		late := &timer{step: time.Second, left: steps, f: func() { called = true }, timer: time.NewTimer(time.Hour)}
		defer late.stop()
		for range steps - 1 {
			late.look()
		}
		if called {
			t.Error("called too early")
		}
		if late.look(); !called {
			t.Error("not called")
		}
	})
}
