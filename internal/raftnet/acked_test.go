package raftnet

import (
	"testing"
	"time"
)

func TestALateAnswerOfAnEarlierTermTakesBackNothing(t *testing.T) {
	a, before := new(acked), time.Now().Add(-time.Second)
	a.note(1, "n1", 7)
	a.note(2, "n1", 9)
	a.note(1, "n2", 8)
	if a.Acked("n1") != 9 || !a.AnsweredSince(2, "n1", before) {
		t.Errorf("n1 has acknowledged entry %d, want 9", a.Acked("n1"))
	}
	if a.Acked("n2") != 0 || a.AnsweredSince(2, "n2", before) {
		t.Errorf("n2 has acknowledged entry %d in term 2, want none", a.Acked("n2"))
	}
}
