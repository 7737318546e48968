package kvraft

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// openTestSnapshots opens the snapshots in dir with the memory of disk.
func openTestSnapshots(t *testing.T, dir string, disk LogStore) (*snapshotStore, error) {
	t.Helper()
	snaps, err := openSnapshots(dir, 2, openTestLog(t, disk), verifyTestState, hclog.NewNullLogger())
	if err != nil {
		return nil, err
	}
	return snaps.(*snapshotStore), nil
}

// snapshotsInDir makes a directory with a snapshot at each index, of term 3.
func snapshotsInDir(t *testing.T, indexes ...uint64) (dir string, disk *faultStore) {
	t.Helper()
	dir, disk = t.TempDir(), newScriptedDisk(t)
	snaps, err := openTestSnapshots(t, dir, disk)
	for _, index := range indexes {
		err = errors.Join(err, takeTestSnapshot(snaps, index, 3))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, disk
}

// newestIn returns the directory of the newest snapshot in dir.
func newestIn(t *testing.T, dir string, disk *faultStore) string {
	t.Helper()
	return filepath.Join(dir, snapshotsDir, openTestLog(t, disk.rebooted()).meta().Snapshot.ID)
}

func TestTheNewestSnapshotIsTheOnlyOneListedAndRemembered(t *testing.T) {
	dir, disk := snapshotsInDir(t, 100, 200)
	snaps, err := openTestSnapshots(t, dir, disk)
	if err != nil {
		t.Fatal(err)
	}
	list, err := snaps.List()
	if err != nil || len(list) != 1 || list[0].Index != 200 {
		t.Fatalf("%v, %v", list, err)
	}
	mark := snaps.logs.meta().Snapshot
	if mark.ID != list[0].ID || mark.Index != 200 || mark.Term != 3 || mark.Size != int64(len(testState)) {
		t.Fatalf("%+v", mark)
	}
}

func TestAnUnfinishedSnapshotIsRemoved(t *testing.T) {
	dir, disk := snapshotsInDir(t, 100)
	left := filepath.Join(dir, snapshotsDir, "3-200-17"+snapshotTmp)
	if err := os.Rename(newestIn(t, dir, disk), left); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestSnapshots(t, t.TempDir(), newScriptedDisk(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestSnapshots(t, dir, newScriptedDisk(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Fatalf("%v", err)
	}
}

func TestOlderStateThanRememberedIsRefused(t *testing.T) {
	dir, disk := snapshotsInDir(t, 100, 200)
	if err := os.RemoveAll(newestIn(t, dir, disk)); err != nil {
		t.Fatal(err)
	}
	_, err := openTestSnapshots(t, dir, disk)
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "is 3-100-") || !strings.Contains(err.Error(), "completed 3-200-") {
		t.Fatalf("got %v", err)
	}
}

func TestANewerSnapshotThanRememberedIsTaken(t *testing.T) {
	dir, disk := snapshotsInDir(t, 100)
	before := disk.rebooted() // a crash right before the second one is remembered
	snaps, err := openTestSnapshots(t, dir, disk)
	if err := errors.Join(err, takeTestSnapshot(snaps, 200, 3)); err != nil {
		t.Fatal(err)
	}
	snaps, err = openTestSnapshots(t, dir, before)
	if err != nil {
		t.Fatal(err)
	}
	if mark := snaps.logs.meta().Snapshot; mark.Index != 200 {
		t.Fatalf("%+v", mark)
	}
}

func TestADamagedSnapshotIsNamed(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no state":      func(dir string) error { return os.Remove(filepath.Join(dir, "state.bin")) },
		"state cut off": func(dir string) error { return os.Truncate(filepath.Join(dir, "state.bin"), 10) },
		"no meta":       func(dir string) error { return os.Remove(filepath.Join(dir, snapshotMetaFile)) },
		"meta cut off":  func(dir string) error { return os.Truncate(filepath.Join(dir, snapshotMetaFile), 20) },
		"other address": func(dir string) error { return replaceIn(filepath.Join(dir, snapshotMetaFile), "Suffrage", "suffrage") },
		"other index":   func(dir string) error { return replaceIn(filepath.Join(dir, snapshotMetaFile), "00", "01") },
	} {
		t.Run(name, func(t *testing.T) {
			dir, disk := snapshotsInDir(t, 100)
			path := newestIn(t, dir, disk)
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			if _, err := openTestSnapshots(t, dir, disk); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func replaceIn(path, old, new string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.Replace(string(data), old, new, 1)), 0o600)
}

func TestAStateThatItsReaderRefusesIsDamaged(t *testing.T) {
	dir, disk := snapshotsInDir(t, 100)
	refuse := func(io.Reader) error { return errors.New("written by a newer version") }
	_, err := openSnapshots(dir, 2, openTestLog(t, disk), refuse, hclog.NewNullLogger())
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "newer version") {
		t.Fatalf("got %v", err)
	}
}

func TestASnapshotBesideAnEmptyLogStoreIsRefused(t *testing.T) {
	dir, _ := snapshotsInDir(t, 100)
	if _, err := openTestSnapshots(t, dir, newFaultStore()); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v", err)
	}
}

func TestTheLogIsMadeToFitTheSnapshot(t *testing.T) {
	dir, disk := snapshotsInDir(t, 100)
	l := openTestLog(t, disk)
	if err := errors.Join(l.SetUint64(termKey, 3), l.StoreLogs(testEntries(1, 50, 3))); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestSnapshots(t, dir, disk); err != nil {
		t.Fatal(err)
	}
	if len(disk.entries) != 0 {
		t.Fatalf("%d entries are left of a log that ends below the snapshot", len(disk.entries))
	}
	if err := openTestLog(t, disk).StoreLogs(testEntries(102, 110, 3)); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestSnapshots(t, dir, disk); !errors.Is(err, ErrDamaged) {
		t.Fatalf("a hole between snapshot and log: %v", err)
	}
}

func TestASnapshotThatCannotBeRememberedIsNotComplete(t *testing.T) {
	dir, disk := snapshotsInDir(t, 100)
	told := &failures{}
	l, err := openLogStore(disk, logStoreOptions{fail: told.tell})
	if err != nil {
		t.Fatal(err)
	}
	snaps, err := openSnapshots(dir, 2, l, verifyTestState, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	disk.failAt(1, faults["fails"])
	if err := takeTestSnapshot(snaps, 200, 3); !errors.Is(err, errDisk) || len(told.told()) != 1 {
		t.Fatalf("got %v, told %v", err, told.told())
	}
	if _, err := snaps.List(); !errors.Is(err, errDisk) {
		t.Fatalf("after the failure: %v", err)
	}
}

// failingSnapshots is raft's file store on a disk that is full: it leaves the
// directory behind, and closing a sink again succeeds.
type failingSnapshots struct{ raft.SnapshotStore }

type failingSink struct {
	raft.SnapshotSink
	ended bool
}

func (f failingSnapshots) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, at uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := f.SnapshotStore.Create(version, index, term, members, at, trans)
	return &failingSink{SnapshotSink: sink}, err
}

func (f *failingSink) Cancel() error { return f.Close() }

func (f *failingSink) Close() error {
	if f.ended {
		return nil
	}
	f.ended = true
	return errDisk
}

func TestAFailedSnapshotLeavesTheNodeRunningAndNothingOnDisk(t *testing.T) {
	for name, end := range map[string]func(raft.SnapshotSink) error{
		"closed":    raft.SnapshotSink.Close,
		"cancelled": raft.SnapshotSink.Cancel,
	} {
		t.Run(name, func(t *testing.T) {
			dir, disk := snapshotsInDir(t, 100)
			snaps, err := openTestSnapshots(t, dir, disk)
			if err != nil {
				t.Fatal(err)
			}
			snaps.files = failingSnapshots{snaps.files}
			_, trans := raft.NewInmemTransport("")
			sink, err := snaps.Create(1, 200, 3, raft.Configuration{}, 1, trans)
			if err != nil {
				t.Fatal(err)
			}
			if err := end(sink); !errors.Is(err, errDisk) {
				t.Fatalf("got %v", err)
			}
			if sink.Close() == nil {
				t.Fatal("closing it again succeeded")
			}
			if err := sink.Cancel(); err != nil {
				t.Fatal(err)
			}
			left, err := os.ReadDir(filepath.Join(dir, snapshotsDir))
			if err != nil || len(left) != 1 {
				t.Fatalf("%v, %v", left, err)
			}
			if mark := snaps.logs.meta().Snapshot; mark.Index != 100 || snaps.logs.failure() != nil {
				t.Fatalf("%+v, %v", mark, snaps.logs.failure())
			}
		})
	}
}

// unsyncedSink completes the snapshot and then fails to sync its directory.
type unsyncedSink struct{ failingSink }

func (f *unsyncedSink) Close() error {
	return errors.Join(f.SnapshotSink.Close(), f.failingSink.Close())
}

func TestClosingASnapshotAgainDoesNotMakeItComplete(t *testing.T) {
	dir, disk := snapshotsInDir(t, 100)
	snaps, err := openTestSnapshots(t, dir, disk)
	if err != nil {
		t.Fatal(err)
	}
	_, trans := raft.NewInmemTransport("")
	files, err := snaps.files.Create(1, 200, 3, raft.Configuration{}, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	sink := &snapshotSink{SnapshotSink: &unsyncedSink{failingSink{SnapshotSink: files}}, store: snaps}
	for range 2 {
		if err := sink.Close(); !errors.Is(err, errDisk) {
			t.Fatalf("got %v", err)
		}
	}
	if mark := snaps.logs.meta().Snapshot; mark.Index != 100 {
		t.Fatalf("%+v", mark)
	}
}

func TestASnapshotThatVanishesFromARunningNodeStopsIt(t *testing.T) {
	dir, disk := snapshotsInDir(t, 100, 200)
	told := &failures{}
	l, err := openLogStore(disk, logStoreOptions{fail: told.tell})
	if err != nil {
		t.Fatal(err)
	}
	snaps, err := openSnapshots(dir, 2, l, verifyTestState, hclog.NewNullLogger())
	if err := errors.Join(err, os.RemoveAll(newestIn(t, dir, disk))); err != nil {
		t.Fatal(err)
	}
	if _, err := snaps.List(); !errors.Is(err, ErrDamaged) || len(told.told()) != 1 {
		t.Fatalf("got %v, told %v", err, told.told())
	}
}

// raft takes whatever it has completed itself for the newest that it has.
func TestASnapshotThatWasOvertakenByTheLeadersIsNotComplete(t *testing.T) {
	dir, disk := snapshotsInDir(t, 100)
	onDisk, err := openTestSnapshots(t, dir, disk)
	if err != nil {
		t.Fatal(err)
	}
	inMemory, err := openMemorySnapshots(openTestLog(t, newScriptedDisk(t)))
	if err != nil {
		t.Fatal(err)
	}
	for name, snaps := range map[string]raft.SnapshotStore{"on disk": onDisk, "in memory": inMemory} {
		_, trans := raft.NewInmemTransport("")
		own, err := snaps.Create(1, 200, 3, raft.Configuration{}, 1, trans)
		if err != nil {
			t.Fatal(err)
		}
		if err := takeTestSnapshot(snaps, 300, 3); err != nil {
			t.Fatal(err)
		}
		if err := own.Close(); !errors.Is(err, errSnapshotOvertaken) || !errors.Is(own.Close(), errSnapshotOvertaken) {
			t.Errorf("%s: got %v, want errSnapshotOvertaken", name, err)
		}
		if list, err := snaps.List(); err != nil || len(list) != 1 || list[0].Index != 300 {
			t.Errorf("%s: it lists %v, %v", name, list, err)
		}
	}
}
