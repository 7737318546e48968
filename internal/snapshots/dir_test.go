package snapshots

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/disktest"
)

// faultDir is a directory of which one of the operations that change something goes
// wrong. What is removed as a whole is removed file by file, each an operation.
type faultDir struct {
	directory
	*operations
}

// operations counts what is done to a disk.
type operations struct {
	mu     sync.Mutex // guards the following
	count  int
	at     int   // the operation that goes wrong, from 1; 0: none
	err    error // what it says
	worked bool  // it has its effect all the same
	killed bool  // nothing has any more
	kill   bool  // the operation that goes wrong is the last one of the process
}

var errKilled = errors.New("killed")

func (o *operations) do(op func() error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.killed {
		return errKilled
	}
	o.count++
	if o.count != o.at {
		return op()
	}
	o.killed = o.kill
	if o.worked {
		return errors.Join(op(), o.err)
	}
	return o.err
}

func (d faultDir) Mkdir(name string) error {
	return d.do(func() error { return d.directory.Mkdir(name) })
}

func (d faultDir) Rename(from, to string) error {
	return d.do(func() error { return d.directory.Rename(from, to) })
}

func (d faultDir) Sync(name string) error {
	return d.do(func() error { return d.directory.Sync(name) })
}

func (d faultDir) Create(name string) (file file, err error) {
	err = d.do(func() error {
		file, err = d.directory.Create(name)
		return err
	})
	if err != nil {
		return nil, err // a file that worked and failed is closed by the garbage collector
	}
	return &faultFile{file, d.operations}, nil
}

func (d faultDir) RemoveAll(name string) error {
	for _, file := range []string{metaFile, stateFile} {
		if err := d.do(func() error { return d.directory.RemoveAll(name + "/" + file) }); err != nil {
			return err
		}
	}
	return d.do(func() error { return d.directory.RemoveAll(name) })
}

type faultFile struct {
	file
	*operations
}

func (f *faultFile) Write(b []byte) (n int, err error) {
	err = f.do(func() error {
		n, err = f.file.Write(b)
		return err
	})
	return n, err
}

func (f *faultFile) Sync() error { return f.do(f.file.Sync) }

// Close closes the file whatever it says: a process that is killed has no files open.
func (f *faultFile) Close() error {
	err := f.file.Close()
	return errors.Join(f.do(func() error { return nil }), err)
}

// openFaultySnapshots has faults in the directory and in the record.
func openFaultySnapshots(t *testing.T, dir string, kept disk.Store, ops *operations, told func(error)) *files {
	t.Helper()
	l, err := disk.Open(disk.Options{Store: kept, Fail: told})
	if err != nil {
		t.Fatal(err)
	}
	snaps, err := settleSnapshots(dir, l, keptCodec)
	if err != nil {
		t.Fatal(err)
	}
	snaps.dir = faultDir{snaps.dir, ops}
	return snaps
}

// snapshotFilesIn tells which snapshots are in dir, and what else.
func snapshotsIn(t *testing.T, dir string) (ids, others []string) {
	t.Helper()
	found, err := os.ReadDir(filepath.Join(dir, boltlog.SnapshotsDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range found {
		if _, ok := parseName(entry.Name()); ok {
			ids = append(ids, entry.Name())
		} else {
			others = append(others, entry.Name())
		}
	}
	return ids, others
}

// The third snapshot makes the first one go, and ends where the fourth does.
var killScript = []uint64{100, 200, 300, 300}

func TestAProcessThatIsKilledAtAnyOperationOnItsSnapshotsStartsAgain(t *testing.T) {
	for _, worked := range []bool{false, true} {
		for k, more := 1, true; more; k++ {
			dir, kept := snapshotsInDir(t)
			ops := &operations{at: k, err: errKilled, worked: worked, kill: true}
			snaps := openFaultySnapshots(t, dir, kept, ops, disktest.FailTest(t))
			acknowledged := uint64(0)
			for _, index := range killScript {
				if takeTestSnapshot(snaps, index, 3) != nil {
					break
				}
				acknowledged = index
			}
			more = ops.killed
			what := fmt.Sprintf("killed at operation %d (%v)", k, worked)
			again, err := openTestSnapshots(t, dir, kept.Rebooted())
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			list, err := again.List()
			if err != nil || acknowledged > 0 && (len(list) != 1 || list[0].Index < acknowledged) {
				t.Errorf("%s: %v, %v after a snapshot at %d", what, list, err, acknowledged)
			}
			if _, others := snapshotsIn(t, dir); len(others) > 0 {
				t.Errorf("%s: %q is left", what, others)
			}
			if err := takeTestSnapshot(again, 400, 3); err != nil {
				t.Errorf("%s: the next snapshot: %v", what, err)
			}
			if ids, _ := snapshotsIn(t, dir); len(ids) > 2 {
				t.Errorf("%s: %q", what, ids)
			}
		}
	}
}

// A full disk, or one that lacks file descriptors, fails snapshots for as long as it
// likes: what they have written must not fill it further.
func TestASnapshotThatFailsAtAnyOperationLeavesTheNodeRunningAndNothingOnDisk(t *testing.T) {
	for _, worked := range []bool{false, true} {
		for k, more := 1, true; more; k++ {
			dir, kept := snapshotsInDir(t, 100, 200)
			ops := &operations{at: k, err: syscall.ENOSPC, worked: worked}
			snaps := openFaultySnapshots(t, dir, kept, ops, disktest.FailTest(t))
			err := takeTestSnapshot(snaps, 300, 3)
			more = ops.count >= k
			what := fmt.Sprintf("operation %d fails (%v)", k, worked)
			remembered := snaps.remembered()
			if want := uint64(200); err == nil {
				want = 300
				if remembered.Index != want {
					t.Errorf("%s: remembers %+v", what, remembered)
				}
			} else if remembered.Index != want || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s: %v, and remembers %+v", what, err, remembered)
			}
			ids, others := snapshotsIn(t, dir)
			if err != nil && (len(ids) != 2 || len(others) > 0) {
				t.Errorf("%s: %q and %q are there", what, ids, others)
			}
			ops.at = 0
			if err := takeTestSnapshot(snaps, 400, 3); err != nil {
				t.Errorf("%s: the next snapshot: %v", what, err)
			}
			if ids, others := snapshotsIn(t, dir); len(ids) != 2 || len(others) > 0 {
				t.Errorf("%s: after the next snapshot %q and %q are there", what, ids, others)
			}
		}
	}
}

func TestADiskThatFailsUnderASnapshotStopsTheNode(t *testing.T) {
	for k, more := 1, true; more; k++ {
		dir, kept := snapshotsInDir(t, 100, 200)
		ops, told := &operations{at: k, err: syscall.EIO}, &disktest.Failures{}
		snaps := openFaultySnapshots(t, dir, kept, ops, told.Tell)
		err := takeTestSnapshot(snaps, 300, 3)
		if more = ops.count >= k; !more {
			break
		}
		if len(told.Told()) != 1 || !errors.Is(told.Told()[0], syscall.EIO) {
			t.Errorf("operation %d: %v, and the node was told %v", k, err, told.Told())
		}
		if _, err := openTestSnapshots(t, dir, kept.Rebooted()); err != nil {
			t.Errorf("operation %d: the next start: %v", k, err)
		}
	}
}

func TestASnapshotThatCannotBeReadIsNotKept(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	onDisk, err := openTestSnapshots(t, dir, kept)
	if err != nil {
		t.Fatal(err)
	}
	inMemory, err := OpenInMemory(logOver(t, disktest.NewFaultStore()), keptCodec)
	if err := errors.Join(err, takeTestSnapshot(inMemory, 100, 3)); err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(keptState)
	flipped[len(flipped)/2] ^= 4
	for name, snaps := range map[string]raft.SnapshotStore{"on disk": onDisk, "in memory": inMemory} {
		for what, state := range map[string][]byte{
			"nothing": nil, "zeros": make([]byte, 100), "one bit is wrong": flipped, "cut off": keptState[:len(keptState)-1],
		} {
			_, trans := raft.NewInmemTransport("")
			sink, err := snaps.Create(1, 200, 3, raft.Configuration{}, 1, trans)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := sink.Write(state); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if sink.Close() == nil {
					t.Errorf("%s, %s: it is complete", name, what)
				}
			}
			if list, err := snaps.List(); err != nil || list[0].Index != 100 {
				t.Errorf("%s, %s: it lists %v, %v", name, what, list, err)
			}
		}
	}
	if ids, others := snapshotsIn(t, dir); len(ids) != 1 || len(others) > 0 {
		t.Errorf("%q and %q are there", ids, others)
	}
	if _, err := openTestSnapshots(t, dir, kept); err != nil {
		t.Errorf("the next start: %v", err)
	}
}

// What is written on behind it would be in vain.
func TestASnapshotThatIsNoneEndsEarly(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	l := logOver(t, kept)
	snaps, err := settleSnapshots(dir, l, Codec{
		Verify: func(io.Reader) error { return nil },
		VerifyNew: func(_ raft.SnapshotMeta, r io.Reader) error {
			_, err := r.Read(make([]byte, 8))
			return errors.Join(err, errors.New("not a kvraft snapshot"))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, trans := raft.NewInmemTransport("")
	sink, err := snaps.Create(1, 200, 3, raft.Configuration{}, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(sink, io.LimitReader(zeros{}, 1<<40))
	if err == nil || !strings.Contains(err.Error(), "not a kvraft snapshot") {
		t.Errorf("got %v", err)
	}
	if err := sink.Cancel(); err != nil {
		t.Error(err)
	}
	if ids, others := snapshotsIn(t, dir); len(ids) != 1 || len(others) > 0 {
		t.Errorf("%q and %q are there", ids, others)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// Older versions, hraftd and raft's file snapshot store read these files.
func TestASnapshotHasTheFormThatRaftsFileStoreGivesIt(t *testing.T) {
	dir, kept := snapshotsInDir(t, 100)
	theirDir := t.TempDir()
	theirs, err := raft.NewFileSnapshotStoreWithLogger(theirDir, 2, hclog.NewNullLogger())
	if err := errors.Join(err, takeTestSnapshot(theirs, 100, 3)); err != nil {
		t.Fatal(err)
	}
	content := func(dir string) map[string]string {
		ids, others := snapshotsIn(t, dir)
		if len(ids) != 1 || len(others) > 0 {
			t.Fatalf("%q, %q", ids, others)
		}
		files := map[string]string{}
		for name, data := range disktest.FilesIn(t, filepath.Join(dir, boltlog.SnapshotsDir, ids[0])) {
			files[name] = strings.ReplaceAll(string(data), ids[0], "ID")
		}
		return files
	}
	if ours, theirs := content(dir), content(theirDir); fmt.Sprint(ours) != fmt.Sprint(theirs) {
		t.Errorf("%q, raft writes %q", ours, theirs)
	}
	reader, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	list, err := reader.List()
	if err != nil || len(list) != 1 || list[0].ID != logOver(t, kept).Stable().Record().Snapshot.ID {
		t.Fatalf("%v, %v", list, err)
	}
	_, state, err := reader.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(keptCodec.Verify(state), state.Close()); err != nil {
		t.Error(err)
	}
}
