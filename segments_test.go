package kvraft

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/wal"
)

// testSegments makes segments so small that a test's log has several of them.
var testSegments = wal.Options{SegmentSize: 16 << 10}

// replaceLog gives the node in dir another log, an empty one, in small segments.
func replaceLog(t *testing.T, dir string) wal.ID {
	t.Helper()
	path := filepath.Join(dir, "raft.log")
	disktest.Must(t, os.RemoveAll(path))
	segments, err := wal.Create(path, testSegments)
	disktest.Must(t, err)
	id := segments.ID()
	disktest.Must(t, segments.Close())
	editRecord(t, dir, func(m *disk.Record) { m.Log, m.Format = hex.EncodeToString(id[:]), 2 })
	return id
}

// writeSegments opens the log of the node in dir, as a node does, and writes to it.
func writeSegments(t *testing.T, dir string, id wal.ID, write func(*wal.Log) error) {
	t.Helper()
	segments, err := wal.Open(filepath.Join(dir, "raft.log"), id, testSegments)
	disktest.Must(t, err)
	disktest.Must(t, errors.Join(segments.Resume(), write(segments), segments.Close()))
}

// logID is the id of the log of the node in dir.
func logID(t *testing.T, dir string) (id wal.ID) {
	t.Helper()
	copy(id[:], segmentsIn(t, dir)[0].content[12:])
	return id
}

// entriesIn returns the log of the node in dir.
func entriesIn(t *testing.T, dir string) (entries []*raft.Log) {
	t.Helper()
	segments, err := wal.Open(filepath.Join(dir, "raft.log"), logID(t, dir), wal.Options{})
	disktest.Must(t, err)
	err = segments.Each(func(entry *raft.Log) error {
		entries = append(entries, entry)
		return nil
	})
	disktest.Must(t, errors.Join(err, segments.Close()))
	return entries
}

// editLog gives the node in dir a log of its entries, edited, past all that kvraft checks.
func editLog(t *testing.T, dir string, edit func([]*raft.Log) []*raft.Log) {
	t.Helper()
	entries := edit(entriesIn(t, dir))
	writeSegments(t, dir, replaceLog(t, dir), func(l *wal.Log) error {
		for few := range slices.Chunk(entries, 5) {
			if err := l.StoreLogs(few); err != nil {
				return err
			}
		}
		return nil
	})
}

// moveLogToBolt makes the node in dir one of an older version, whose log is in raft.db.
func moveLogToBolt(t *testing.T, dir string) {
	t.Helper()
	entries := entriesIn(t, dir)
	base, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	disktest.Must(t, err)
	for few := range slices.Chunk(entries, 5) {
		disktest.Must(t, base.StoreLogs(few))
	}
	disktest.Must(t, errors.Join(base.Close(), os.RemoveAll(filepath.Join(dir, "raft.log"))))
	for range 2 { // so that neither meta page leads to the record of before
		editRecord(t, dir, func(m *disk.Record) { m.Log, m.Format = "", 1 })
	}
}

// Of a segment's header and of a mark, see package wal.
const (
	segmentHead = 56   // bytes of its header
	frameStart  = 4096 // where the first frame is
	markLength  = 48
	kindEntries = 1
	kindSession = 3
)

// segmentFile is a segment.
type segmentFile struct {
	name    string // below the directory of the node
	content []byte
	frames  []frame
	end     int // of the last frame
}

// frame is one, at an offset of its file.
type frame struct {
	at, length   int
	kind         byte
	count, index uint64
}

// last is the last entry of a frame that has entries.
func (f frame) last() uint64 { return f.index + f.count - 1 }

// segmentsIn returns the segments of the node in dir in the order of their numbers.
func segmentsIn(t *testing.T, dir string) (all []segmentFile) {
	t.Helper()
	for name, content := range disktest.FilesIn(t, filepath.Join(dir, "raft.log")) {
		if strings.HasPrefix(name, "segment-") {
			all = append(all, parseSegment("raft.log/"+name, content))
		}
	}
	slices.SortFunc(all, func(a, b segmentFile) int { return bytes.Compare(a.content[28:36], b.content[28:36]) })
	return all
}

func parseSegment(name string, content []byte) segmentFile {
	order := binary.BigEndian
	s := segmentFile{name: name, content: content, end: frameStart}
	for salt := order.Uint64(content[36:]); s.end+markLength <= len(content) && order.Uint64(content[s.end:]) == salt; {
		mark := content[s.end:]
		f := frame{s.end, int(order.Uint32(mark[20:])), mark[12], uint64(order.Uint32(mark[16:])), order.Uint64(mark[24:])}
		if f.kind == kindSession {
			salt++
		}
		s.frames = append(s.frames, f)
		s.end += f.length
	}
	return s
}

// first and last are the first entry and the last one that begin in a segment.
func (s segmentFile) first() uint64 {
	for _, f := range s.frames {
		if f.kind == kindEntries {
			return f.index
		}
	}
	return 0
}

func (s segmentFile) last() (index uint64) {
	for _, f := range s.frames {
		if f.kind == kindEntries {
			index = f.last()
		}
	}
	return index
}

// record finds the stored form of an entry: where it begins in its segment, and its frame.
func (s segmentFile) record(index uint64) (at int, of frame) {
	for _, f := range s.frames { // the last one that has it, if it was replaced
		if f.kind != kindEntries || index < f.index || index > f.last() {
			continue
		}
		at, of = f.at+markLength, f
		for range index - f.index {
			at += 8 + int(binary.BigEndian.Uint32(s.content[at:]))
		}
	}
	return at, of
}

// segmentWith is the segment that has the entry at index, with where it is stored.
func segmentWith(t *testing.T, dir string, index uint64) (found segmentFile, at int, of frame) {
	t.Helper()
	for _, s := range segmentsIn(t, dir) {
		if a, f := s.record(index); a > 0 {
			found, at, of = s, a, f
		}
	}
	if at == 0 {
		t.Fatalf("entry %d is in no segment", index)
	}
	return found, at, of
}

// usedByte is an offset of a segment at which something is stored that counts: in the
// header, in a mark, or anywhere within a frame.
func (s segmentFile) usedByte(rng *rand.Rand) int {
	if len(s.frames) == 0 || rng.IntN(10) == 0 {
		return rng.IntN(segmentHead)
	}
	f := s.frames[rng.IntN(len(s.frames))]
	switch rng.IntN(4) {
	case 0:
		return f.at + rng.IntN(markLength)
	case 1:
		return f.at + f.length - 1 - rng.IntN(markLength)
	case 2: // the head of a record, or what is next to it
		return f.at + min(markLength+rng.IntN(40), f.length-1)
	}
	return f.at + rng.IntN(f.length)
}

// fillTestDir makes a directory with about 300 entries and a snapshot, and with a past:
// segments that were taken again have older entries behind their end, and some entries
// were deleted, and replaced by others. It returns all that was ever stored, as
// readEverything has it. tail: the node was closed in order.
func fillTestDir(t *testing.T, dir string, tail bool) (past map[uint64][]string) {
	t.Helper()
	inNode := func(do func(n testNode) error) {
		t.Helper()
		n, err := openTestNode(dir)
		disktest.Must(t, err)
		disktest.Must(t, errors.Join(do(n), n.logs.Close()))
	}
	inNode(func(n testNode) error {
		return errors.Join(
			n.logs.Stable().Update(func(m *disk.Record) { m.ID, m.Identity, m.Cluster = "n1", "ab", "cd" }),
			n.logs.Stable().SetUint64([]byte("CurrentTerm"), 3), n.logs.Stable().Set([]byte("LastVoteCand"), []byte("10.0.0.1:7000")))
	})
	id := replaceLog(t, dir)
	past = map[uint64][]string{}
	rng := rand.New(rand.NewPCG(5, 6))
	store := func(l *wal.Log, upTo uint64) error {
		before, _ := l.LastIndex()
		for last := before; last < upTo; last, _ = l.LastIndex() {
			entries := disktest.Entries(last+1, last+1+rng.Uint64N(8), 3)
			for _, e := range entries {
				e.Data = bytes.Repeat(e.Data, 1+rng.IntN(10))
				e.AppendedAt = time.Unix(1, 0)
				if rng.IntN(50) == 0 {
					e.Data = bytes.Repeat(e.Data, 50) // larger than what is left of most segments
				}
				past[e.Index] = append(past[e.Index], entryText(logEntry(e.Index, withChecksum(e))))
			}
			if err := l.StoreLogs(entries); err != nil {
				return err
			}
			if last, _ := l.LastIndex(); rng.IntN(10) == 0 && last > before+2 { // the record counts on those of before
				if err := l.DeleteRange(last-1, last); err != nil {
					return err
				}
			}
		}
		return nil
	}
	writeSegments(t, dir, id, func(l *wal.Log) error { return store(l, 300) })
	inNode(func(n testNode) error { return disktest.TakeSnapshot(n.snaps, testState, 200, 3) })
	writeSegments(t, dir, id, func(l *wal.Log) error { return errors.Join(l.DeleteRange(1, 120), store(l, 420)) })
	inNode(func(n testNode) error {
		if tail {
			return n.logs.Flush()
		}
		return nil
	})
	return past
}
