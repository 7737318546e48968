package member

import (
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/place"
)

// notes are a state that has nothing else.
type notes struct {
	node.State
	texts map[string]string
}

func (n notes) Note(name string) string { return n.texts[name] }

func (n notes) Notes(each func(name, text string) bool) {
	for _, name := range slices.Sorted(maps.Keys(n.texts)) {
		if !each(name, n.texts[name]) {
			return
		}
	}
}

func newMembers(t *testing.T, texts map[string]string) *Members {
	n := node.New(node.Timing{}, hclog.NewNullLogger())
	t.Cleanup(n.Life.End)
	n.Raft = new(raft.Raft)
	n.State = notes{texts: texts}
	tracker := lead.New(n)
	return New(n, tracker, place.New(n, tracker))
}

// What was noted without a log index is older than all that have one.
func TestTheOldestNotesComeFirst(t *testing.T) {
	ms := newMembers(t, map[string]string{
		"retired/n1#a": "1 30",
		"retired/n1#b": "forced 4",
		"retired/n2#c": "1",
		"left/n1#d":    "1 2",
		"replica/n1":   "1",
	})
	var servers []raft.ServerID
	for _, f := range ms.former(RemovedNote) {
		servers = append(servers, f.server)
	}
	if want := []raft.ServerID{"n2#c", "n1#b", "n1#a"}; !slices.Equal(servers, want) {
		t.Errorf("removed were %v, want %v", servers, want)
	}
	if of := ms.Formerly("n1", RemovedNote); !slices.Equal(of, []raft.ServerID{"n1#b", "n1#a"}) {
		t.Errorf("under n1 were %v", of)
	}
	if !ms.IsRemoved("n1#b") || !ms.isRemovedByForce("n1#b") || ms.isRemovedByForce("n1#a") || ms.IsRemoved("n1#d") || !ms.IsReplica("n1") {
		t.Error("a note is misread")
	}
}

// Of a replica that is forgotten what it was to be is forgotten too, unless somebody of its
// id may still return.
func TestWhatANodeWasToBeIsForgottenWithTheLastOfItsId(t *testing.T) {
	ms := newMembers(t, map[string]string{"left/n1#a": "1 1", "left/n1#b": "1 2", "replica/n1": "1"})
	all := ms.former(LeftNote)
	for n, want := range map[int][]string{
		1: {"forgotten", "left/n1#a"},
		2: {"forgotten", "left/n1#a", "left/n1#b", "replica/n1"},
	} {
		var keys []string
		for _, op := range ms.forgetting(all[:n], LeftNote) {
			keys = append(keys, op.Key)
		}
		if !slices.Equal(keys, want) {
			t.Errorf("%d are forgotten by %v, want %v", n, keys, want)
		}
	}
}
