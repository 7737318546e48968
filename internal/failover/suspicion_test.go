package failover

import (
	"slices"
	"testing"
)

// The voter whose log reaches furthest goes first; of two equal ones, one does.
func TestTheLongestLogStandsFirst(t *testing.T) {
	order := []LogEnd{
		{Term: 3, Index: 1, Server: "a"},
		{Term: 2, Index: 9, Server: "c"},
		{Term: 2, Index: 9, Server: "b"},
		{Term: 2, Index: 8, Server: "d"},
		{},
	}
	for i, v := range order {
		for k, other := range order {
			if got, want := v.Before(other), i < k; got != want {
				t.Errorf("%+v before %+v: %v, want %v", v, other, got, want)
			}
		}
	}
	if slices.ContainsFunc(order, func(v LogEnd) bool { return v.Before(v) }) {
		t.Error("a voter goes before itself")
	}
}

// A second one in the same term would take votes from the first: of five voters neither
// could have a majority.
func TestAVoterThatStandsAlreadyGoesBeforeTheOthers(t *testing.T) {
	mine := SuspicionVote{Dead: true, LogEnd: LogEnd{2, 9, "c"}}
	for _, c := range []struct {
		what       string
		vote       SuspicionVote
		rank, dead int
	}{
		{"one that does not answer", SuspicionVote{}, 0, 0},
		{"one that hears the leader", SuspicionVote{LogEnd: LogEnd{3, 1, "a"}}, 0, 0},
		{"one whose log is longer", SuspicionVote{Dead: true, LogEnd: LogEnd{3, 1, "a"}}, 1, 1},
		{"one that abstains", SuspicionVote{Dead: true, LogEnd: LogEnd{3, 1, "a"}, Abstains: true}, 0, 1},
		{"one whose log is shorter", SuspicionVote{Dead: true, LogEnd: LogEnd{2, 8, "d"}}, 0, 1},
		{"one that stands, whose log is shorter", SuspicionVote{Later: true, LogEnd: LogEnd{2, 8, "d"}}, 1, 0},
	} {
		if rank, dead := rankAmong([]SuspicionVote{c.vote}, mine); rank != c.rank || dead != c.dead {
			t.Errorf("%s: rank %d, of %d that find the leader lost; want %d, %d", c.what, rank, dead, c.rank, c.dead)
		}
	}
}
