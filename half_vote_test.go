package kvraft

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"
)

// raft writes a vote in two steps, the term and then the candidate. A crash
// between them must not leave the candidate of an earlier vote beside the term of
// a later one: raft repeats a vote that it finds without looking at the log of
// the candidate.
func TestAHalfWrittenVoteIsForNobody(t *testing.T) {
	logs, err := openLogStore(logStoreOptions{store: raft.NewInmemStore(), fail: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	vote := func(term uint64, candidate string) error {
		return errors.Join(logs.SetUint64([]byte("LastVoteTerm"), term), logs.Set([]byte("LastVoteCand"), []byte(candidate)))
	}
	if err := vote(4, "x"); err != nil {
		t.Fatal(err)
	}
	if err := logs.SetUint64([]byte("LastVoteTerm"), 5); err != nil {
		t.Fatal(err)
	}
	if candidate, err := logs.Get([]byte("LastVoteCand")); err == nil || err.Error() != "not found" {
		t.Errorf("in term 5 the vote is for %q, %v", candidate, err)
	}
	if err := vote(5, "y"); err != nil {
		t.Fatal(err)
	}
	if err := logs.SetUint64([]byte("LastVoteTerm"), 5); err != nil { // the same once more is no new vote
		t.Fatal(err)
	}
	if candidate, err := logs.Get([]byte("LastVoteCand")); err != nil || string(candidate) != "y" {
		t.Errorf("in term 5 the vote is for %q, %v; want y", candidate, err)
	}
}
