package snapshots

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/pace"
)

// keptState is the state in a test's snapshots.
var keptState = []byte("the state of a test, which is not to be taken for another")

// codecOf takes what verify takes.
func codecOf(verify func(io.Reader) error) Codec {
	return Codec{Verify: verify, VerifyNew: func(_ raft.SnapshotMeta, r io.Reader) error { return verify(r) }}
}

var keptCodec = codecOf(func(r io.Reader) error {
	got, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(got, keptState) {
		err = errors.New("not the state that was persisted")
	}
	return err
})

// takeTestSnapshot completes a snapshot of keptState.
func takeTestSnapshot(snaps raft.SnapshotStore, index, term uint64) error {
	return disktest.TakeSnapshot(snaps, keptState, index, term)
}

// settleSnapshots opens the snapshots in dir for writing.
func settleSnapshots(dir string, logs *disk.Log, codec Codec) (*files, error) {
	s, err := Open(dir, 2, logs, codec, hclog.NewNullLogger())
	if err != nil {
		return nil, err
	}
	return s.(*files), s.Settle()
}

// logOver is a log whose failures fail the test.
func logOver(t testing.TB, store disk.Store) *disk.Log {
	t.Helper()
	l, err := disk.Open(disk.Options{Store: store, Fail: disktest.FailTest(t)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// openTestSnapshots opens the snapshots in dir with the memory of disk.
func openTestSnapshots(t *testing.T, dir string, kept disk.Store) (*files, error) {
	t.Helper()
	return settleSnapshots(dir, logOver(t, kept), keptCodec)
}

// snapshotsInDir makes a directory with a snapshot at each index, of term 3.
func snapshotsInDir(t *testing.T, indexes ...uint64) (dir string, kept *disktest.FaultStore) {
	t.Helper()
	dir, kept = t.TempDir(), disktest.NewFaultStore()
	if err := logOver(t, kept).Stable().SetUint64([]byte("CurrentTerm"), 3); err != nil {
		t.Fatal(err)
	}
	snaps, err := openTestSnapshots(t, dir, kept)
	for _, index := range indexes {
		err = errors.Join(err, takeTestSnapshot(snaps, index, 3))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, kept
}

// newestIn returns the directory of the newest snapshot in dir.
func newestIn(t *testing.T, dir string, kept *disktest.FaultStore) string {
	t.Helper()
	return filepath.Join(dir, boltlog.SnapshotsDir, logOver(t, kept.Rebooted()).Stable().Record().Snapshot.ID)
}

func TestTheNewestSnapshotIsTheOnlyOneListedAndRemembered(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100, 200)
	snaps, err := openTestSnapshots(t, dir, kept)
	if err != nil {
		t.Fatal(err)
	}
	list, err := snaps.List()
	if err != nil || len(list) != 1 || list[0].Index != 200 {
		t.Fatalf("%v, %v", list, err)
	}
	mark := snaps.remembered()
	if mark.ID != list[0].ID || mark.Index != 200 || mark.Term != 3 || mark.Size != int64(len(keptState)) {
		t.Fatalf("%+v", mark)
	}
}

func TestAnUnfinishedSnapshotIsRemoved(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	left := filepath.Join(dir, boltlog.SnapshotsDir, "3-200-17"+tmpSuffix)
	if err := os.Rename(newestIn(t, dir, kept), left); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestSnapshots(t, t.TempDir(), disktest.NewFaultStore()); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestSnapshots(t, dir, disktest.NewFaultStore()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Fatalf("%v", err)
	}
}

func TestOlderStateThanRememberedIsRefused(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100, 200)
	if err := os.RemoveAll(newestIn(t, dir, kept)); err != nil {
		t.Fatal(err)
	}
	_, err := openTestSnapshots(t, dir, kept)
	if !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "is 3-100-") || !strings.Contains(err.Error(), "completed 3-200-") {
		t.Fatalf("got %v", err)
	}
}

func TestANewerSnapshotThanRememberedIsTaken(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	before := kept.Rebooted() // a crash right before the second one is remembered
	snaps, err := openTestSnapshots(t, dir, kept)
	if err := errors.Join(err, takeTestSnapshot(snaps, 200, 3)); err != nil {
		t.Fatal(err)
	}
	snaps, err = openTestSnapshots(t, dir, before)
	if err != nil {
		t.Fatal(err)
	}
	if mark := snaps.remembered(); mark.Index != 200 {
		t.Fatalf("%+v", mark)
	}
}

func TestADamagedSnapshotIsNamed(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no state":      func(dir string) error { return os.Remove(filepath.Join(dir, "state.bin")) },
		"state cut off": func(dir string) error { return os.Truncate(filepath.Join(dir, "state.bin"), 10) },
		"no meta":       func(dir string) error { return os.Remove(filepath.Join(dir, metaFile)) },
		"meta cut off":  func(dir string) error { return os.Truncate(filepath.Join(dir, metaFile), 20) },
		"other address": func(dir string) error {
			return disktest.ReplaceIn(filepath.Join(dir, metaFile), "Suffrage", "suffrage")
		},
		"other index": func(dir string) error { return disktest.ReplaceIn(filepath.Join(dir, metaFile), "00", "01") },
	} {
		t.Run(name, func(t *testing.T) {
			dir, kept := snapshotsInDir(t, 100)
			path := newestIn(t, dir, kept)
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			if _, err := openTestSnapshots(t, dir, kept); !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// A crash can have cut the removal of an old snapshot short, in raft's file store and in
// older versions, and a disk can lose what nobody needs any more.
func TestAnOldSnapshotThatCannotBeReadIsSetAside(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no state": func(dir string) error { return os.Remove(filepath.Join(dir, stateFile)) },
		"no meta":  func(dir string) error { return os.Remove(filepath.Join(dir, metaFile)) },
		"no files": func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) },
		"one bit": func(dir string) error {
			return disktest.ReplaceIn(filepath.Join(dir, stateFile), "state", "statf")
		},
		"same end":  func(dir string) error { return os.Rename(dir, filepath.Join(filepath.Dir(dir), "3-200-1")) }, // whatever the time is
		"below":     func(dir string) error { return os.Rename(dir, strings.Replace(dir, "3-100-", "2-199-", 1)) },
		"untouched": func(dir string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir, kept := snapshotsInDir(t, 100)
			old := newestIn(t, dir, kept)
			snaps, err := openTestSnapshots(t, dir, kept)
			if err := errors.Join(err, takeTestSnapshot(snaps, 200, 3), damage(old)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if snaps, err = openTestSnapshots(t, dir, kept); err != nil {
					t.Fatal(err)
				}
			}
			if list, err := snaps.List(); err != nil || list[0].Index != 200 {
				t.Errorf("it lists %v, %v", list, err)
			}
			if ids, others := snapshotsIn(t, dir); name != "untouched" && (len(ids) != 1 || len(others) != 1 || !strings.HasSuffix(others[0], damagedSuffix)) {
				t.Errorf("%q and %q are there", ids, others)
			}
			if err := takeTestSnapshot(snaps, 300, 3); err != nil {
				t.Fatal(err)
			}
			if ids, others := snapshotsIn(t, dir); len(ids) != 2 || len(others) > 0 {
				t.Errorf("after the next one %q and %q are there", ids, others)
			}
		})
	}
}

func TestASnapshotThatCannotBeReadAndMayBeTheNewestIsDamage(t *testing.T) {
	for name, damage := range map[string]func(dir, old, newest string) error{
		"newest": func(_, _, newest string) error { return os.Remove(filepath.Join(newest, stateFile)) },
		"all": func(_, old, newest string) error {
			return errors.Join(os.Remove(filepath.Join(old, stateFile)), os.Remove(filepath.Join(newest, stateFile)))
		},
		"newer than newest": func(dir, _, _ string) error {
			return os.Mkdir(filepath.Join(dir, boltlog.SnapshotsDir, "3-201-17"), 0o700)
		},
		"of a newer term": func(dir, _, _ string) error {
			return os.Mkdir(filepath.Join(dir, boltlog.SnapshotsDir, "4-150-17"), 0o700)
		},
		"of no name": func(dir, _, _ string) error {
			return os.Mkdir(filepath.Join(dir, boltlog.SnapshotsDir, "3-100"), 0o700)
		},
		"old, newest is gone": func(_, old, newest string) error {
			return errors.Join(os.Remove(filepath.Join(old, stateFile)), os.RemoveAll(newest))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, kept := snapshotsInDir(t, 100)
			old := newestIn(t, dir, kept)
			snaps, err := openTestSnapshots(t, dir, kept)
			if err := errors.Join(err, takeTestSnapshot(snaps, 200, 3), damage(dir, old, newestIn(t, dir, kept))); err != nil {
				t.Fatal(err)
			}
			if _, err := openTestSnapshots(t, dir, kept); !errors.Is(err, errs.Damaged) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The clock was ahead when the older of the two was taken.
func TestOfTwoSnapshotsThatEndAtOneEntryTheRememberedOneCounts(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	remembered := newestIn(t, dir, kept)
	later := filepath.Join(filepath.Dir(remembered), "3-100-9000000000000")
	files := disktest.FilesIn(t, remembered)
	files[metaFile] = []byte(strings.ReplaceAll(string(files[metaFile]), filepath.Base(remembered), filepath.Base(later)))
	disktest.WriteFiles(t, later, files)
	for range 2 {
		snaps, err := openTestSnapshots(t, dir, kept)
		if err != nil {
			t.Fatal(err)
		}
		list, err := snaps.List()
		if err != nil || list[0].ID != filepath.Base(remembered) || newestIn(t, dir, kept) != remembered {
			t.Errorf("it lists %v, %v, and remembers %s", list, err, newestIn(t, dir, kept))
		}
	}
	// The next one that ends there is the last one in raft's order too, which older versions go by.
	snaps, err := openTestSnapshots(t, dir, kept)
	if err := errors.Join(err, takeTestSnapshot(snaps, 100, 3)); err != nil {
		t.Fatal(err)
	}
	if now := newestIn(t, dir, kept); now <= later {
		t.Errorf("%s has come after %s", now, later)
	}
	if ids, _ := snapshotsIn(t, dir); len(ids) != 2 {
		t.Errorf("%q are there", ids)
	}
}

func TestSnapshotsOfALaterTermThanTheRecordAreRefused(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	older := kept.Rebooted()
	snaps, err := openTestSnapshots(t, dir, kept)
	if err := errors.Join(err, snaps.logs.Stable().SetUint64([]byte("CurrentTerm"), 4), takeTestSnapshot(snaps, 200, 4)); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestSnapshots(t, dir, older); !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "is of term 4") {
		t.Errorf("got %v", err)
	}
	if _, err := openTestSnapshots(t, dir, kept); err != nil {
		t.Error(err)
	}
}

// raft asks for it when it is to be sent, or restored.
func TestASnapshotThatIsFoundToBeDamagedStopsARunningNode(t *testing.T) {
	for _, file := range []string{metaFile, stateFile} {
		dir, kept := snapshotsInDir(t, 100)
		told := &disktest.Failures{}
		snaps := openFaultySnapshots(t, dir, kept, &operations{}, told.Tell)
		if err := disktest.ReplaceIn(filepath.Join(newestIn(t, dir, kept), file), "e", "f"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := snaps.Open(snaps.remembered().ID); !errors.Is(err, errs.Damaged) || len(told.Told()) != 1 {
			t.Errorf("%s: %v, told %v", file, err, told.Told())
		}
	}
}

func TestAStateThatItsReaderRefusesIsDamaged(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	refuse := func(io.Reader) error { return errors.New("written by a newer version") }
	_, err := settleSnapshots(dir, logOver(t, kept), codecOf(refuse))
	if !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "newer version") {
		t.Fatalf("got %v", err)
	}
}

func TestASnapshotBesideAnEmptyLogStoreIsRefused(t *testing.T) {
	dir, _ := snapshotsInDir(t, 100)
	if _, err := openTestSnapshots(t, dir, disktest.NewFaultStore()); !errors.Is(err, errs.Damaged) {
		t.Fatalf("got %v", err)
	}
}

func TestTheLogIsMadeToFitTheSnapshot(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	l := logOver(t, kept)
	if err := errors.Join(l.Stable().SetUint64([]byte("CurrentTerm"), 3), l.StoreLogs(disktest.Entries(1, 50, 3))); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestSnapshots(t, dir, kept); err != nil {
		t.Fatal(err)
	}
	if len(kept.Entries) != 0 {
		t.Fatalf("%d entries are left of a log that ends below the snapshot", len(kept.Entries))
	}
	if err := logOver(t, kept).StoreLogs(disktest.Entries(102, 110, 3)); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestSnapshots(t, dir, kept); !errors.Is(err, errs.Damaged) {
		t.Fatalf("a hole between snapshot and log: %v", err)
	}
}

func TestASnapshotThatCannotBeRememberedIsNotComplete(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	told := &disktest.Failures{}
	l, err := disk.Open(disk.Options{Store: kept, Fail: told.Tell})
	if err != nil {
		t.Fatal(err)
	}
	snaps, err := settleSnapshots(dir, l, keptCodec)
	if err != nil {
		t.Fatal(err)
	}
	kept.FailAt(1, disktest.Faults["fails"])
	if err := takeTestSnapshot(snaps, 200, 3); !errors.Is(err, disktest.ErrDisk) || len(told.Told()) != 1 {
		t.Fatalf("got %v, told %v", err, told.Told())
	}
	if _, err := snaps.List(); !errors.Is(err, disktest.ErrDisk) {
		t.Fatalf("after the failure: %v", err)
	}
}

func TestASnapshotThatVanishesFromARunningNodeStopsIt(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100, 200)
	told := &disktest.Failures{}
	l, err := disk.Open(disk.Options{Store: kept, Fail: told.Tell})
	if err != nil {
		t.Fatal(err)
	}
	snaps, err := settleSnapshots(dir, l, keptCodec)
	if err := errors.Join(err, os.RemoveAll(newestIn(t, dir, kept))); err != nil {
		t.Fatal(err)
	}
	if _, err := snaps.List(); !errors.Is(err, errs.Damaged) || len(told.Told()) != 1 {
		t.Fatalf("got %v, told %v", err, told.Told())
	}
}

// raft takes whatever it has completed itself for the newest that it has.
func TestASnapshotThatWasOvertakenByTheLeadersIsNotComplete(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	onDisk, err := openTestSnapshots(t, dir, kept)
	if err != nil {
		t.Fatal(err)
	}
	inMemory, err := OpenInMemory(logOver(t, disktest.NewFaultStore()), keptCodec)
	if err != nil {
		t.Fatal(err)
	}
	for name, snaps := range map[string]raft.SnapshotStore{"on disk": onDisk, "in memory": inMemory} {
		_, trans := raft.NewInmemTransport("")
		own, err := snaps.Create(1, 200, 3, raft.Configuration{}, 1, trans)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := own.Write(keptState); err != nil {
			t.Fatal(err)
		}
		if err := takeTestSnapshot(snaps, 300, 3); err != nil {
			t.Fatal(err)
		}
		if err := own.Close(); !errors.Is(err, errOvertaken) || !errors.Is(own.Close(), errOvertaken) {
			t.Errorf("%s: got %v, want errSnapshotOvertaken", name, err)
		}
		if list, err := snaps.List(); err != nil || len(list) != 1 || list[0].Index != 300 {
			t.Errorf("%s: it lists %v, %v", name, list, err)
		}
	}
}

func TestALogOfHraftdIsLeftAloneByWhoIsNotToTakeItOver(t *testing.T) {
	kept := disktest.NewFaultStore()
	disktest.Must(t, errors.Join(kept.Set([]byte("CurrentTerm"), binary.BigEndian.AppendUint64(nil, 1)), kept.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Data: []byte(`{"op":"set"}`)}})))
	l, err := disk.Open(disk.Options{Store: kept, Fail: disktest.FailTest(t)})
	disktest.Must(t, err)
	_, err = settleSnapshots(t.TempDir(), l, keptCodec)
	if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "the data of hraftd") {
		t.Errorf("got %v", err)
	}
	if kept.Stable["kvraft"] != nil {
		t.Error("it was written to")
	}
}

func TestWhatIsSyncedOfASnapshotIsInItsFile(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	snaps, err := openTestSnapshots(t, dir, kept)
	if err != nil {
		t.Fatal(err)
	}
	_, trans := raft.NewInmemTransport("")
	sink, err := snaps.Create(1, 200, 3, raft.Configuration{}, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, pace.PieceBytes)
	for n := 1; n <= 3; n++ {
		if _, err := sink.Write(piece); err != nil {
			t.Fatal(err)
		}
		if err := sink.(interface{ Sync() error }).Sync(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, boltlog.SnapshotsDir, sink.ID()+tmpSuffix, stateFile))
		if err != nil || info.Size() != int64(n*pace.PieceBytes) {
			t.Errorf("%d bytes, %v, after %d pieces", info.Size(), err, n)
		}
	}
	if err := sink.Cancel(); err != nil {
		t.Error(err)
	}
}
