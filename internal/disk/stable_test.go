package disk

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disktest"
)

func TestConcurrentChangesOfTheRecordAreAllKept(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	done := make(chan error)
	for i := range 50 {
		go func() {
			done <- l.stable.Update(func(m *Record) { m.Raft[fmt.Sprint(i)] = []byte{1} })
		}()
	}
	for range 50 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := len(openTestLog(t, disk.Rebooted()).stable.Record().Raft); n != 51 {
		t.Fatalf("%d keys", n)
	}
}

func TestACopyOfTheRecordIsTheCallersOwn(t *testing.T) {
	l := openTestLog(t, newScriptedDisk(t))
	l.stable.Record().Raft["x"] = []byte("y")
	if _, err := l.stable.Get([]byte("x")); err != errKeyNotFound {
		t.Fatalf("got %v", err)
	}
	value := []byte("vote")
	if err := l.stable.Set(voteKey, value); err != nil {
		t.Fatal(err)
	}
	value[0] = 'X'
	if got, err := l.stable.Get(voteKey); err != nil || !bytes.Equal(got, []byte("vote")) {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestSavingTheSameTermAgainIsNotAWrite(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	disk.FailAt(0, nil)
	if err := l.stable.SetUint64(termKey, 1); err != nil || disk.Count() != 0 {
		t.Fatalf("%v, %d operations", err, disk.Count())
	}
}

func TestTermsOnlyRise(t *testing.T) {
	for _, key := range []string{"CurrentTerm", "LastVoteTerm"} {
		disk, told := disktest.NewFaultStore(), &disktest.Failures{}
		l, err := Open(Options{Store: disk, Fail: told.Tell})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.stable.SetUint64([]byte(key), 1<<62), l.stable.SetUint64([]byte(key), 1<<62)); err != nil {
			t.Fatal(err)
		}
		_, returned := disktest.Finishes(func() error { return l.stable.SetUint64([]byte(key), 0) })
		if returned || len(told.Told()) != 1 || !strings.Contains(told.Told()[0].Error(), "terms only rise") {
			t.Errorf("%s went from 2^62 to 0: returned %t, told %v", key, returned, told.Told())
		}
		if now := openTestLog(t, disk).stable.Record().number(key); now != 1<<62 {
			t.Errorf("%s is %d", key, now)
		}
	}
}

// raft writes a vote in two steps, the term and then the candidate. A crash
// between them must not leave the candidate of an earlier vote beside the term of
// a later one: raft repeats a vote that it finds without looking at the log of
// the candidate.
func TestAHalfWrittenVoteIsForNobody(t *testing.T) {
	logs, err := Open(Options{Store: raft.NewInmemStore(), Fail: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	vote := func(term uint64, candidate string) error {
		return errors.Join(logs.stable.SetUint64([]byte("LastVoteTerm"), term), logs.stable.Set([]byte("LastVoteCand"), []byte(candidate)))
	}
	if err := vote(4, "x"); err != nil {
		t.Fatal(err)
	}
	if err := logs.stable.SetUint64([]byte("LastVoteTerm"), 5); err != nil {
		t.Fatal(err)
	}
	if candidate, err := logs.stable.Get([]byte("LastVoteCand")); err == nil || err.Error() != "not found" {
		t.Errorf("in term 5 the vote is for %q, %v", candidate, err)
	}
	if err := vote(5, "y"); err != nil {
		t.Fatal(err)
	}
	if err := logs.stable.SetUint64([]byte("LastVoteTerm"), 5); err != nil { // the same once more is no new vote
		t.Fatal(err)
	}
	if candidate, err := logs.stable.Get([]byte("LastVoteCand")); err != nil || string(candidate) != "y" {
		t.Errorf("in term 5 the vote is for %q, %v; want y", candidate, err)
	}
}
