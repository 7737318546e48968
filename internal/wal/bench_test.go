package wal

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// BenchmarkStoreLogs has beside the log what the disk itself takes, and raft-boltdb.
func BenchmarkStoreLogs(b *testing.B) {
	for _, shape := range []struct {
		name  string
		count uint64
		size  int
	}{{"1x100B", 1, 100}, {"64x100B", 64, 100}, {"1x64KiB", 1, 64 << 10}} {
		entries := numbered(1, shape.count, 1, shape.size)
		store := func(open func(*testing.B) raft.LogStore) func(*testing.B) {
			return func(b *testing.B) {
				log := open(b)
				next := uint64(1)
				b.ReportAllocs()
				b.SetBytes(int64(shape.count) * int64(shape.size))
				for b.Loop() {
					for _, entry := range entries {
						entry.Index = next
						next++
					}
					if err := log.StoreLogs(entries); err != nil {
						b.Fatal(err)
					}
				}
			}
		}
		b.Run(shape.name+"/wal", store(func(b *testing.B) raft.LogStore {
			l, err := Create(filepath.Join(b.TempDir(), "log"), Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { l.Close() })
			return l
		}))
		b.Run(shape.name+"/wal-again", store(func(b *testing.B) raft.LogStore { return writtenBefore(b) }))
		b.Run(shape.name+"/raft-boltdb", store(func(b *testing.B) raft.LogStore {
			bolt, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(b.TempDir(), "raft.db")})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { bolt.Close() })
			return bolt
		}))
		b.Run(shape.name+"/disk", func(b *testing.B) {
			benchDisk(b, frameSize(entries))
			b.SetBytes(int64(shape.count) * int64(shape.size))
		})
	}
}

// takenAgain is a log that is shortened, so that its segments are some that have been
// written before: those of a node that runs for long are.
type takenAgain struct {
	*Log
	since int
}

// StoreLogs deletes older entries now and then.
func (l *takenAgain) StoreLogs(entries []*raft.Log) error {
	if l.since += len(entries); l.since > 100 {
		l.since = 0
		if err := l.DeleteRange(1, entries[0].Index-2); err != nil {
			return err
		}
	}
	return l.Log.StoreLogs(entries)
}

func writtenBefore(b *testing.B) raft.LogStore {
	b.Helper()
	l, err := Create(filepath.Join(b.TempDir(), "log"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	for index := uint64(1); l.current.number < 8; index++ {
		if err := l.StoreLogs(numbered(index, index, 1, 1<<20)); err != nil {
			b.Fatal(err)
		}
		if err := l.DeleteRange(1, index-1); err != nil {
			b.Fatal(err)
		}
	}
	last, _ := l.LastIndex()
	if err := l.DeleteRange(1, last); err != nil {
		b.Fatal(err)
	}
	return &takenAgain{Log: l}
}

// benchDisk writes and syncs so many bytes at a time, over blocks that have been written
// before.
func benchDisk(b *testing.B, size int64) {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := (osFile{f}).allocate(DefaultSegmentSize); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	written := make([]byte, size)
	offset := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		if offset+size > DefaultSegmentSize {
			offset = 0
		}
		if _, err := f.WriteAt(written, offset); err != nil {
			b.Fatal(err)
		}
		if err := datasync(f); err != nil {
			b.Fatal(err)
		}
		offset += size
	}
}

// benchEntries is how many entries of 100 bytes there are to be read.
const benchEntries = 100_000

// writeBench writes a log that is to be read, by 64 entries.
func writeBench(b *testing.B) *Log {
	b.Helper()
	l, err := Create("", Options{files: openUnsynced(b, b.TempDir())})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	for first := uint64(1); first <= benchEntries; first += 64 {
		if err := l.StoreLogs(numbered(first, min(first+63, benchEntries), 1, 100)); err != nil {
			b.Fatal(err)
		}
	}
	return l
}

func BenchmarkOpen(b *testing.B) {
	written := writeBench(b)
	b.Run(fmt.Sprintf("%dx100B", benchEntries), func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(100 * benchEntries)
		for b.Loop() {
			l, err := Open("", written.ID(), written.Options)
			if err != nil {
				b.Fatal(err)
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkGetLog(b *testing.B) {
	l := writeBench(b)
	random := rand.New(rand.NewPCG(1, 1))
	b.Run("100B", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var entry raft.Log
			if err := l.GetLog(1+random.Uint64N(benchEntries), &entry); err != nil {
				b.Fatal(err)
			}
		}
	})
}
