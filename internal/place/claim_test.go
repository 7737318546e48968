package place

import "testing"

// All voters, or a majority that knows more than silence of the old address.
func TestWhatSufficesForAPlace(t *testing.T) {
	for _, c := range []struct {
		voters, there, absent int
		enough                bool
	}{
		{1, 1, 1, true},
		{3, 1, 1, false},
		{3, 2, 1, false}, // a majority, of which one has seen only silence
		{3, 2, 2, true},
		{3, 3, 1, true},
		{4, 2, 2, false},
		{5, 4, 3, true},
	} {
		if got := (tally{voters: c.voters, there: c.there, absent: c.absent}); got.enough() != c.enough {
			t.Errorf("%v: enough is %v", got, got.enough())
		}
	}
}

func TestTwoClaimantsOfOnePlaceAreSeen(t *testing.T) {
	var cs claims
	a, b := Claim{Server: "n1#1", Addr: "a:1", Process: "p"}, Claim{Server: "n1#1", Addr: "b:1", Process: "q"}
	for _, c := range []struct {
		claim Claim
		rival string
	}{{a, ""}, {a, ""}, {b, "a:1"}, {a, "b:1"}, {Claim{Server: "n2#2", Addr: "c:1", Process: "r"}, ""}} {
		if rival := cs.note(c.claim); rival != c.rival {
			t.Errorf("a claim at %s has a rival at %q, want %q", c.claim.Addr, rival, c.rival)
		}
		cs.take(c.claim)
	}
}
