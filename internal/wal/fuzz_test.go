package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/errs"
)

// fuzzSegment is the first or second segment of the log that FuzzOpen opens, without its
// frames.
func fuzzSegment(number uint64) *segment {
	s := &segment{id: ID{1}, number: number, size: smallSegments.SegmentSize, end: segmentHeader}
	s.resalt(number)
	return s
}

// frames are the bytes of frames, one after the other, in a segment.
func frames(s *segment, of ...frame) (b []byte) {
	for _, f := range of {
		b, _ = appendFrame(b, f.mark, f.entries, s.at(s.end))
		s.end = segmentHeader + int64(len(b))
		if f.kind == kindSession {
			s.resalt(s.salt + 1)
		}
	}
	return b
}

type frame struct {
	mark
	entries []*raft.Log
}

func entriesFrame(first uint64, entries []*raft.Log) frame {
	newest := entries[len(entries)-1]
	return frame{mark{kind: kindEntries, count: uint32(len(entries)), index: entries[0].Index, first: first, term: newest.Term}, entries}
}

// sealFrames gives the marks and the records of what may be frames checksums that fit, so
// that what is behind these is seen.
func sealFrames(s *segment, content []byte) {
	for at := int64(segmentHeader); at+2*markSize <= s.size; {
		length := int64(binary.BigEndian.Uint32(content[at+20:]))
		end := at + length - markSize
		if length < 2*markSize || end+markSize > s.size {
			sealMark(s, content, at)
			return
		}
		record := at + markSize
		for i := range uint64(binary.BigEndian.Uint32(content[at+16:])) {
			if record+recordHead > end {
				break
			}
			after := record + recordHead + int64(binary.BigEndian.Uint32(content[record:]))
			if after > end {
				break
			}
			sum := recordSum(content[record+recordHead:after], binary.BigEndian.Uint64(content[at+24:])+i, s.salt)
			binary.BigEndian.PutUint32(content[record+4:], sum)
			record = after
		}
		sealMark(s, content, at)
		sealMark(s, content, end)
		if kind(content[at+12]) == kindSession {
			s.resalt(s.salt + 1)
		}
		at += length
	}
}

func sealMark(s *segment, content []byte, at int64) {
	binary.BigEndian.PutUint64(content[at:], s.salt)
	binary.BigEndian.PutUint32(content[at+8:], markSum(content[at:][:markSize], s.at(at)))
}

// Whatever stands in a segment, a log that is opened has every entry between its first and
// its last, and goes on with the next one.
func FuzzOpen(f *testing.F) {
	whole := frames(fuzzSegment(1),
		entriesFrame(1, goldenEntries(1, 3, 1)),
		frame{mark: mark{kind: kindCut, index: 3, first: 1}},
		frame{mark: mark{kind: kindSession, index: 9, first: 77, term: 1}},
		entriesFrame(2, goldenEntries(3, 5, 2)),
	)
	next := frames(fuzzSegment(2), frame{mark: mark{kind: kindCut}}, entriesFrame(8, goldenEntries(8, 8, 3)))
	for _, seal := range []bool{false, true} {
		f.Add([]byte{}, []byte{}, seal)
		f.Add(whole, []byte{}, seal)
		f.Add(whole, next, seal)
		f.Add(whole[:len(whole)/2], []byte{}, seal)
		f.Add(whole[:len(whole)-8], next, seal)
	}
	f.Fuzz(func(t *testing.T, first, second []byte, seal bool) {
		disk := newTestDisk(0)
		for i, content := range [][]byte{first, second} {
			s := fuzzSegment(uint64(i) + 1)
			b := make([]byte, s.size)
			copy(b, s.header())
			copy(b[segmentHeader:], content)
			if seal {
				sealFrames(s, b)
			}
			disk.names[fmt.Sprintf("segment-%d", i+1)] = &testFile{disk: disk, content: b}
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		l, err := Open("", ID{1}, Options{SegmentSize: smallSegments.SegmentSize, files: disk})
		runtime.ReadMemStats(&after)
		if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<20 {
			t.Errorf("%d bytes were allocated for a log of 16384", allocated)
		}
		inspected := inspectAll(disk)
		if err != nil {
			if !errors.Is(err, errs.Damaged) && !errors.Is(err, errs.Newer) {
				t.Errorf("%v is neither damaged nor newer", err)
			}
			return
		}
		opened := readAll(t, l)
		if !slices.EqualFunc(inspected, opened, same) {
			t.Errorf("an inspection finds\n%v, want\n%v", listOf(inspected), listOf(opened))
		}
		if last, _ := l.LastIndex(); last == math.MaxUint64 {
			return // no entry can follow
		}
		if err := l.Resume(); err != nil {
			t.Fatal(err)
		}
		entry := &raft.Log{Index: 1, Term: 1}
		if len(opened) > 0 {
			last := opened[len(opened)-1]
			entry = &raft.Log{Index: last.Index + 1, Term: last.Term, Data: []byte("next")}
		}
		if err := l.StoreLog(entry); err != nil {
			t.Fatal(err)
		}
		l, err = Open("", ID{1}, Options{files: disk})
		if err != nil {
			t.Fatal(err)
		}
		again := readAll(t, l)
		if opened = append(opened, entry); len(again) != len(opened) {
			t.Fatalf("%d entries, want %d", len(again), len(opened))
		}
		for i, entry := range opened {
			if !same(again[i], entry) {
				t.Fatalf("%v, want %v", again[i], entry)
			}
		}
	})
}

// readAll reads all entries of a log, one by one and all at once.
func readAll(t *testing.T, l *Log) (entries []*raft.Log) {
	t.Helper()
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if (first == 0) != (last == 0) || first > last {
		t.Fatalf("the log is from %d to %d", first, last)
	}
	if err := l.Each(func(entry *raft.Log) error { entries = append(entries, entry); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := last - first + 1; first != 0 && uint64(len(entries)) != want || first == 0 && len(entries) > 0 {
		t.Fatalf("%d entries from %d to %d", len(entries), first, last)
	}
	for i, entry := range entries {
		var alone raft.Log
		if err := l.GetLog(first+uint64(i), &alone); err != nil || !same(&alone, entry) {
			t.Fatalf("%v, %v, want %v", alone, err, entry)
		}
	}
	return entries
}

// inspectAll has the entries that an inspection finds.
func inspectAll(disk *testDisk) (entries []*raft.Log) {
	l := &Log{Options: Options{files: disk}, id: ID{1}}
	i := &inspection{}
	if err := i.read(l); err != nil {
		return nil
	}
	for _, f := range i.found {
		if f.record != nil && f.err == nil && f.index >= i.first {
			entry := new(raft.Log)
			decodeRecord(f.record, f.index, entry)
			entries = append(entries, entry)
		}
	}
	return entries
}

func listOf(entries []*raft.Log) (list []string) {
	for _, entry := range entries {
		list = append(list, fmt.Sprintf("%d/%d", entry.Index, entry.Term))
	}
	return list
}
