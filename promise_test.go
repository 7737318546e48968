package kvraft

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/founding"
	"github.com/kvraft/kvraft/internal/place"
	"github.com/kvraft/kvraft/internal/roster"
)

// A node that has promised a set intends no other, whomever it meets.
func TestAPromiseIsKept(t *testing.T) {
	s := newTestServer(t)
	s.opts.expect = 2
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
		if err := s.node.Stable().Update(func(m *disk.Record) { m.Cluster, m.Promise = "", c.promise }); err != nil {
			t.Fatal(err)
		}
		set, err := s.joiner.Intend(others)
		if err != nil || !slices.Equal(set, c.want) {
			t.Errorf("with the promise %v: intends %v, %v, want %v", c.promise, set, err, c.want)
		}
	}
	if _, err := s.joiner.AcceptAdmission(t.Context(), place.Admission{Cluster: "another cluster", Server: "b#2"}); err == nil {
		t.Error("it let itself be admitted elsewhere")
	}
	if _, err := s.joiner.AcceptAdmission(t.Context(), place.Admission{Cluster: founding.ClusterID(promised), Server: "b#2"}); err != nil || s.node.Stable().Record().Promise != nil {
		t.Errorf("an admission to the cluster that it promised: %v", err)
	}
}

// What a member of the set has become decides about a promise.
func TestAPromiseIsVoidOnceAMemberBelongsElsewhere(t *testing.T) {
	s := newTestServer(t)
	promised := []roster.Peer{{Server: "b#2", Addr: "b:1"}, {Server: "c#3", Addr: "c:1"}}
	if err := s.node.Stable().Update(func(m *disk.Record) { m.Cluster, m.Promise = "", promised }); err != nil {
		t.Fatal(err)
	}
	if err := s.joiner.MeetMember(founding.Statement{Peer: roster.Peer{Server: "x#9", Addr: "x:1"}, Cluster: "elsewhere"}); err == nil || s.node.Stable().Record().Promise == nil {
		t.Errorf("a stranger's cluster: %v, promise %v", err, s.node.Stable().Record().Promise)
	}
	if err := s.joiner.MeetMember(founding.Statement{Peer: roster.Peer{Server: "c#3", Addr: "c:1"}, Cluster: "elsewhere"}); err == nil || s.node.Stable().Record().Promise != nil {
		t.Errorf("a member's cluster: %v, promise %v", err, s.node.Stable().Record().Promise)
	}
}

// A node that is silent for a while is asked again where it was, and told of to others.
func TestWhereANodeWasFoundIsNotForgotten(t *testing.T) {
	s := newTestServer(t)
	s.node.Addr = "b:1"
	s.joiner.NoteKnown([]string{"a:1", "b:1", "a:1"})
	s.joiner.NoteKnown(nil)
	if known := s.joiner.Founding().Known; !slices.Equal(known, []string{"a:1"}) {
		t.Errorf("it knows %v", known)
	}
	for n := range 100 { // what there is room for are the latest
		s.joiner.NoteKnown([]string{fmt.Sprint("c:", n)})
	}
	if known := s.joiner.Founding().Known; len(known) != 64 || known[0] != "c:99" || known[63] != "c:36" {
		t.Errorf("it knows %v", known)
	}
}
