package failover

import (
	"slices"
	"testing"
)

// The voter whose log reaches furthest goes first; of two equal ones, one does.
func TestTheLongestLogStandsFirst(t *testing.T) {
	order := []SuspicionVote{
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
	if slices.ContainsFunc(order, func(v SuspicionVote) bool { return v.Before(v) }) {
		t.Error("a voter goes before itself")
	}
}
