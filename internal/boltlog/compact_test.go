package boltlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
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
func content(t *testing.T, path string) (logs []raft.Log, record string) {
	t.Helper()
	base, err := openTest(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	first, _ := base.FirstIndex()
	last, _ := base.LastIndex()
	for index := first; index <= last; index++ {
		var entry raft.Log
		if err := base.GetLog(index, &entry); err != nil {
			t.Fatal(err)
		}
		logs = append(logs, entry)
	}
	value, err := base.Get(RecordKey)
	if err != nil {
		t.Fatal(err)
	}
	return logs, string(value)
}

// stateAt is the state of the raft.db at path.
func stateAt(t *testing.T, path string) fileState {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := readNewestMeta(path)
	if err != nil {
		t.Fatal(err)
	}
	return fileState{info, meta.transaction}
}

// compactAt compacts what is at path now.
func compactAt(t *testing.T, path string, from int64, wait time.Duration) (replaced bool, err error) {
	t.Helper()
	found := stateAt(t, path)
	now, err := compact(path, found, from, wait)
	return now != found, err
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestAFileThatIsMostlyFreeIsCompacted(t *testing.T) {
	path := grown(t, 1000)
	logs, record := content(t, path)
	before := fileSize(t, path)
	if replaced, err := compactAt(t, path, 1<<20, time.Second); !replaced || err != nil {
		t.Fatal(replaced, err)
	}
	if after := fileSize(t, path); after > before/4 {
		t.Errorf("%d bytes, of %d", after, before)
	}
	again, sameRecord := content(t, path)
	if len(again) != 10 || !reflect.DeepEqual(again, logs) || sameRecord != record {
		t.Errorf("%d entries and the record %q, of %d and %q", len(again), sameRecord, len(logs), record)
	}
	if left, _ := filepath.Glob(path + ".*" + unfinishedSuffix); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

// A node starts with the file that it had, but not on a disk that fails, nor if it is not
// certain which file a power loss would leave.
func TestOnlySomeErrorsOfACompactionEndTheStart(t *testing.T) {
	was, is := fileState{transaction: 7}, fileState{transaction: 3}
	failed := func(errno syscall.Errno) error {
		return fmt.Errorf("compact: %w", &os.PathError{Op: "write", Path: "raft.db.new", Err: errno})
	}
	for name, c := range map[string]struct {
		now  fileState
		err  error
		ends bool
	}{
		"none":                         {is, nil, false},
		"the disk is full":             {was, failed(syscall.ENOSPC), false},
		"no permission":                {was, failed(syscall.EACCES), false},
		"the disk fails":               {was, failed(syscall.EIO), true},
		"the new name may not be kept": {is, failed(syscall.ENOSPC), true},
	} {
		err := judgeCompaction(was, c.now, c.err, hclog.NewNullLogger())
		if (err != nil) != c.ends || c.ends && !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The disk that the link leads to is the one that has room for a log.
func TestALinkStaysOneWhenItsFileIsCompacted(t *testing.T) {
	file := grown(t, 1000)
	link := filepath.Join(t.TempDir(), "raft.db")
	if err := os.Symlink(file, link); err != nil {
		t.Skip(err)
	}
	logs, record := content(t, link)
	before := fileSize(t, file)
	if replaced, err := compactAt(t, link, 1<<20, time.Second); !replaced || err != nil {
		t.Fatal(replaced, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v now, %v", info.Mode(), err)
	}
	if after := fileSize(t, file); after > before/4 {
		t.Errorf("the file has %d bytes, of %d", after, before)
	}
	if again, sameRecord := content(t, link); !reflect.DeepEqual(again, logs) || sameRecord != record {
		t.Errorf("%d entries and the record %q", len(again), sameRecord)
	}
	if left, _ := filepath.Glob(file + ".*" + unfinishedSuffix); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

func TestAFileThatIsSmallOrFullOrInUseStaysAsItIs(t *testing.T) {
	mostlyFree := grown(t, 1000)
	full := filepath.Join(t.TempDir(), "raft.db")
	base, err := openTest(full, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	for name, c := range map[string]struct {
		path string
		from int64
		want error
	}{
		"small":  {mostlyFree, 1 << 40, nil},
		"in use": {full, 1, errs.Locked},
	} {
		before, _ := os.Stat(c.path)
		if replaced, err := compactAt(t, c.path, c.from, time.Millisecond); replaced || !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v, want %v", name, replaced, err, c.want)
		}
		if after, _ := os.Stat(c.path); before != nil && !os.SameFile(before, after) {
			t.Errorf("%s: it was replaced", name)
		}
	}
	logs := disktest.Entries(1, 100, 1)
	for _, l := range logs {
		l.Data = make([]byte, 100_000)
	}
	if err := errors.Join(base.StoreLogs(logs), base.Close()); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(full)
	if replaced, err := compactAt(t, full, 1, time.Second); replaced || err != nil {
		t.Error(replaced, err)
	}
	if after, _ := os.Stat(full); !os.SameFile(before, after) {
		t.Error("a full one was replaced")
	}
}

// A file that was replaced while another process waited for its lock is nobody's: what
// is written to it is lost, and its content must not replace the other again.
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
		"to compact it": func(path string, found fileState) error {
			_, err := compact(path, found, 1, time.Minute)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := grown(t, 1000)
			found := stateAt(t, path)
			first, err := openHandle(path, bboltOptions(time.Second))
			if err != nil {
				t.Fatal(err)
			}
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
