package state

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kvraft/kvraft/internal/command"
)

// reload takes a state through a loader as a snapshot does.
func reload(t *testing.T, v View, window, chunk int) *State {
	t.Helper()
	l := newLoader(v.Revision(), v.Own().Floor, sizes(window, chunk))
	if !v.Unmarked() {
		l.SetCallersFloor(v.Callers().Floor)
	}
	v.Ascend("", func(key string, it Item) bool {
		if err := l.Add(key, it.Bytes(), it.Version); err != nil {
			t.Fatal(err)
		}
		return true
	})
	v.Notes(func(name, text string) bool {
		if err := l.Note(name, text); err != nil {
			t.Fatal(err)
		}
		return true
	})
	v.Own().All(func(rec Remembered) bool {
		if err := l.Remember(rec); err != nil {
			t.Fatal(err)
		}
		return true
	})
	v.Callers().All(func(rec Remembered) bool {
		if err := l.RememberCaller(rec); err != nil {
			t.Fatal(err)
		}
		return true
	})
	s := l.State()
	checkConsistency(t, s)
	if s.View().Hash() != v.Hash() {
		t.Fatalf("the hash of revision %d changed through a loader", v.Revision())
	}
	return s
}

func TestARebuiltStateGoesOnLikeTheOriginal(t *testing.T) {
	const window, chunk = 32, 8
	original := newReplica(t, window, chunk)
	c := clients{rnd: rand.New(rand.NewPCG(5, 6)), marked: 150}
	rebuilt := map[uint64]*State{} // by the index that each was rebuilt at
	for original.index < 400 {
		reqs := c.entry(original.index+1, original.View())
		want := original.entry(reqs...)
		for at, s := range rebuilt {
			if got := s.Apply(original.index, reqs); !slices.Equal(got, want) {
				t.Fatalf("rebuilt at %d, index %d: results %v, want %v", at, original.index, got, want)
			}
			if s.View().Hash() != original.View().Hash() {
				t.Fatalf("rebuilt at %d, index %d: hashes differ", at, original.index)
			}
		}
		if original.index%40 == 7 {
			rebuilt[original.index] = reload(t, original.View(), window, chunk)
		}
	}
}

func TestALoaderOfNothingGivesANewState(t *testing.T) {
	if NewLoader(0, 0).State().View().Hash() != New().View().Hash() {
		t.Error("hashes differ")
	}
}

func TestALoaderRefusesKeysThatNoViewYields(t *testing.T) {
	for name, c := range map[string]struct {
		key     string
		version uint64
		reason  string
	}{
		"repeated":       {"b", 1, `key "b" after "b"`},
		"out of order":   {"a", 1, `key "a" after "b"`},
		"empty, second":  {"", 1, `key "" after "b"`},
		"without one":    {"c", 0, "version 0 at revision 5"},
		"of the future":  {"c", 6, "version 6 at revision 5"},
		"as it should":   {"c", 5, ""},
		"one byte above": {"b\x00", 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLoader(5, 0)
			if err := l.Add("b", nil, 1); err != nil {
				t.Fatal(err)
			}
			wantReason(t, l.Add(c.key, nil, c.version), c.reason)
		})
	}
}

func TestALoaderTakesTheEmptyKeyFirst(t *testing.T) {
	l := NewLoader(1, 0)
	wantReason(t, l.Add("", nil, 1), "")
	wantReason(t, l.Add("", nil, 1), `key "" after ""`)
}

func TestALoaderRefusesRecordsThatNoViewYields(t *testing.T) {
	for name, c := range map[string]struct {
		rec    Remembered
		reason string
	}{
		"below the floor":       {Remembered{command.ID{1}, command.Digest{}, 9, ok(1)}, "index 9 after index 10"},
		"at the floor":          {Remembered{command.ID{1}, command.Digest{}, 10, ok(5)}, ""},
		"result of the future":  {Remembered{command.ID{1}, command.Digest{}, 11, ok(6)}, "version 6 at revision 5"},
		"conflict":              {Remembered{command.ID{1}, command.Digest{}, 11, conflict(0)}, ""},
		"conflict ahead":        {Remembered{command.ID{1}, command.Digest{}, 11, conflict(6)}, "version 6 at revision 5"},
		"expired, never stored": {Remembered{command.ID{1}, command.Digest{}, 11, expired(2)}, "result code 2"},
	} {
		t.Run(name, func(t *testing.T) {
			wantReason(t, NewLoader(5, 10).Remember(c.rec), c.reason)
		})
	}
}

func TestALoaderRefusesRecordsOutOfOrderTwiceOrTooMany(t *testing.T) {
	l := newLoader(5, 0, sizes(4, 2))
	rec := func(id byte, index uint64) Remembered {
		return Remembered{command.ID{id}, command.Digest{}, index, ok(1)}
	}
	wantReason(t, l.Remember(rec(1, 7)), "")
	wantReason(t, l.Remember(rec(2, 6)), "index 6 after index 7")
	wantReason(t, l.Remember(rec(1, 8)), "twice")
	for id := byte(2); id <= 4; id++ {
		wantReason(t, l.Remember(rec(id, 7)), "")
	}
	wantReason(t, l.Remember(rec(5, 8)), "more remembered requests")
}

// wantReason wants an error that says reason, or none when reason is empty.
func wantReason(t *testing.T, err error, reason string) {
	t.Helper()
	if reason == "" && err != nil || reason != "" && !strings.Contains(fmt.Sprint(err), reason) {
		t.Errorf("error %v, want %q", err, reason)
	}
}

func TestALoaderTakesCallersRequestsInOrderAndOnce(t *testing.T) {
	l := newLoader(5, 3, sizes(4, 2))
	l.SetCallersFloor(10)
	rec := func(id byte, index uint64) Remembered {
		return Remembered{command.ID{id}, command.Digest{id}, index, ok(1)}
	}
	wantReason(t, l.RememberCaller(rec(1, 9)), "") // which a later old entry has overtaken
	wantReason(t, l.RememberCaller(rec(2, 8)), "index 8 after index 9")
	wantReason(t, l.RememberCaller(rec(1, 12)), "twice")
	wantReason(t, l.Remember(rec(4, 12)), "a digest")
	for id := byte(2); id <= 8; id++ {
		wantReason(t, l.RememberCaller(rec(id, 12)), "")
	}
	wantReason(t, l.RememberCaller(rec(9, 12)), "more remembered requests")
}

// A snapshot of an earlier version does not tell callers' requests from others, and a
// log of that version neither: the states after both are the same.
func TestALoaderOfUnmarkedRequestsGoesOnAfterThem(t *testing.T) {
	r := newReplica(t, 32, 8)
	r.entry(request(1, 0, set("a", "1")))
	r.entry(request(1, 0, set("a", "1")))
	s := reload(t, r.View(), 32, 8)
	for name, s := range map[string]*State{"replayed": r.State, "loaded": s} {
		late, early := caller(3, 1, 1, set("b", "1")), caller(4, 0, 1, set("b", "1"))
		wantResults(t, s.Apply(3, []command.Request{late, early}), ok(2), expired(3))
		if s.View().Unmarked() {
			t.Errorf("%s: the state is unmarked", name)
		}
	}
}
