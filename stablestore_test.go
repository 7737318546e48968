package kvraft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

func TestALogOfHraftdIsLeftAloneByWhoIsNotToTakeItOver(t *testing.T) {
	disk := newFaultStore()
	must(t, errors.Join(disk.Set(termKey, binary.BigEndian.AppendUint64(nil, 1)), disk.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Data: []byte(`{"op":"set"}`)}})))
	l, err := openLogStore(logStoreOptions{store: disk, fail: failTest(t)})
	must(t, err)
	_, err = settleSnapshots(t.TempDir(), l, verifyTestState)
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "the data of hraftd") {
		t.Errorf("got %v", err)
	}
	if disk.stable["kvraft"] != nil {
		t.Error("it was written to")
	}
}

func TestConcurrentChangesOfTheRecordAreAllKept(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	done := make(chan error)
	for i := range 50 {
		go func() {
			done <- l.updateMeta(func(m *metadata) { m.Raft[fmt.Sprint(i)] = []byte{1} })
		}()
	}
	for range 50 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := len(openTestLog(t, disk.rebooted()).meta().Raft); n != 51 {
		t.Fatalf("%d keys", n)
	}
}

func TestACopyOfTheRecordIsTheCallersOwn(t *testing.T) {
	l := openTestLog(t, newScriptedDisk(t))
	l.meta().Raft["x"] = []byte("y")
	if _, err := l.Get([]byte("x")); err != errKeyNotFound {
		t.Fatalf("got %v", err)
	}
	value := []byte("vote")
	if err := l.Set(voteKey, value); err != nil {
		t.Fatal(err)
	}
	value[0] = 'X'
	if got, err := l.Get(voteKey); err != nil || !bytes.Equal(got, []byte("vote")) {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestSavingTheSameTermAgainIsNotAWrite(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	disk.failAt(0, nil)
	if err := l.SetUint64(termKey, 1); err != nil || disk.count() != 0 {
		t.Fatalf("%v, %d operations", err, disk.count())
	}
}
