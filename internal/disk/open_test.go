package disk

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
)

func TestALogThatLostItsLastEntriesIsDamaged(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	if err := errors.Join(l.StoreLogs(disktest.Entries(1, 100, 1)), l.stable.raiseTail(), disk.DeleteRange(100, 100)); err != nil {
		t.Fatal(err)
	}
	expectDamage(t, disk, "ends at entry 99")
}

// expectDamage expects Open to refuse disk with a text.
func expectDamage(t *testing.T, disk *disktest.FaultStore, text string) {
	t.Helper()
	_, err := Open(Options{Store: disk, Name: "raft.db", Fail: disktest.FailTest(t)})
	if !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), text) {
		t.Fatalf("got %v, expected damage with %q", err, text)
	}
}

func TestOpenNamesTheDamagedEntry(t *testing.T) {
	for text, damage := range map[string]func(*disktest.FaultStore){
		"read entry 5":                       func(d *disktest.FaultStore) { delete(d.Entries, 5) },
		"entry 5 does not match":             func(d *disktest.FaultStore) { e := d.Entries[5]; e.Term = 1; d.Entries[5] = e },
		"entry 6 has no checksum":            func(d *disktest.FaultStore) { e := d.Entries[6]; e.Extensions = nil; d.Entries[6] = e },
		"entry 4 is stored where entry 5":    func(d *disktest.FaultStore) { d.Entries[5] = d.Entries[4] },
		"entry 7 is of term 1":               func(d *disktest.FaultStore) { d.Entries[7] = *sealedEntry(7, 1) },
		"entry 8 is of term 9":               func(d *disktest.FaultStore) { d.Entries[8] = *sealedEntry(8, 9) },
		"does not match its checksum":        func(d *disktest.FaultStore) { d.Stable["kvraft"][20] ^= 4 },
		"ends at entry 8, but entries up to": func(d *disktest.FaultStore) { delete(d.Entries, 9); delete(d.Entries, 10) },
	} {
		t.Run(text, func(t *testing.T) {
			disk := newScriptedDisk(t)
			l := openTestLog(t, disk)
			if err := errors.Join(l.StoreLogs(disktest.Entries(1, 3, 1)), l.stable.SetUint64(termKey, 3), l.StoreLogs(disktest.Entries(4, 10, 3)), l.stable.raiseTail()); err != nil {
				t.Fatal(err)
			}
			damage(disk)
			expectDamage(t, disk, text)
		})
	}
}

// sealedEntry is an entry with a right checksum.
func sealedEntry(index, term uint64) *raft.Log {
	e := disktest.Entries(index, index, term)[0]
	e.Extensions = appendChecksum(nil, e)
	return e
}

func TestOldEntriesMayLackAChecksumWhereTheRecordSaysSo(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	old := disktest.Entries(1, 9, 1)
	for _, e := range old {
		e.Data = []byte(`{"op":"set","key":"k"}`)
	}
	err := errors.Join(disk.StoreLogs(old), l.stable.Update(func(m *Record) { m.ChecksummedFrom = 10 }))
	if err != nil {
		t.Fatal(err)
	}
	l = openTestLog(t, disk)
	if err := l.StoreLogs(disktest.Entries(10, 12, 1)); err != nil {
		t.Fatal(err)
	}
	openTestLog(t, disk.Rebooted())
	disk.Entries[10] = *disktest.Entries(10, 10, 1)[0]
	expectDamage(t, disk, "entry 10 has no checksum")
	disk.Entries[5] = *disktest.Entries(5, 5, 1)[0]
	expectDamage(t, disk, "entry 5: decode log entry of hraftd")
}

// A follower of hraftd's that was sent two snapshots, and stopped before it had anything
// behind the second.
func TestALogOfHraftdWithAGapGoesWholeWhereASnapshotReplacesIt(t *testing.T) {
	disk := disktest.NewFaultStore()
	old := append(disktest.Entries(1, 5, 1), disktest.Entries(20, 25, 1)...)
	for _, e := range old {
		e.Data = []byte(`{"op":"set","key":"k"}`)
	}
	if err := errors.Join(disk.StoreLogs(old), disk.Set(termKey, binary.BigEndian.AppendUint64(nil, 1))); err != nil {
		t.Fatal(err)
	}
	l := openTestLog(t, disk)
	if err := l.Settle(SnapshotMark{ID: "1-40-1", Index: 40, Term: 1}); err != nil {
		t.Fatal(err)
	}
	if err := l.StoreLogs(disktest.Entries(41, 42, 1)); err != nil {
		t.Fatal(err)
	}
	if first, last := openTestLog(t, disk.Rebooted()).Bounds(); first != 41 || last != 42 || len(disk.Entries) != 2 {
		t.Errorf("the log is %d to %d, of %d entries", first, last, len(disk.Entries))
	}
}

// Such an entry could be stored before messages were judged. raft panics on it.
func TestALogWithWhatRaftPanicsOnIsDamagedAndSaysWhere(t *testing.T) {
	for want, entry := range map[string]raft.Log{
		"failed to decode configuration": {Type: raft.LogConfiguration, Data: []byte("x")},
		"of type LogAddPeerDeprecated":   {Type: raft.LogAddPeerDeprecated},
		"of type 77":                     {Type: 77},
	} {
		disk := disktest.NewFaultStore()
		l := openTestLog(t, disk)
		entry.Index, entry.Term = 3, 1
		if err := errors.Join(l.stable.SetUint64(termKey, 1), l.StoreLogs(disktest.Entries(1, 2, 1)), l.StoreLogs([]*raft.Log{&entry})); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Options{Store: disk, Fail: disktest.FailTest(t)})
		if !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "entry 3: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestATermThatNoElectionLeadsToIsDamage(t *testing.T) {
	disk := disktest.NewFaultStore()
	if err := openTestLog(t, disk).stable.SetUint64(termKey, math.MaxUint64); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Store: disk, Fail: disktest.FailTest(t)})
	if !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "18446744073709551615") {
		t.Errorf("got %v", err)
	}
}
