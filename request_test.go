package kvraft

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/state"
)

func TestARepetitionThatIsNoLongerRememberedIsUnknownAndNotApplied(t *testing.T) {
	s, err := Open("", WithInMemory(), WithAddr("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	id := s.NewRequestID()
	if _, err := s.Set(ctx, "key", []byte("once"), WithRequestID(id)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delete(ctx, "key"); err != nil {
		t.Fatal(err)
	}
	group, n := make([]command.Request, 1<<14), uint64(0)
	for range state.CallerWindow/len(group) + 1 {
		for i := range group {
			n++
			group[i] = command.Request{Origin: command.Caller, Born: s.Index()}
			binary.BigEndian.PutUint64(group[i].ID[:], n)
		}
		if _, err := s.writes.replicate(command.Append(nil, group)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Set(ctx, "key", []byte("once"), WithRequestID(id)); !errors.Is(err, ErrUnknown) {
		t.Errorf("the repetition: %v, want ErrUnknown", err)
	}
	if _, err := s.Get(ctx, "key"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it was applied again: %v", err)
	}
	if _, err := s.Set(ctx, "key", []byte("new"), WithRequestID(s.NewRequestID())); err != nil {
		t.Error(err)
	}
}

// The ids are in the log and in snapshots: the same write must get the same for ever.
func TestTheIDOfACallersRequestStaysAsItIs(t *testing.T) {
	id, err := ParseRequestID("7-name")
	if err != nil {
		t.Fatal(err)
	}
	r := command.Request{Ops: []command.Op{{Kind: command.Set, Key: "k", Value: []byte("v")}}}
	if err := id.stamp(&r); err != nil {
		t.Fatal(err)
	}
	wantGolden(t, "request-2", command.AppendRequest(nil, &r))
}
