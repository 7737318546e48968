package lead

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/roster"
)

// newTracker is that of a node whose raft never starts.
func newTracker(t *testing.T) *Tracker {
	n := node.New(node.Timing{Heartbeat: time.Second, Election: time.Second}, hclog.NewNullLogger())
	t.Cleanup(n.Life.End)
	n.Raft = new(raft.Raft)
	n.TakePlace()
	return New(n)
}

func TestANodeThatIsNoLeaderConfirmsNothing(t *testing.T) {
	if _, err := newTracker(t).Confirm(); !errors.Is(err, errs.Unsent) {
		t.Errorf("got %v, want errs.Unsent: another node may answer", err)
	}
}

// Whoever waits for a change is told of it, and what was asked of the old leader ends.
func TestATenureEndsWithTheNext(t *testing.T) {
	tr := newTracker(t)
	old, changed, _ := tr.Now()
	leader := roster.Peer{Server: "b#2", Addr: "b:1"}
	if !tr.Replace(&Tenure{Leader: leader, Term: 3}) || tr.Replace(&Tenure{Leader: leader, Term: 3}) {
		t.Error("a tenure is replaced by itself, or not by another")
	}
	<-changed
	if now := tr.Tenure(); old.Ctx.Err() == nil || now.Ctx.Err() != nil || now.Number != old.Number+1 {
		t.Errorf("the old one: %v; the new one: %v, number %d", old.Ctx.Err(), now.Ctx.Err(), now.Number)
	}
}

func TestAPauseEndsWithWhatItWaitsFor(t *testing.T) {
	enough := errors.New("enough")
	synctest.Test(t, func(t *testing.T) {
		tr := newTracker(t)
		for attempt, want := range map[int]time.Duration{0: time.Millisecond, 1: 2 * time.Millisecond, 6: 64 * time.Millisecond, 7: 100 * time.Millisecond, 1 << 30: 100 * time.Millisecond} {
			began := time.Now()
			if err := tr.pause(t.Context(), tr.Tenure(), attempt); err != nil || time.Since(began) != want {
				t.Errorf("attempt %d: %v, %v, want %v", attempt, time.Since(began), err, want)
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(enough)
		if err := tr.pause(ctx, tr.Tenure(), 9); !errors.Is(err, enough) {
			t.Errorf("with an ended context: %v, want its cause", err)
		}
		old := tr.Tenure()
		time.AfterFunc(time.Microsecond, func() { tr.Replace(&Tenure{Leader: roster.Peer{Server: "b#2", Addr: "b:1"}}) })
		began := time.Now()
		if err := tr.pause(t.Context(), old, 9); err != nil || time.Since(began) != time.Microsecond {
			t.Errorf("when the leader changes: %v, %v, want to go on at once", time.Since(began), err)
		}
		time.AfterFunc(time.Microsecond, func() { tr.Life.Stop(errs.Closed) })
		if err := tr.pause(t.Context(), tr.Tenure(), 9); !errors.Is(err, errs.Closed) {
			t.Errorf("when the store closes: %v, want errs.Closed", err)
		}
	})
}
