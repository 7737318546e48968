package kvraft

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// openTestBolt opens a raft.db as a start does, and waits that long for its lock.
func openTestBolt(path string, wait time.Duration) (*boltFile, error) {
	f, err := readBolt(path, wait)
	if err != nil {
		return nil, err
	}
	if err := f.OpenForWriting(true, hclog.NewNullLogger()); err != nil {
		return nil, err
	}
	return f, f.Tidy()
}

func TestADirectoryInUseIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	base, err := openTestBolt(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	if _, err := openTestBolt(path, time.Millisecond); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Fatalf("got %v", err)
	}
}

func TestAPathThatIsNoFileOfOursGetsAClearError(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "raft.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestBolt(filepath.Join(dir, "raft.db"), time.Second); err == nil || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestBolt(filepath.Join(file, "raft.db"), time.Second); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("below a file: %v", err)
	}
}

func TestANewDirectoryIsMadeAndOpensAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "raft.db")
	for range 2 {
		base, err := openTestBolt(path, time.Second)
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
	base, err := openTestBolt(filepath.Join(dir, "raft.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	if files := filesIn(t, dir); len(files) != 2 || files["raft.db"] == nil || files["raft.db"+markSuffix] == nil {
		t.Fatalf("%d files", len(files))
	}
}

// A directory that never had a snapshot, and has lost its raft.db.
func TestARaftDBThatIsGoneIsNotTakenForOneThatNeverWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	base, err := openTestBolt(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(base.Close(), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := openTestBolt(path, time.Second); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "it is missing") {
			t.Errorf("err = %v", err)
		}
	}
}

func TestAFileThatAnotherProcessMadeMeanwhileStays(t *testing.T) {
	dir := t.TempDir()
	path, unfinished := filepath.Join(dir, "raft.db"), filepath.Join(dir, "raft.db.ABC.new")
	writeFiles(t, dir, map[string][]byte{"raft.db": []byte("theirs"), "raft.db.ABC.new": []byte("ours")})
	if err := nameBolt(unfinished, path); err != nil {
		t.Fatal(err)
	}
	files := filesIn(t, dir)
	if len(files) != 1 || string(files["raft.db"]) != "theirs" {
		t.Fatalf("%q", files)
	}
}

// So that all of what a node takes over hraftd's directory with is the record.
func TestARaftDBThatIsOpenedIsNotWrittenTo(t *testing.T) {
	dir := copyOf(t, "hraftd/node0")
	path := filepath.Join(dir, boltName)
	before := tree(t, dir)
	base, err := readBolt(path, time.Second)
	must(t, err)
	must(t, base.OpenForWriting(false, hclog.NewNullLogger()))
	wantSameTree(t, dir, before)
	must(t, errors.Join(base.Set(metadataKey, []byte("record")), base.Close()))
}

// What was decided about it may not hold any more.
func TestARaftDBThatAnotherProcessHasUsedSinceItWasReadIsLocked(t *testing.T) {
	path := filepath.Join(copyOf(t, "hraftd/node0"), boltName)
	file, err := readBolt(path, time.Second)
	must(t, err)
	must(t, file.Close())
	other, err := newBoltBase(path, boltOptions(time.Second))
	must(t, err)
	must(t, other.Close())
	before := tree(t, path)
	for _, from := range []int64{1, math.MaxInt64} { // it may be compacted, or not
		if _, err := openBolt(path, file.found, from, time.Second, hclog.NewNullLogger()); !errors.Is(err, ErrLocked) {
			t.Errorf("err = %v", err)
		}
	}
	wantSameTree(t, path, before)
}

func TestTheOldestMetaPageIsNeverFallenBackTo(t *testing.T) {
	dir := t.TempDir()
	fillTestDir(t, dir, true)
	db := filesIn(t, dir)["raft.db"]
	for _, page := range []int{0, 1} {
		damaged := bytes.Clone(db)
		copy(damaged[page*os.Getpagesize():], make([]byte, 512))
		writeFiles(t, dir, map[string][]byte{"raft.db": damaged})
		if _, err := openTestBolt(filepath.Join(dir, "raft.db"), time.Second); !errors.Is(err, ErrDamaged) {
			t.Errorf("without meta page %d: %v", page, err)
		}
	}
}

func TestAFileCutBelowItsHighWaterMarkIsRefused(t *testing.T) {
	dir := t.TempDir()
	fillTestDir(t, dir, true)
	path, db := filepath.Join(dir, "raft.db"), filesIn(t, dir)["raft.db"]
	c := boltCheck{file: bytes.NewReader(db), size: int64(len(db))}
	if _, err := c.readMetas(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(c.pages)*c.pageSize-1); err != nil {
		t.Fatal(err)
	}
	if _, err := openTestBolt(path, time.Second); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "cut short") {
		t.Fatalf("got %v", err)
	}
}

// TestAFileCutShortUnderARunningNodeIsAnError reads where the memory map has no
// file behind it any more: the process must survive the fault.
func TestAFileCutShortUnderARunningNodeIsAnError(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a mapped file cannot be cut there")
	}
	dir, told := t.TempDir(), &failures{}
	fillTestDir(t, dir, true)
	base, err := openTestBolt(filepath.Join(dir, "raft.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	l, err := openLogStore(logStoreOptions{store: base, cacheBytes: 1, fail: told.tell})
	if err := errors.Join(err, os.Truncate(base.path, 0)); err != nil {
		t.Fatal(err)
	}
	if err := l.GetLog(200, new(raft.Log)); err == nil || len(told.told()) != 1 {
		t.Errorf("got %v, told %v", err, told.told())
	}
	// The fault has left a mutex of bbolt's locked. Close must return.
	if err := base.Close(); err == nil || !strings.Contains(err.Error(), "stays locked") {
		t.Errorf("closing it: %v", err)
	}
}

// TestADatabaseThatGrewAndShrankPassesTheCheck guards against a check that is
// stricter than bbolt is with itself.
func TestADatabaseThatGrewAndShrankPassesTheCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	for round := range uint64(12) {
		base, err := openTestBolt(path, time.Second)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		from := round*1000 + 1
		for at := from; at < from+1000; at += 100 {
			entries := testEntries(at, at+99, round)
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
		err = errors.Join(base.DeleteRange(from+500, from+999), base.Set(metadataKey, bytes.Repeat([]byte("x"), int(round*300+1))))
		if round%3 == 2 {
			err = errors.Join(err, base.DeleteRange(0, from+400))
		}
		if err := errors.Join(err, base.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkStoreLogs(b *testing.B) {
	for name, wrap := range map[string]func(*testing.B, *boltFile) raft.LogStore{
		"base": func(_ *testing.B, base *boltFile) raft.LogStore { return base },
		"logStore": func(b *testing.B, base *boltFile) raft.LogStore {
			l, err := openLogStore(logStoreOptions{store: base, stall: time.Minute, fail: failTest(b)})
			if err != nil {
				b.Fatal(err)
			}
			return l
		},
	} {
		for size, data := range map[string][]byte{"100B": make([]byte, 100), "128KiB": make([]byte, 128<<10)} {
			b.Run(size+"/"+name, func(b *testing.B) {
				base, err := openTestBolt(filepath.Join(b.TempDir(), "raft.db"), time.Second)
				if err != nil {
					b.Fatal(err)
				}
				defer base.Close()
				logs, index := wrap(b, base), uint64(0)
				for b.Loop() {
					index++
					if err := logs.StoreLogs([]*raft.Log{{Index: index, Term: 1, Data: data}}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkSeal measures what logStore adds to a write, without a disk.
func BenchmarkSeal(b *testing.B) {
	l := openTestLog(b, newFaultStore())
	for size, data := range map[string][]byte{"100B": make([]byte, 100), "128KiB": make([]byte, 128<<10)} {
		b.Run(size, func(b *testing.B) {
			entry := []*raft.Log{{Index: 1, Term: 1, Data: data}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.seal(entry); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGetLog(b *testing.B) {
	for name, cache := range map[string]int64{"cached": 64 << 20, "from disk": 1} {
		b.Run(name, func(b *testing.B) {
			base, err := openTestBolt(filepath.Join(b.TempDir(), "raft.db"), time.Second)
			if err != nil {
				b.Fatal(err)
			}
			defer base.Close()
			l, err := openLogStore(logStoreOptions{store: base, cacheBytes: cache, fail: failTest(b)})
			if err := errors.Join(err, l.StoreLogs(testEntries(1, 1000, 1))); err != nil {
				b.Fatal(err)
			}
			b.Run("logStore", func(b *testing.B) { benchmarkGetLog(b, l) })
			b.Run("base", func(b *testing.B) { benchmarkGetLog(b, base) })
		})
	}
}

func benchmarkGetLog(b *testing.B, logs raft.LogStore) {
	index := uint64(0)
	for b.Loop() {
		var e raft.Log
		index = index%1000 + 1
		if err := logs.GetLog(index, &e); err != nil {
			b.Fatal(err)
		}
	}
}

func TestOfSeveralFirstStartsAtOnceOneHasTheDirectoryAndTheOthersFindItLocked(t *testing.T) {
	for range 50 {
		path := filepath.Join(t.TempDir(), "node", "raft.db")
		const starts = 4
		opened := make(chan *boltFile, starts)
		var starting sync.WaitGroup
		for range starts {
			starting.Go(func() {
				base, err := openTestBolt(path, 50*time.Millisecond)
				if err != nil && !errors.Is(err, ErrLocked) {
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
