package feed

import (
	"slices"
	"testing"

	"github.com/kvraft/kvraft/internal/state"
)

func isNotified(s *Subscription) bool {
	select {
	case <-s.changed:
		return true
	default:
		return false
	}
}

func TestAPrefixIsNotifiedOfTheKeysThatBeginWithItAlone(t *testing.T) {
	var s Subscriptions
	var h History
	s.Notify(&h, 0, 10)
	open := map[string]*Subscription{}
	for _, prefix := range []string{"", "a", "a/", "a/b", "ab", "b", "a/b/c/d", "\xff"} {
		open[prefix] = s.Subscribe(Scope{Prefix: prefix}, 10)
	}
	h.Record([]state.Change{change(11, "c", 0), change(12, "a/b/c", 0), change(13, "a/b", 0)}, 1<<20)
	s.Notify(&h, 10, 13)
	before := map[string]uint64{"": 10, "a": 11, "a/": 11, "a/b": 11}
	for prefix, w := range open {
		version, want := before[prefix]
		if isNotified(w) != want {
			t.Errorf("%q: woken: %v, want %v", prefix, isNotified(w), want)
		}
		if !want {
			version = 13
		}
		if quiet := s.Unsubscribe(w); quiet != version {
			t.Errorf("%q: nothing has changed up to version %d, want %d", prefix, quiet, version)
		}
	}
	if len(s.open) != 0 || slices.Max(s.lengths) != 0 {
		t.Errorf("left behind: %d subscriptions, lengths %d", len(s.open), s.lengths)
	}
}

func TestAKeyIsNotNotifiedOfThoseThatBeginWithIt(t *testing.T) {
	var s Subscriptions
	var h History
	s.Notify(&h, 0, 10)
	exact, all := s.Subscribe(Scope{"a", true}, 10), s.Subscribe(Scope{Prefix: "a"}, 10)
	h.Record([]state.Change{change(11, "ab", 0), change(12, "", 0)}, 1<<20)
	s.Notify(&h, 10, 12)
	if isNotified(exact) || !isNotified(all) {
		t.Errorf("woken: %v for the key, %v for the prefix", isNotified(exact), isNotified(all))
	}
	h.Record([]state.Change{change(13, "a", 0)}, 1<<20)
	s.Notify(&h, 12, 13)
	if quiet := s.Unsubscribe(exact); !isNotified(exact) || quiet != 12 {
		t.Errorf("woken: %v, nothing has changed up to version %d, want 12", isNotified(exact), quiet)
	}
}

func TestASubscriptionLastsWhileSomebodyWaits(t *testing.T) {
	var s Subscriptions
	first, second := s.Subscribe(Scope{Prefix: "a"}, 0), s.Subscribe(Scope{Prefix: "a"}, 0)
	if first != second {
		t.Error("two subscriptions for one prefix")
	}
	s.Unsubscribe(first)
	var h History
	h.Record([]state.Change{change(1, "a", 0)}, 1<<20)
	s.Notify(&h, 0, 1)
	if !isNotified(second) {
		t.Error("the second has not been woken")
	}
	s.Unsubscribe(second)
}

// Between a look at the state and the wait a change may come.
func TestNobodyBeginsToWaitForWhatHasHappened(t *testing.T) {
	var s Subscriptions
	var h History
	h.Record([]state.Change{change(1, "a", 0)}, 1<<20)
	s.Notify(&h, 0, 1)
	if s.Subscribe(Scope{Prefix: "a"}, 0) != nil {
		t.Error("a subscription for what was notified already")
	}
	w := s.Subscribe(Scope{Prefix: "a"}, 1)
	if w == nil {
		t.Fatal("no subscription for what comes")
	}
	ahead := s.Subscribe(Scope{Prefix: "a"}, 5) // who has seen a state before that is notified
	if ahead == nil || s.Unsubscribe(ahead) > 5 {
		t.Error("who is ahead does not wait")
	}
	s.Unsubscribe(w)
}

func TestEverybodyIsNotifiedWhenTheHistoryLacksSomething(t *testing.T) {
	var s Subscriptions
	s.Notify(&History{}, 0, 5)
	w := s.Subscribe(Scope{Prefix: "quiet"}, 5)
	s.Notify(&History{floor: 5}, 5, 5) // a snapshot of what was there
	if isNotified(w) {
		t.Error("woken for nothing")
	}
	s.Notify(&History{floor: 9}, 5, 9)
	if !isNotified(w) || s.Unsubscribe(w) != 5 {
		t.Error("not woken, though the key may have changed")
	}
}
