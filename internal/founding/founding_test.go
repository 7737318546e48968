package founding

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/roster"
)

var a, b, c, d = roster.Peer{Server: "a#1", Addr: "a:1"}, roster.Peer{Server: "b#2", Addr: "b:1"}, roster.Peer{Server: "c#3", Addr: "c:1"}, roster.Peer{Server: "d#4", Addr: "d:1"}

// of is what a node says that expects three, and may have promised a set.
func of(p roster.Peer, promise ...roster.Peer) Statement {
	return Statement{Peer: p, Expect: 3, Set: promise, Promised: promise != nil}
}

func heard(all ...Statement) map[raft.ServerID]Statement {
	others := make(map[raft.ServerID]Statement)
	for _, s := range all {
		others[s.Server] = s
	}
	return others
}

func TestWhichSetIsChosen(t *testing.T) {
	four := of(d)
	four.Expect = 4
	for name, test := range map[string]struct {
		others []Statement
		want   []roster.Peer
	}{
		"too few":                         {[]Statement{of(a)}, nil},
		"the first by identity":           {[]Statement{of(d), of(c), of(a)}, []roster.Peer{a, b, c}},
		"not who expects another number":  {[]Statement{four, of(a)}, nil},
		"what another has promised":       {[]Statement{of(a), of(c), of(d, b, c, d)}, []roster.Peer{b, c, d}},
		"not a promise without this node": {[]Statement{of(a, a, c, d), of(c), of(d)}, []roster.Peer{a, b, c}},
		// A set one of whose members has promised another will never be founded.
		"what is possible still":  {[]Statement{of(a, a, b, c), of(d, b, c, d), of(c, b, c, d)}, []roster.Peer{b, c, d}},
		"the other way round too": {[]Statement{of(a, a, b, c), of(d, b, d, c), of(c, a, b, c)}, []roster.Peer{a, b, c}},
	} {
		got := Choose(of(b), heard(test.others...))
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestASetIsAgreedOnceAllHaveIt(t *testing.T) {
	set := []roster.Peer{a, b, c}
	promised := func(s Statement) bool { return s.Promised }
	intends := of(c)
	intends.Set = set
	for _, test := range []struct {
		others []Statement
		says   string
	}{
		{[]Statement{of(a, set...), of(c, set...)}, ""},
		{[]Statement{of(a, set...)}, "c at c:1 does not answer"},
		{[]Statement{of(a, set...), intends}, "c is not ready"},
		{[]Statement{of(a, set...), of(c, b, c, d)}, "c has promised to form another, with b, c and d"},
		{[]Statement{of(a, set...), of(roster.Peer{Server: "c#9", Addr: "c:1"})}, "empty those of the others too"},
	} {
		err := Agreed(set, b.Server, heard(test.others...), promised)
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%v, want %q", err, test.says)
		}
	}
}

func TestNodesThatCannotBeInOneCluster(t *testing.T) {
	for _, set := range [][]roster.Peer{{a, {Server: "a#2", Addr: "b:1"}}, {a, {Server: "b#2", Addr: "a:1"}}} {
		if Check(set) == nil {
			t.Errorf("%v may form a cluster", set)
		}
	}
	if err := Check([]roster.Peer{a, b, c}); err != nil {
		t.Error(err)
	}
}
