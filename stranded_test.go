package kvraft

import (
	"strings"
	"testing"

	"github.com/kvraft/kvraft/internal/founding"
	"github.com/kvraft/kvraft/internal/joining"
	"github.com/kvraft/kvraft/internal/roster"
)

// The advice is about what is so here: a node with data, or one that expects as many,
// is not told to expect as many.
func TestWhatAnotherNodeWithoutAClusterWaitsForIsSaidAsItIs(t *testing.T) {
	other := founding.Statement{Peer: roster.Peer{Server: "n2#b"}, Expect: 3}
	for _, c := range []struct {
		other     founding.Statement
		mine      string
		expect    int
		says, not string
	}{
		{other, "", 1, "must expect as many", "empty"},
		{other, "", 2, "must expect as many", "empty"},
		{other, "", 3, "is in no cluster either", "must expect"},
		{other, "c1", 3, "the data here are of cluster c1", "must expect"},
		{other, "c1", 1, "must have an empty directory", "must expect"},
		{founding.Statement{Peer: roster.Peer{Server: "n2#b"}, Expect: 1}, "c1", 3, "waits to be admitted itself", "empty"},
		{founding.Statement{Peer: roster.Peer{Server: "n2"}, Expect: 3}, "", 1, "taken over from hraftd", "expect"},
	} {
		if got := joining.StrandedWith(c.other, c.mine, c.expect); !strings.Contains(got, c.says) || strings.Contains(got, c.not) {
			t.Errorf("%+v, of cluster %q, expecting %d: %s", c.other, c.mine, c.expect, got)
		}
	}
}
