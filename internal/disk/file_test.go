package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disktest"
)

// openTestFile opens the log in dir as a start does.
func openTestFile(t testing.TB, dir string, cacheBytes int64, fail func(error)) *Log {
	t.Helper()
	l, err := Open(Options{Dir: dir, CacheBytes: cacheBytes, Stall: time.Minute, Fail: fail})
	if err == nil {
		err = l.OpenForWriting()
	}
	if err == nil {
		err = l.Tidy()
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestALogCutShortUnderARunningNodeIsAnError(t *testing.T) {
	dir, told := t.TempDir(), &disktest.Failures{}
	l := openTestFile(t, dir, 1, told.Tell)
	if err := errors.Join(l.stable.SetUint64(termKey, 1), l.StoreLogs(disktest.Entries(1, 300, 1)), os.Truncate(filepath.Join(dir, logDir, "segment-000001"), 8192)); err != nil {
		t.Fatal(err)
	}
	if err := l.GetLog(200, new(raft.Log)); err == nil || len(told.Told()) != 1 {
		t.Errorf("got %v, told %v", err, told.Told())
	}
	if err := l.Close(); err != nil {
		t.Errorf("closing it: %v", err)
	}
}

func BenchmarkStoreLogs(b *testing.B) {
	for name, of := range map[string]func(*Log) raft.LogStore{
		"base":     func(l *Log) raft.LogStore { return l.base },
		"logStore": func(l *Log) raft.LogStore { return l },
	} {
		for size, data := range map[string][]byte{"100B": make([]byte, 100), "128KiB": make([]byte, 128<<10)} {
			b.Run(size+"/"+name, func(b *testing.B) {
				l := openTestFile(b, b.TempDir(), 0, disktest.FailTest(b))
				defer l.Close()
				logs, index := of(l), uint64(0)
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

// BenchmarkSeal measures what Log adds to a write, without a disk.
func BenchmarkSeal(b *testing.B) {
	l := openTestLog(b, disktest.NewFaultStore())
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
			l := openTestFile(b, b.TempDir(), cache, disktest.FailTest(b))
			defer l.Close()
			if err := errors.Join(l.stable.SetUint64(termKey, 1), l.StoreLogs(disktest.Entries(1, 1000, 1))); err != nil {
				b.Fatal(err)
			}
			b.Run("logStore", func(b *testing.B) { benchmarkGetLog(b, l) })
			b.Run("base", func(b *testing.B) { benchmarkGetLog(b, l.base) })
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
