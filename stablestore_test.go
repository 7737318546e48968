package kvraft

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestALogOfHraftdIsLeftAloneByWhoIsNotToTakeItOver(t *testing.T) {
	for _, fill := range []func(*faultStore) error{
		func(d *faultStore) error { return d.Set(termKey, make([]byte, 8)) },
		func(d *faultStore) error { return d.StoreLogs(testEntries(1, 1, 1)) },
	} {
		disk := newFaultStore()
		if err := fill(disk); err != nil {
			t.Fatal(err)
		}
		_, err := openLogStore(disk, logStoreOptions{fail: failTest(t)})
		if err == nil || !strings.Contains(err.Error(), "the data of hraftd") {
			t.Fatalf("got %v", err)
		}
		if disk.stable["kvraft"] != nil {
			t.Fatal("it was written to")
		}
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
