package boltlog

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
)

// openTest opens a raft.db as a start does, and waits that long for its lock.
func openTest(path string, wait time.Duration) (*File, error) {
	f, err := Read(path, wait)
	if err != nil {
		return nil, err
	}
	if err := f.OpenForWriting(); err != nil {
		return nil, err
	}
	return f, f.Tidy()
}

func TestADirectoryInUseIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	base, err := openTest(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	if _, err := openTest(path, time.Millisecond); !errors.Is(err, errs.Locked) || !strings.Contains(err.Error(), path) {
		t.Fatalf("got %v", err)
	}
}

func TestWhatCannotBeClosedSoonSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		err := CloseSoon("raft.db", func() error { <-goOn; return nil })
		close(goOn)
		if !errors.Is(err, ErrHangs) {
			t.Errorf("a close that hangs: %v", err)
		}
	})
	failed := errors.New("cannot be closed")
	if err := CloseSoon("raft.db", func() error { return failed }); err != failed {
		t.Errorf("a close that fails: %v", err)
	}
}

func TestAPathThatIsNoFileOfOursGetsAClearError(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "raft.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := openTest(filepath.Join(dir, "raft.db"), time.Second); err == nil || errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openTest(filepath.Join(file, "raft.db"), time.Second); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("below a file: %v", err)
	}
}

func TestANewDirectoryIsMadeAndOpensAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "raft.db")
	for range 2 {
		base, err := openTest(path, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := base.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatACrashAtBirthLeavesIsRemoved(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "raft.db.ABC"+unfinishedSuffix)
	if err := os.WriteFile(left, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	base, err := openTest(filepath.Join(dir, "raft.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	if files := disktest.FilesIn(t, dir); len(files) != 2 || files["raft.db"] == nil || files["raft.db"+markSuffix] == nil {
		t.Fatalf("%d files", len(files))
	}
}

// A directory that never had a snapshot, and has lost its raft.db.
func TestARaftDBThatIsGoneIsNotTakenForOneThatNeverWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	base, err := openTest(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(base.Close(), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := openTest(path, time.Second); !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "it is missing") {
			t.Errorf("err = %v", err)
		}
	}
}

func TestAFileThatAnotherProcessMadeMeanwhileStays(t *testing.T) {
	dir := t.TempDir()
	path, unfinished := filepath.Join(dir, "raft.db"), filepath.Join(dir, "raft.db.ABC.new")
	disktest.WriteFiles(t, dir, map[string][]byte{"raft.db": []byte("theirs"), "raft.db.ABC.new": []byte("ours")})
	if err := giveName(unfinished, path); err != nil {
		t.Fatal(err)
	}
	files := disktest.FilesIn(t, dir)
	if len(files) != 1 || string(files["raft.db"]) != "theirs" {
		t.Fatalf("%q", files)
	}
}

// So that all of what a node takes over hraftd's directory with is the record.
func TestARaftDBThatIsOpenedIsNotWrittenTo(t *testing.T) {
	dir := disktest.CopyOf(t, "../../testdata", "hraftd/node0")
	path := filepath.Join(dir, Name)
	before := disktest.Tree(t, dir)
	base, err := Read(path, time.Second)
	disktest.Must(t, err)
	disktest.Must(t, base.OpenForWriting())
	disktest.WantSameTree(t, dir, before)
	disktest.Must(t, errors.Join(base.Set(RecordKey, []byte("record")), base.Close()))
}

// What was decided about it may not hold any more.
func TestARaftDBThatAnotherProcessHasUsedSinceItWasReadIsLocked(t *testing.T) {
	path := filepath.Join(disktest.CopyOf(t, "../../testdata", "hraftd/node0"), Name)
	file, err := Read(path, time.Second)
	disktest.Must(t, err)
	disktest.Must(t, file.Close())
	other, err := openHandle(path, bboltOptions(time.Second))
	disktest.Must(t, err)
	disktest.Must(t, other.Close())
	before := disktest.Tree(t, path)
	if _, err := openFound(path, file.found, time.Second); !errors.Is(err, errs.Locked) {
		t.Errorf("err = %v", err)
	}
	disktest.WantSameTree(t, path, before)
}

func TestTheOldestMetaPageIsNeverFallenBackTo(t *testing.T) {
	path := grown(t, 100)
	dir := filepath.Dir(path)
	db := disktest.FilesIn(t, dir)["raft.db"]
	for _, page := range []int{0, 1} {
		damaged := bytes.Clone(db)
		copy(damaged[page*os.Getpagesize():], make([]byte, 512))
		disktest.WriteFiles(t, dir, map[string][]byte{"raft.db": damaged})
		if _, err := openTest(path, time.Second); !errors.Is(err, errs.Damaged) {
			t.Errorf("without meta page %d: %v", page, err)
		}
	}
}

func TestAFileCutBelowItsHighWaterMarkIsRefused(t *testing.T) {
	path := grown(t, 100)
	db := disktest.FilesIn(t, filepath.Dir(path))["raft.db"]
	c := checker{file: bytes.NewReader(db), size: int64(len(db))}
	if _, err := c.readMetas(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(c.pages)*c.pageSize-1); err != nil {
		t.Fatal(err)
	}
	if _, err := openTest(path, time.Second); !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "cut short") {
		t.Fatalf("got %v", err)
	}
}

// TestADatabaseThatGrewAndShrankPassesTheCheck guards against a check that is
// stricter than bbolt is with itself.
func TestADatabaseThatGrewAndShrankPassesTheCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	for round := range uint64(12) {
		base, err := openTest(path, time.Second)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		from := round*1000 + 1
		for at := from; at < from+1000; at += 100 {
			entries := disktest.Entries(at, at+99, round)
			for i, e := range entries {
				e.Data = bytes.Repeat(e.Data, 1+(i*i)%40)
				if i%37 == 0 {
					e.Data = bytes.Repeat(e.Data, 200)
				}
			}
			if err := base.StoreLogs(entries); err != nil {
				t.Fatal(err)
			}
		}
		err = errors.Join(base.DeleteRange(from+500, from+999), base.Set(RecordKey, bytes.Repeat([]byte("x"), int(round*300+1))))
		if round%3 == 2 {
			err = errors.Join(err, base.DeleteRange(0, from+400))
		}
		if err := errors.Join(err, base.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOfSeveralFirstStartsAtOnceOneHasTheDirectoryAndTheOthersFindItLocked(t *testing.T) {
	for range 50 {
		path := filepath.Join(t.TempDir(), "node", "raft.db")
		const starts = 4
		opened := make(chan *File, starts)
		var starting sync.WaitGroup
		for range starts {
			starting.Go(func() {
				base, err := openTest(path, 50*time.Millisecond)
				if err != nil && !errors.Is(err, errs.Locked) {
					t.Error(err)
				}
				if err == nil {
					opened <- base
				}
			})
		}
		starting.Wait()
		if len(opened) != 1 {
			t.Fatalf("%d of %d starts have the directory", len(opened), starts)
		}
		if err := (<-opened).Close(); err != nil {
			t.Error(err)
		}
	}
}
