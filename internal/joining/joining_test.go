package joining

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/founding"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/member"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/place"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
	"github.com/kvraft/kvraft/internal/wire/wiretest"
)

// newJoiner is that of node b#2 in no cluster, which reaches nobody, with a raft that
// never starts.
func newJoiner(t *testing.T, c Config) *Joiner {
	n := node.New(node.Timing{}, hclog.NewNullLogger())
	t.Cleanup(n.Life.End)
	n.Raft = new(raft.Raft)
	n.Server = "b#2"
	n.Port = wiretest.Port(t, wiretest.LAN(), "b:1", wire.Self{Server: n.Server})
	var err error
	if n.Logs, err = disk.Open(disk.Options{Store: raft.NewInmemStore(), Fail: func(err error) { t.Error(err) }}); err != nil {
		t.Fatal(err)
	}
	if err := n.Stable().Update(func(m *disk.Record) { m.ID, m.Identity = "b", "2" }); err != nil {
		t.Fatal(err)
	}
	tracker := lead.New(n)
	places := place.New(n, tracker)
	return New(n, tracker, places, member.New(n, tracker, places), c)
}

// A node that has promised a set intends no other, whomever it meets.
func TestAPromiseIsKept(t *testing.T) {
	j := newJoiner(t, Config{Expect: 2})
	promised := []roster.Peer{{Server: "b#2", Addr: "b:1"}, {Server: "c#3", Addr: "c:1"}}
	others := map[raft.ServerID]founding.Statement{
		"a#1": {Peer: roster.Peer{Server: "a#1", Addr: "a:1"}, Expect: 2, Promised: true, Set: []roster.Peer{{Server: "a#1", Addr: "a:1"}, {Server: "b#2", Addr: "b:1"}}},
		"c#3": {Peer: roster.Peer{Server: "c#3", Addr: "c:1"}, Expect: 2},
	}
	for _, c := range []struct {
		promise, want []roster.Peer
	}{
		{nil, others["a#1"].Set}, // what another has promised for this node comes before what it would choose
		{promised, promised},
	} {
		if err := j.Stable().Update(func(m *disk.Record) { m.Promise = c.promise }); err != nil {
			t.Fatal(err)
		}
		set, err := j.intend(others)
		if err != nil || !slices.Equal(set, c.want) {
			t.Errorf("with the promise %v: intends %v, %v, want %v", c.promise, set, err, c.want)
		}
	}
	if _, err := j.AcceptAdmission(t.Context(), place.Admission{Cluster: "another cluster", Server: "b#2"}); err == nil {
		t.Error("it let itself be admitted elsewhere")
	}
	if _, err := j.AcceptAdmission(t.Context(), place.Admission{Cluster: founding.ClusterID(promised), Server: "b#2"}); err != nil || j.Stable().Record().Promise != nil {
		t.Errorf("an admission to the cluster that it promised: %v", err)
	}
}

// What a member of the set has become decides about a promise.
func TestAPromiseIsVoidOnceAMemberBelongsElsewhere(t *testing.T) {
	j := newJoiner(t, Config{})
	promised := []roster.Peer{{Server: "b#2", Addr: "b:1"}, {Server: "c#3", Addr: "c:1"}}
	if err := j.Stable().Update(func(m *disk.Record) { m.Promise = promised }); err != nil {
		t.Fatal(err)
	}
	if err := j.meetMember(founding.Statement{Peer: roster.Peer{Server: "x#9", Addr: "x:1"}, Cluster: "elsewhere"}); err == nil || j.Stable().Record().Promise == nil {
		t.Errorf("a stranger's cluster: %v, promise %v", err, j.Stable().Record().Promise)
	}
	if err := j.meetMember(founding.Statement{Peer: roster.Peer{Server: "c#3", Addr: "c:1"}, Cluster: "elsewhere"}); err == nil || j.Stable().Record().Promise != nil {
		t.Errorf("a member's cluster: %v, promise %v", err, j.Stable().Record().Promise)
	}
}

// A node that is silent for a while is asked again where it was, and told of to others.
func TestWhereANodeWasFoundIsNotForgotten(t *testing.T) {
	j := newJoiner(t, Config{})
	j.Addr = "b:1"
	j.noteKnown([]string{"a:1", "b:1", "a:1"})
	j.noteKnown(nil)
	if known := j.statement().Known; !slices.Equal(known, []string{"a:1"}) {
		t.Errorf("it knows %v", known)
	}
	for n := range 100 { // what there is room for are the latest
		j.noteKnown([]string{fmt.Sprint("c:", n)})
	}
	if known := j.statement().Known; len(known) != 64 || known[0] != "c:99" || known[63] != "c:36" {
		t.Errorf("it knows %v", known)
	}
}

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
		if got := strandedWith(c.other, c.mine, c.expect); !strings.Contains(got, c.says) || strings.Contains(got, c.not) {
			t.Errorf("%+v, of cluster %q, expecting %d: %s", c.other, c.mine, c.expect, got)
		}
	}
}
