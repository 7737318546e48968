package node

import (
	"testing"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/wal"
)

// A node that may have acknowledged what it has lost is one of those who had it.
func TestWhatTooManyVotersLackWasNeverCommitted(t *testing.T) {
	for _, c := range []struct {
		voters, lacking int // beside the node itself
		never           bool
	}{
		{1, 0, false}, // it votes for itself without being asked
		{2, 0, false}, {2, 1, true},
		{3, 1, false}, {3, 2, true},
		{4, 1, false}, {4, 2, true},
		{5, 2, false}, {5, 3, true},
	} {
		voters := []raft.Server{{ID: "self"}}
		for i := range c.voters - 1 {
			voters = append(voters, raft.Server{ID: raft.ServerID(rune('a' + i))})
		}
		for _, d := range []struct {
			doubt wal.Doubt
			own   uint64 // the term of those who lack it
			never bool
		}{
			{wal.Doubt{Index: 9, Term: 5}, 6, c.never},
			{wal.Doubt{Index: 9, Term: 5}, 5, false}, // its leader may yet give it to them
			{wal.Doubt{Index: 9, Term: 5, Configures: true}, 6, false},
		} {
			var e electorate
			for _, other := range voters[1 : 1+c.lacking] {
				for range 2 { // who asks twice counts once
					e.neverCommitted(d.doubt, other.ID, d.own, voters)
				}
			}
			if never := e.neverCommitted(d.doubt, "no voter", d.own, voters); never != d.never {
				t.Errorf("%d of %d voters of term %d lack %v: never committed is %v", c.lacking, c.voters, d.own, d.doubt, never)
			}
		}
	}
}
