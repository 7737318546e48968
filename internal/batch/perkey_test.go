package batch

import "testing"

func TestAKeyIsAcquiredSoManyTimesAtMost(t *testing.T) {
	q := PerKey[string]{Most: 2}
	first, ok1 := q.Acquire("a#1")
	second, ok2 := q.Acquire("a#1")
	if !ok1 || !ok2 {
		t.Fatal("two are too many")
	}
	if _, ok := q.Acquire("a#1"); ok {
		t.Error("a third was acquired")
	}
	other, ok := q.Acquire("b#2")
	if !ok {
		t.Error("another key is left out")
	}
	first()
	again, ok := q.Acquire("a#1")
	if !ok {
		t.Error("a release made no room for the next")
	}
	for _, release := range []func(){second, other, again} {
		release()
	}
	if len(q.out) != 0 {
		t.Errorf("all are released, and %v is kept", q.out)
	}
}
