package disk

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
)

func TestAStorageErrorAtAnyOperationStopsTheStoreOnceAndLosesNothing(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	l.limit = 500
	script := newScript(l)
	disk.FailAt(0, nil)
	for range scriptLength {
		if err := script.step(); err != nil {
			t.Fatal(err)
		}
	}
	script.verify(t, openTestLog(t, disk.Rebooted()))
	operations := disk.Count()
	if operations < scriptLength/2 {
		t.Fatalf("the script made only %d operations of storage", operations)
	}
	for name, fault := range disktest.Faults {
		t.Run(name, func(t *testing.T) {
			for k := 1; k <= operations; k++ {
				failScriptAt(t, k, fault)
			}
		})
	}
}

func failScriptAt(t *testing.T, k int, fault func(func()) error) {
	t.Helper()
	disk, told := newScriptedDisk(t), &disktest.Failures{}
	l, err := Open(Options{Store: disk, CacheBytes: 500, Fail: told.Tell})
	if err != nil {
		t.Fatal(err)
	}
	disk.FailAt(k, fault)
	script := newScript(l)
	for err == nil {
		err = script.step()
	}
	ended := *script
	for range 20 {
		if script.step() == nil {
			t.Fatalf("operation %d: an operation succeeded after the failure", k)
		}
	}
	if n := len(told.Told()); n != 1 {
		t.Fatalf("operation %d: told %d failures", k, n)
	}
	if n := disk.Count(); n != k {
		t.Fatalf("operation %d: %d operations of storage", k, n)
	}
	ended.verify(t, openTestLog(t, disk.Rebooted()))
}

func TestAWriteThatHangsStopsTheStore(t *testing.T) {
	writes := map[string]func(l *Log) error{
		"entries":  func(l *Log) error { return l.StoreLogs(disktest.Entries(11, 12, 1)) },
		"deletion": func(l *Log) error { return l.DeleteRange(1, 5) },
		"record":   func(l *Log) error { return l.stable.Update(func(m *Record) { m.Cluster = "c" }) },
	}
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk, told := newScriptedDisk(t), &disktest.Failures{}
				l, err := Open(Options{Store: disk, Stall: 5 * time.Second, Fail: told.Tell})
				if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, 10, 1))); err != nil {
					t.Fatal(err)
				}
				disk.FailAt(1, func(do func()) error { time.Sleep(time.Minute); do(); return nil })
				returned := make(chan error, 1)
				go func() { returned <- write(l) }()

				time.Sleep(5*time.Second - time.Nanosecond)
				synctest.Wait()
				if errs := told.Told(); len(errs) != 0 {
					t.Fatalf("stopped too early: %v", errs)
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				errs := told.Told()
				if len(errs) != 1 || !strings.Contains(errs[0].Error(), "within 5s") {
					t.Fatalf("told %v", errs)
				}
				if err := l.stable.Update(func(*Record) {}); err != errs[0] {
					t.Fatalf("the next write waited for the hanging one and returned %v", err)
				}
				if err := <-returned; err != errs[0] {
					t.Fatalf("the write that hung returned %v", err)
				}
				time.Sleep(time.Hour)
			})
		})
	}
}

func TestALargeWriteMayTakeLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, took := range []time.Duration{24 * time.Second, 26 * time.Second} {
			disk, told := newScriptedDisk(t), &disktest.Failures{}
			l, err := Open(Options{Store: disk, Stall: 5 * time.Second, Fail: told.Tell})
			if err != nil {
				t.Fatal(err)
			}
			disk.FailAt(1, func(do func()) error { time.Sleep(took); do(); return nil })
			err = l.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Data: make([]byte, 8<<20)}, {Index: 2, Term: 1, Data: make([]byte, 12<<20)}})
			if failed := took > 25*time.Second; (err != nil) != failed || len(told.Told()) > 0 != failed {
				t.Errorf("a write of 20 MiB that took %v: %v", took, err)
			}
		}
	})
}

func TestAQuickWriteLeavesNoWatchdogBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &disktest.Failures{}
		l, err := Open(Options{Store: newScriptedDisk(t), Stall: time.Second, Fail: told.Tell})
		if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, 10, 1))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if errs := told.Told(); len(errs) != 0 {
			t.Fatalf("told %v", errs)
		}
	})
}

func TestADeletionThatIsCutOffAnywhereLeavesALogToStartFrom(t *testing.T) {
	const entries = 5*deleteChunk + 10
	for name, c := range map[string]struct{ from, to, snapshot uint64 }{
		"prefix":                    {1, entries - 100, entries - 100},
		"suffix":                    {7, entries, 3},
		"all, replaced by snapshot": {1, entries, entries + 500},
		"all, conflicting tail":     {1, entries, 2*deleteChunk + 3},
	} {
		t.Run(name, func(t *testing.T) {
			for k := 1; ; k++ {
				disk, told := newScriptedDisk(t), &disktest.Failures{}
				l, err := Open(Options{Store: disk, Fail: told.Tell})
				if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, entries, 1))); err != nil {
					t.Fatal(err)
				}
				disk.FailAt(k, disktest.Faults["fails"])
				complete := l.DeleteRange(c.from, c.to) == nil
				again := openTestLog(t, disk.Rebooted())
				if err := again.alignWith(c.snapshot, 1); err != nil {
					t.Fatalf("cut off at operation %d: %v", k, err)
				}
				if first, last := again.Bounds(); first != 0 && (first > c.snapshot+1 || last < c.snapshot) {
					t.Fatalf("cut off at operation %d: log is %d to %d", k, first, last)
				}
				if complete {
					break
				}
				if k > 20 {
					t.Fatal("more chunks than expected")
				}
			}
		})
	}
}

func TestDeletingASuffixLowersWhatTheRecordCountsOn(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	if err := errors.Join(l.StoreLogs(disktest.Entries(1, 100, 1)), l.stable.raiseTail(), l.DeleteRange(50, 100)); err != nil {
		t.Fatal(err)
	}
	if _, last := openTestLog(t, disk.Rebooted()).Bounds(); last != 49 {
		t.Fatalf("last entry is %d", last)
	}
}

func TestStoringLeavesRaftsEntryAlone(t *testing.T) {
	l := openTestLog(t, newScriptedDisk(t))
	entry := disktest.Entries(1, 1, 1)[0]
	if err := l.StoreLog(entry); err != nil || entry.Extensions != nil {
		t.Fatalf("%v, extensions %x", err, entry.Extensions)
	}
}

func TestAnEntryThatArrivesDamagedIsNotStored(t *testing.T) {
	disk, told := newScriptedDisk(t), &disktest.Failures{}
	l, err := Open(Options{Store: disk, Fail: told.Tell})
	if err != nil {
		t.Fatal(err)
	}
	entry := sealedEntry(1, 1)
	if err := l.StoreLog(entry); err != nil {
		t.Fatalf("an undamaged entry with a checksum: %v", err)
	}
	entry = sealedEntry(2, 1)
	entry.Data[3] ^= 1
	if err := l.StoreLog(entry); !errors.Is(err, errs.Damaged) || len(told.Told()) != 1 {
		t.Fatalf("got %v, told %v", err, told.Told())
	}
	if _, stored := disk.Entries[2]; stored {
		t.Fatal("it was stored")
	}
}

func TestEntriesThatWouldTearTheLogAreRefused(t *testing.T) {
	for _, tear := range []func(*Log) error{
		func(l *Log) error { return l.StoreLogs(disktest.Entries(12, 12, 1)) },
		func(l *Log) error { return l.StoreLogs(disktest.Entries(10, 11, 1)) },
		func(l *Log) error { return l.DeleteRange(3, 5) },
	} {
		told := &disktest.Failures{}
		l, err := Open(Options{Store: newScriptedDisk(t), Fail: told.Tell})
		if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, 10, 1))); err != nil {
			t.Fatal(err)
		}
		if err := tear(l); err == nil || len(told.Told()) != 1 {
			t.Fatalf("got %v, told %v", err, told.Told())
		}
	}
}

func TestAbsenceIsNotAFailure(t *testing.T) {
	l := openTestLog(t, disktest.NewFaultStore())
	if err := l.GetLog(1, new(raft.Log)); err != raft.ErrLogNotFound {
		t.Fatalf("got %v", err)
	}
	if _, err := l.stable.GetUint64(termKey); err == nil || err.Error() != "not found" {
		t.Fatalf("got %v", err)
	}
}

func TestDamageFoundByAReaderStopsTheStore(t *testing.T) {
	for name, damage := range map[string]func(*disktest.FaultStore){
		"changed":  func(d *disktest.FaultStore) { e := d.Entries[1]; e.Data = []byte("x"); d.Entries[1] = e },
		"vanished": func(d *disktest.FaultStore) { delete(d.Entries, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			disk, told := newScriptedDisk(t), &disktest.Failures{}
			l, err := Open(Options{Store: disk, CacheBytes: 1, Fail: told.Tell})
			if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, 10, 1))); err != nil {
				t.Fatal(err)
			}
			damage(disk)
			// The error comes back: this is how replication reads.
			if err := l.GetLog(1, new(raft.Log)); !errors.Is(err, errs.Damaged) || len(told.Told()) != 1 {
				t.Fatalf("got %v, told %v", err, told.Told())
			}
		})
	}
}

func TestALogThatDoesNotFitTheSnapshot(t *testing.T) {
	for name, c := range map[string]struct {
		index, term uint64
		left        uint64 // entries
		damaged     bool
	}{
		"inside the log":              {50, 1, 91, false},
		"right before the log":        {9, 1, 91, false},
		"at the end of the log":       {100, 1, 91, false},
		"after the log":               {101, 1, 0, false},
		"of another term":             {50, 2, 0, false},
		"before the log, with a hole": {8, 1, 91, true},
		"none":                        {0, 0, 91, true},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newScriptedDisk(t)
			l := openTestLog(t, disk)
			if err := l.StoreLogs(disktest.Entries(10, 100, 1)); err != nil {
				t.Fatal(err)
			}
			err := l.CheckFollows(SnapshotMark{Index: c.index})
			if err == nil {
				err = l.alignWith(c.index, c.term)
			}
			if errors.Is(err, errs.Damaged) != c.damaged || err != nil && !c.damaged {
				t.Fatal(err)
			}
			if n := uint64(len(disk.Entries)); n != c.left {
				t.Fatalf("%d entries are left", n)
			}
		})
	}
}
