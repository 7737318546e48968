package kvraft

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestNobodyEntersWhatDrains(t *testing.T) {
	f := newInflight()
	if !f.enter() {
		t.Fatal("nobody may enter before it drains")
	}
	f.leave()
	if !f.drain(time.Hour) {
		t.Fatal("nobody is in, and it did not drain")
	}
	if f.enter() {
		t.Error("somebody entered after it had drained")
	}
}

func TestDrainWaitsForTheLastToLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newInflight()
		for _, stay := range []time.Duration{time.Second, 3 * time.Second, 2 * time.Second} {
			if !f.enter() {
				t.Fatal("refused")
			}
			time.AfterFunc(stay, f.leave)
		}
		began := time.Now()
		if !f.drain(time.Minute) {
			t.Error("gave up")
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("drained after %v, want 3s", took)
		}
	})
}

func TestDrainGivesUpAtItsLimitAndLeavingGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newInflight()
		f.enter()
		began := time.Now()
		if f.drain(time.Second) {
			t.Error("drained with somebody in")
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("gave up after %v, want 1s", took)
		}
		if f.enter() {
			t.Error("somebody entered after drain had given up")
		}
		f.leave()
		if !f.drain(time.Hour) {
			t.Error("all have left, and a second drain fails")
		}
	})
}

func TestSeveralDrainsEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newInflight()
		f.enter()
		drained := make(chan bool, 2)
		for range cap(drained) {
			go func() { drained <- f.drain(time.Hour) }()
		}
		synctest.Wait()
		f.leave()
		for range cap(drained) {
			if !<-drained {
				t.Error("a drain gave up")
			}
		}
	})
}

func TestWhoWantsToEnterWaitsForWhoHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newInflight()
		f.enter()
		time.AfterFunc(time.Second, f.leave)
		began := time.Now()
		release, ok := f.hold(t.Context(), time.Minute)
		if took := time.Since(began); !ok || took != time.Second {
			t.Fatalf("held: %v, after %v, want when the last has left, after 1s", ok, took)
		}
		if _, ok := f.hold(t.Context(), time.Minute); ok {
			t.Error("two hold at once")
		}
		entered := make(chan bool)
		go func() { entered <- f.enter() }()
		time.AfterFunc(time.Second, release)
		if !<-entered || time.Since(began) != 2*time.Second {
			t.Errorf("entered after %v, want when it was released, after 2s", time.Since(began))
		}
		release() // again is nothing
		f.leave()
		if !f.drain(time.Minute) {
			t.Error("it did not drain")
		}
	})
}

func TestAHoldThatGivesUpLetsOthersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newInflight()
		f.enter()
		if _, ok := f.hold(t.Context(), time.Second); ok {
			t.Error("held with somebody in")
		}
		if !f.enter() {
			t.Error("nobody may enter any more")
		}
	})
}

func TestADrainTurnsAwayWhoWaitsForARelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newInflight()
		release, ok := f.hold(t.Context(), time.Minute)
		if !ok {
			t.Fatal("not held")
		}
		entered := make(chan bool)
		go func() { entered <- f.enter() }()
		synctest.Wait()
		if !f.drain(time.Minute) {
			t.Error("it did not drain")
		}
		if <-entered {
			t.Error("somebody entered what drains")
		}
		release()
	})
}
