package batch

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestNobodyEntersWhatDrains(t *testing.T) {
	var g Gate
	if !g.Enter() {
		t.Fatal("nobody may enter before it drains")
	}
	g.Leave()
	if !g.Drain(time.Hour) {
		t.Fatal("nobody is in, and it did not drain")
	}
	if g.Enter() {
		t.Error("somebody entered after it had drained")
	}
}

func TestDrainWaitsForTheLastToLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		for _, stay := range []time.Duration{time.Second, 3 * time.Second, 2 * time.Second} {
			if !g.Enter() {
				t.Fatal("refused")
			}
			time.AfterFunc(stay, g.Leave)
		}
		began := time.Now()
		if !g.Drain(time.Minute) {
			t.Error("gave up")
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("drained after %v, want 3s", took)
		}
	})
}

func TestDrainGivesUpAtItsLimitAndLeavingGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		g.Enter()
		began := time.Now()
		if g.Drain(time.Second) {
			t.Error("drained with somebody in")
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("gave up after %v, want 1s", took)
		}
		if g.Enter() {
			t.Error("somebody entered after drain had given up")
		}
		g.Leave()
		if !g.Drain(time.Hour) {
			t.Error("all have left, and a second drain fails")
		}
	})
}

func TestSeveralDrainsEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		g.Enter()
		drained := make(chan bool, 2)
		for range cap(drained) {
			go func() { drained <- g.Drain(time.Hour) }()
		}
		synctest.Wait()
		g.Leave()
		for range cap(drained) {
			if !<-drained {
				t.Error("a drain gave up")
			}
		}
	})
}

func TestWhoWantsToEnterWaitsForWhoHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		g.Enter()
		time.AfterFunc(time.Second, g.Leave)
		began := time.Now()
		release, ok := g.Hold(t.Context(), time.Minute)
		if took := time.Since(began); !ok || took != time.Second {
			t.Fatalf("held: %v, after %v, want when the last has left, after 1s", ok, took)
		}
		if _, ok := g.Hold(t.Context(), time.Minute); ok {
			t.Error("two hold at once")
		}
		entered := make(chan bool)
		go func() { entered <- g.Enter() }()
		time.AfterFunc(time.Second, release)
		if !<-entered || time.Since(began) != 2*time.Second {
			t.Errorf("entered after %v, want when it was released, after 2s", time.Since(began))
		}
		release() // again is nothing
		g.Leave()
		if !g.Drain(time.Minute) {
			t.Error("it did not drain")
		}
	})
}

func TestAHoldThatGivesUpLetsOthersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		g.Enter()
		if _, ok := g.Hold(t.Context(), time.Second); ok {
			t.Error("held with somebody in")
		}
		if !g.Enter() {
			t.Error("nobody may enter any more")
		}
	})
}

func TestADrainTurnsAwayWhoWaitsForARelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		release, ok := g.Hold(t.Context(), time.Minute)
		if !ok {
			t.Fatal("not held")
		}
		entered := make(chan bool)
		go func() { entered <- g.Enter() }()
		synctest.Wait()
		if !g.Drain(time.Minute) {
			t.Error("it did not drain")
		}
		if <-entered {
			t.Error("somebody entered what drains")
		}
		release()
	})
}
