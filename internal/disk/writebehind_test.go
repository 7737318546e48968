package disk

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
)

// openLeadersLog opens a log with entries 1 to 10 as a leader of several voters has it.
func openLeadersLog(t *testing.T, disk *disktest.FaultStore, opt Options) *Log {
	t.Helper()
	opt.Store = disk
	l, err := Open(opt)
	if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, 10, 1))); err != nil {
		t.Fatal(err)
	}
	l.SetHooks(Hooks{NeedsOthers: func() bool { return true }})
	return l
}

// takes returns how long f takes.
func takes(t *testing.T, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := f(); err != nil {
		t.Error(err)
	}
	return time.Since(began)
}

const slowly = time.Second

func slowDisk(do func()) error { time.Sleep(slowly); do(); return nil }

func TestALeadersEntriesCanBeReadWhileTheyAreStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newScriptedDisk(t)
		l := openLeadersLog(t, disk, Options{Fail: disktest.FailTest(t)})
		disk.FailAt(1, slowDisk)
		if took := takes(t, func() error { return l.StoreLogs(disktest.Entries(11, 12, 1)) }); took != 0 {
			t.Errorf("the leader waits %v for its disk", took)
		}
		var entry raft.Log
		if err := l.GetLog(12, &entry); err != nil || entry.Index != 12 {
			t.Errorf("entry 12: %+v, %v", entry, err)
		}
		if took := takes(t, func() error { return l.AwaitStored(10) }); took != 0 {
			t.Errorf("a wait of %v for an entry that is stored", took)
		}
		if took := takes(t, func() error { return l.AwaitStored(11) }); took != slowly {
			t.Errorf("entries are stored after %v, and were awaited for %v", slowly, took)
		}
		if _, err := Open(Options{Store: disk.Rebooted(), Fail: disktest.FailTest(t)}); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatChangesTheLogWaitsForEntriesThatAreBeingStored(t *testing.T) {
	for name, change := range map[string]func(*Log) error{
		"more entries": func(l *Log) error { return l.StoreLogs(disktest.Entries(13, 14, 1)) },
		"deletion":     func(l *Log) error { return l.DeleteRange(12, 12) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := newScriptedDisk(t)
				l := openLeadersLog(t, disk, Options{Fail: disktest.FailTest(t)})
				disk.FailAt(1, slowDisk)
				if err := l.StoreLogs(disktest.Entries(11, 12, 1)); err != nil {
					t.Fatal(err)
				}
				if took := takes(t, func() error { return change(l) }); took < slowly {
					t.Errorf("it waited %v of %v", took, slowly)
				}
				if err := l.Flush(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestTheRecordDoesNotCountOnEntriesThatAreBeingStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newScriptedDisk(t)
		l := openLeadersLog(t, disk, Options{Fail: disktest.FailTest(t)})
		disk.FailAt(1, slowDisk)
		err := l.StoreLogs(disktest.Entries(11, 12, 1))
		synctest.Wait() // the disk has the entries before it
		if err := errors.Join(err, l.stable.Update(func(m *Record) { m.Cluster = "c" })); err != nil {
			t.Fatal(err)
		}
		crashed, err := Open(Options{Store: disk.Rebooted(), Fail: disktest.FailTest(t)})
		if err != nil {
			t.Fatal(err)
		}
		if _, last := crashed.Bounds(); last != 10 {
			t.Errorf("the log ends at %d", last)
		}
		if err := errors.Join(l.awaitAll(), l.stable.raiseTail()); err != nil {
			t.Fatal(err)
		}
		if err := disk.DeleteRange(12, 12); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Store: disk.Rebooted(), Fail: disktest.FailTest(t)}); !errors.Is(err, errs.Damaged) {
			t.Errorf("a log that has lost its last entry opens: %v", err)
		}
	})
}

func TestALeaderWaitsForItsDiskWhereItMust(t *testing.T) {
	configuration := disktest.Entries(11, 11, 1)
	configuration[0].Type = raft.LogConfiguration
	for name, c := range map[string]struct {
		entries []*raft.Log
		cache   int64
	}{
		"a change of the configuration":       {configuration, 0},
		"entries that do not fit into memory": {disktest.Entries(11, 12, 1), 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := newScriptedDisk(t)
				l := openLeadersLog(t, disk, Options{CacheBytes: c.cache, Fail: disktest.FailTest(t)})
				disk.FailAt(1, slowDisk)
				if took := takes(t, func() error { return l.StoreLogs(c.entries) }); took != slowly {
					t.Errorf("it waited %v of %v", took, slowly)
				}
			})
		})
	}
}

func TestEntriesThatCannotBeStoredBehindStopTheStore(t *testing.T) {
	for name, fault := range disktest.Faults {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk, told := newScriptedDisk(t), &disktest.Failures{}
				l := openLeadersLog(t, disk, Options{Fail: told.Tell})
				disk.FailAt(1, fault)
				if err := l.StoreLogs(disktest.Entries(11, 12, 1)); err != nil {
					t.Fatal(err)
				}
				err := l.AwaitStored(12)
				synctest.Wait() // who waits may hear of it before the node does
				if errs := told.Told(); len(errs) != 1 || err != errs[0] {
					t.Errorf("awaited: %v, told %v", err, errs)
				}
				if again := l.StoreLogs(disktest.Entries(13, 13, 1)); again != err {
					t.Errorf("the next write: %v", again)
				}
			})
		})
	}
}

// A snapshot replaces the log up to its end, while raft stores what follows.
func TestWhatFollowsALogThatIsDeletedIsNotStoredBesideTheDeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 3 * deleteChunk
		disk := newScriptedDisk(t)
		l := openTestLog(t, disk)
		if err := l.StoreLogs(disktest.Entries(1, n, 1)); err != nil {
			t.Fatal(err)
		}
		goOn := make(chan struct{})
		disk.FailAt(2, func(do func()) error { do(); <-goOn; return nil })
		deleted, stored := make(chan error, 1), make(chan error, 1)
		go func() { deleted <- l.DeleteRange(1, n) }()
		synctest.Wait()
		if disk.Count() != 2 {
			t.Fatalf("%d operations", disk.Count())
		}
		go func() { stored <- l.StoreLogs(disktest.Entries(n+1, n+3, 1)) }()
		synctest.Wait()
		if again, err := Open(Options{Store: disk.Rebooted(), Fail: disktest.FailTest(t)}); err != nil {
			t.Errorf("after a power loss: %v", err)
		} else if first, last := again.Bounds(); first != 1 || last >= n {
			t.Errorf("after a power loss the log reaches from %d to %d", first, last)
		}
		close(goOn)
		if err := errors.Join(<-deleted, <-stored); err != nil {
			t.Fatal(err)
		}
		if first, last := l.Bounds(); first != n+1 || last != n+3 {
			t.Errorf("the log reaches from %d to %d", first, last)
		}
	})
}

func TestStoringNothingIsNoWrite(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	l.SetHooks(Hooks{NeedsOthers: func() bool { return true }})
	disk.FailAt(0, nil)
	if err := l.StoreLogs(nil); err != nil || disk.Count() != 0 {
		t.Errorf("%v, %d operations", err, disk.Count())
	}
}
