package boltlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
)

// grown is a raft.db that had so many entries of 10 kB and has the last ten.
func grown(t *testing.T, entries uint64) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "raft.db")
	base, err := openTest(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for at := uint64(1); at <= entries; at += 100 {
		logs := disktest.Entries(at, at+99, 1)
		for _, l := range logs {
			l.Data = bytes.Repeat([]byte{byte(l.Index)}, 10_000)
		}
		if err := base.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(base.DeleteRange(1, entries-10), base.Set(RecordKey, []byte("the record")), base.Close())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// content is all that a raft.db holds.
func content(t *testing.T, path string) (logs []*raft.Log, record string) {
	t.Helper()
	base, err := openTest(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	value, err := base.Get(RecordKey)
	if err != nil {
		t.Fatal(err)
	}
	return disktest.EntriesOf(t, base), string(value)
}

// stateAt is the state of what is at path now.
func stateAt(t *testing.T, path string) (found fileState) {
	t.Helper()
	var err error
	found.file, err = os.Stat(path)
	disktest.Must(t, err)
	meta, err := readNewestMeta(path)
	disktest.Must(t, err)
	found.transaction = meta.transaction
	return found
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestAFileWhoseLogIsElsewhereIsReplacedByOneWithoutEntries(t *testing.T) {
	path := grown(t, 1000)
	f, err := openTest(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	before := fileSize(t, path)
	disktest.Must(t, f.DropEntries(hclog.NewNullLogger()))
	if after := fileSize(t, path); after > before/16 {
		t.Errorf("%d bytes, of %d", after, before)
	}
	disktest.Must(t, f.Set(RaftKeys[0], []byte("a term")))
	disktest.Must(t, f.DropEntries(hclog.NewNullLogger())) // there are none
	disktest.Must(t, f.Close())
	if logs, record := content(t, path); len(logs) != 0 || record != "the record" {
		t.Errorf("%d entries and the record %q", len(logs), record)
	}
	if left, _ := filepath.Glob(path + ".*" + unfinishedSuffix); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

// A node starts with the file that it had, but not on a disk that fails, nor if it is not
// certain which file a power loss would leave.
func TestOnlySomeErrorsOfAReplacementEndTheStart(t *testing.T) {
	failed := func(errno syscall.Errno) error {
		return fmt.Errorf("copy: %w", &os.PathError{Op: "write", Path: "raft.db.new", Err: errno})
	}
	for name, c := range map[string]struct {
		replaced bool
		err      error
		ends     bool
	}{
		"none":                         {true, nil, false},
		"the disk is full":             {false, failed(syscall.ENOSPC), false},
		"no permission":                {false, failed(syscall.EACCES), false},
		"the disk fails":               {false, failed(syscall.EIO), true},
		"the new name may not be kept": {true, failed(syscall.ENOSPC), true},
	} {
		err := judgeDrop(c.replaced, c.err, hclog.NewNullLogger())
		if (err != nil) != c.ends || c.ends && !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestALinkStaysOneWhenItsFileIsReplaced(t *testing.T) {
	file := grown(t, 1000)
	link := filepath.Join(t.TempDir(), "raft.db")
	if err := os.Symlink(file, link); err != nil {
		t.Skip(err)
	}
	before := fileSize(t, file)
	f, err := openTest(link, time.Second)
	disktest.Must(t, err)
	disktest.Must(t, errors.Join(f.DropEntries(hclog.NewNullLogger()), f.Close()))
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v now, %v", info.Mode(), err)
	}
	if after := fileSize(t, file); after > before/16 {
		t.Errorf("the file has %d bytes, of %d", after, before)
	}
	if logs, record := content(t, link); len(logs) != 0 || record != "the record" {
		t.Errorf("%d entries and the record %q", len(logs), record)
	}
	if left, _ := filepath.Glob(file + ".*" + unfinishedSuffix); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

// Entries have been deleted from it, and bbolt has kept their space.
func TestAFileThatIsLargeAndHasNoEntriesIsReplacedToo(t *testing.T) {
	path := grown(t, 1000)
	f, err := openTest(path, time.Second)
	disktest.Must(t, err)
	disktest.Must(t, errors.Join(f.DeleteRange(991, 1000), f.DropEntries(hclog.NewNullLogger()), f.Close()))
	if after := fileSize(t, path); after > keptSize {
		t.Errorf("it has %d bytes", after)
	}
	if _, record := content(t, path); record != "the record" {
		t.Errorf("its record is %q", record)
	}
}

func TestAFileKeepsItsModeWhenItIsReplaced(t *testing.T) {
	path := grown(t, 100)
	disktest.Must(t, os.Chmod(path, 0o640))
	f, err := openTest(path, time.Second)
	disktest.Must(t, err)
	disktest.Must(t, errors.Join(f.DropEntries(hclog.NewNullLogger()), f.Close()))
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
}

// Who got in between could go on from what the node has not written yet.
func TestAFileIsLockedAllTheWhileThatItIsReplaced(t *testing.T) {
	path := grown(t, 100)
	f, err := openTest(path, time.Second)
	disktest.Must(t, err)
	tries := 0
	isLocked := func() {
		tries++
		if _, err := Read(path, time.Millisecond); !errors.Is(err, errs.Locked) {
			t.Errorf("try %d: %v", tries, err)
		}
	}
	f.syncDir = func(string) error { isLocked(); return nil }
	disktest.Must(t, f.DropEntries(hclog.NewNullLogger()))
	isLocked()
	if disktest.Must(t, f.Close()); tries != 2 {
		t.Errorf("%d tries", tries)
	}
}

// Else a power loss could bring the old one back, with an older term and vote.
func TestTheNameOfAFileIsOnDiskBeforeItIsWrittenTo(t *testing.T) {
	file := grown(t, 100)
	link := filepath.Join(t.TempDir(), "raft.db")
	if err := os.Symlink(file, link); err != nil {
		t.Skip(err)
	}
	resolved, err := filepath.EvalSymlinks(file)
	disktest.Must(t, err)
	for _, path := range []string{file, link} {
		f, err := Read(path, time.Second)
		disktest.Must(t, err)
		synced, failed := "", errors.New("cannot be synced")
		f.syncDir = func(dir string) error { synced = dir; return failed }
		before := disktest.Tree(t, file)
		if err := f.OpenForWriting(); !errors.Is(err, failed) || synced != filepath.Dir(resolved) {
			t.Errorf("%s: %v, and %q is synced", path, err, synced)
		}
		disktest.WantSameTree(t, file, before)
		disktest.Must(t, f.Close())
	}
}

func TestWhatACrashHasLeftBehindALinkIsRemoved(t *testing.T) {
	file := grown(t, 100)
	link := filepath.Join(t.TempDir(), "raft.db")
	if err := os.Symlink(file, link); err != nil {
		t.Skip(err)
	}
	left := []string{file + ".ABC" + unfinishedSuffix, link + ".ABC" + unfinishedSuffix}
	for _, path := range left {
		disktest.Must(t, os.WriteFile(path, []byte("half a file"), 0o600))
	}
	f, err := openTest(link, time.Second)
	disktest.Must(t, err)
	disktest.Must(t, f.Close())
	for _, path := range left {
		if exists(path) {
			t.Errorf("%s is left", path)
		}
	}
}

// A file that was replaced while another process waited for its lock is nobody's: what
// is written to it is lost.
func TestWhoeverHasWaitedForAReplacedFileIsLockedOut(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("needs /proc to see that a file was opened")
	}
	for name, open := range map[string]func(path string, found fileState) error{
		"to use it": func(path string, found fileState) error {
			base, err := reopen(path, found, time.Minute)
			if err == nil {
				err = errors.Join(errors.New("it was opened"), base.Close())
			}
			return err
		},
		"to verify it": func(path string, _ fileState) error {
			_, _, err := verify(path, time.Minute)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := grown(t, 1000)
			first, err := openHandle(path, bboltOptions(time.Second))
			if err != nil {
				t.Fatal(err)
			}
			found := stateAt(t, path)
			result := make(chan error)
			go func() { result <- open(path, found) }()
			for opened(t, path) < 2 {
				time.Sleep(time.Millisecond)
			}
			content, err := os.ReadFile(path)
			if err == nil {
				err = errors.Join(os.WriteFile(path+"2", content, 0o600), os.Rename(path+"2", path))
			}
			other, statErr := os.Stat(path)
			if err := errors.Join(err, statErr, first.Close()); err != nil {
				t.Fatal(err)
			}
			if err := <-result; !errors.Is(err, errs.Locked) {
				t.Errorf("got %v, want errs.Locked", err)
			}
			if now, err := os.Stat(path); err != nil || !os.SameFile(now, other) {
				t.Errorf("the other file was replaced: %v", err)
			}
		})
	}
}

// opened counts how often this process has a file open.
func opened(t *testing.T, path string) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == path {
			n++
		}
	}
	return n
}
