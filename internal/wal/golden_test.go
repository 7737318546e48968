package wal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/disktest"
)

// testdata/log is a log as this project has written it to disks. Every later version must
// read it, and what is still written must come out the same, byte for byte. A change that
// breaks it is a decision: it takes a new version of the format, and a new directory beside
// the old one.
//
// -write-formats writes it if it is missing. It never touches what is there.
var writeFormats = flag.Bool("write-formats", false, "write the missing log of testdata")

const goldenLog = "testdata/log"

// goldenEntries are entries of every type, with and without a time, extensions and data.
func goldenEntries(first, last, term uint64) (entries []*raft.Log) {
	for index := first; index <= last; index++ {
		entry := &raft.Log{Index: index, Term: term, Type: raft.LogType(index % 6)}
		if index%2 == 0 {
			entry.AppendedAt = time.Unix(1<<30, int64(index))
		}
		if index%3 == 0 {
			entry.Extensions = fmt.Appendf(nil, "extensions of %d", index)
		}
		if index%5 != 0 {
			entry.Data = bytes.Repeat([]byte{byte(index), byte(term)}, 120)
		}
		entries = append(entries, entry)
	}
	return entries
}

// writeGolden writes a log with all that the format has: segments that were taken again,
// the cut of a few entries and of all, a session, and one that has something in doubt.
func writeGolden(t *testing.T, dir string) {
	disktest.Must(t, os.Mkdir(dir, 0o700))
	opt := Options{SegmentSize: 8192, files: openUnsynced(t, dir)}
	l, err := Create("", opt)
	disktest.Must(t, err)
	store := func(first, last, term uint64) {
		t.Helper()
		for ; first <= last; first += 3 {
			disktest.Must(t, l.StoreLogs(goldenEntries(first, min(first+2, last), term)))
		}
	}
	store(1, 30, 1)
	disktest.Must(t, l.DeleteRange(1, 18)) // with which the first segment ends
	store(31, 36, 1)
	disktest.Must(t, l.DeleteRange(35, 36))
	store(35, 38, 2)
	disktest.Must(t, l.DeleteRange(19, 38))
	store(101, 106, 3)
	disktest.Must(t, l.DeleteRange(101, 102))
	store(107, 109, 3)
	torn, at := l.current.name, l.current.end
	store(110, 112, 3)
	disktest.Must(t, l.Close())

	path := filepath.Join(dir, torn)
	content, err := os.ReadFile(path)
	disktest.Must(t, err)
	clear(content[at:][:markSize])
	disktest.Must(t, os.WriteFile(path, content, 0o600))
	l, err = Open(dir, l.ID(), opt)
	disktest.Must(t, err)
	disktest.Must(t, l.Resume())
	store(110, 110, 3) // which leaves in doubt the others
	disktest.Must(t, l.Close())
}

// openGolden opens a copy of the log.
func openGolden(t *testing.T) *Log {
	t.Helper()
	if _, err := os.Stat(goldenLog); os.IsNotExist(err) && *writeFormats {
		writeGolden(t, goldenLog)
	}
	dir := disktest.CopyOf(t, "testdata", "log")
	f, err := os.Open(filepath.Join(dir, "segment-000001"))
	disktest.Must(t, err)
	one := &segment{file: osFile{f}}
	_, err = one.readHeader()
	disktest.Must(t, errors.Join(err, f.Close()))
	l, err := Open(dir, one.id, Options{})
	disktest.Must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func TestALogIsReadAsItWasWritten(t *testing.T) {
	l := openGolden(t)
	want := model{first: 103, last: 110, entries: map[uint64]*raft.Log{}}
	for _, entry := range goldenEntries(want.first, want.last, 3) {
		want.entries[entry.Index] = entry
	}
	if err := want.differs(l); err != nil {
		t.Error(err)
	}
	if first, _ := l.FirstIndex(); first != want.first {
		t.Errorf("the log begins with entry %d, want %d", first, want.first)
	}
	if want := (Doubt{Index: 112, Term: 3}); l.Doubt() != want {
		t.Errorf("in doubt is %v, want %v", l.Doubt(), want)
	}
}

func TestALogIsWrittenAsItWasRead(t *testing.T) {
	l := openGolden(t)
	met := map[string]bool{}
	for _, opened := range l.segments {
		s := &segment{name: opened.name, file: opened.file}
		_, err := s.readHeader()
		disktest.Must(t, err)
		content := make([]byte, s.size)
		_, err = s.file.ReadAt(content, 0)
		disktest.Must(t, err)
		if !bytes.HasPrefix(content, s.header()) {
			t.Errorf("the header of %s was\n%x\nand would be\n%x", s.name, content[:headerSize], s.header())
		}
		if s.name != fmt.Sprintf("segment-%06d", s.number) {
			met["a segment that was taken again"] = true
		}
		for {
			m, offsets, err := s.next(content)
			if err == io.EOF {
				break
			}
			disktest.Must(t, err)
			var entries []*raft.Log
			for i, offset := range offsets {
				entries = append(entries, new(raft.Log))
				decodeRecord(content[offset:][:recordLength(t, content[offset:], m.index+uint64(i), s.salt)], m.index+uint64(i), entries[i])
			}
			frame, _ := appendFrame(nil, m, entries, s.at(s.end))
			if was := content[s.end:][:m.length]; !bytes.Equal(frame, was) {
				t.Errorf("%s at offset %d was\n%x\nand would be\n%x", s.name, s.end, was, frame)
			}
			s.end += int64(m.length)
			s.salt = opened.saltAt(uint32(s.end))
			switch {
			case m.kind == kindEntries:
				met["entries"] = true
			case m.kind == kindCut && m.index == 0:
				met["a cut of all"] = true
			case m.kind == kindCut:
				met["a cut"] = true
			case m.kind == kindSession:
				met["a session"] = true
			}
		}
		if s.end != opened.end {
			t.Errorf("%s was read up to offset %d, want %d", s.name, s.end, opened.end)
		}
	}
	if len(met) != 5 {
		t.Errorf("the log has only %v: the test shows less than it is to", met)
	}
}

func recordLength(t *testing.T, b []byte, index, salt uint64) int {
	t.Helper()
	length, err := recordAt(b, index, salt)
	disktest.Must(t, err)
	return length
}
