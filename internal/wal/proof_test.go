package wal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
)

// A disk can lose a sector with all in it. What stands behind it proves that there was
// something, in whichever session it was written. Of the last frame alone nothing may be
// left.
func TestALostSectorIsDamageOrInDoubtOrOfNoConsequence(t *testing.T) {
	damaged, harmless := 0, 0
	for seed := range uint64(60) {
		disk, s := newTestDisk(seed), newScript(seed)
		var id ID
		l, err := s.start(disk, &id)
		var before *segment // where the last frame begins
		var from int64
		for step := range 20 + seed {
			if step%10 == 9 {
				l, err = s.start(disk, &id)
			}
			if err != nil {
				break
			}
			current, end := l.current, l.current.end
			if err = s.step(l); l.current != current || l.current.end != end {
				before, from = current, end
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, segment := range l.segments {
			f := segment.file.(*testFile)
			for at := int64(0); at < segment.end; at += sector {
				if segment.number > before.number || segment.number == before.number && at+sector > from {
					continue
				}
				whole := bytes.Clone(f.content[at : at+sector])
				clear(f.content[at : at+sector])
				opened, err := Open("", id, Options{files: disk})
				switch {
				case errors.Is(err, errs.Damaged), errors.Is(err, errs.Newer):
					damaged++
				case err != nil:
					t.Fatalf("seed %d, %s, offset %d: %v", seed, segment.name, at, err)
				case s.done.differs(opened) == nil, s.done.startsLater(opened):
					harmless++
				case opened.Doubt() == (Doubt{}):
					t.Errorf("seed %d, %s, offset %d: %v", seed, segment.name, at, s.done.differs(opened))
				}
				copy(f.content[at:], whole)
			}
		}
	}
	if damaged == 0 || harmless == 0 {
		t.Errorf("%d damaged, %d harmless: the test is not hard enough", damaged, harmless)
	}
}

// startsLater reports whether the log lacks no more than entries at its beginning, which
// it cannot tell from deleted ones. Who opens it knows what a snapshot has of them.
func (m model) startsLater(l *Log) bool {
	first, _ := l.FirstIndex()
	later := m
	later.first = max(m.first, first)
	return first > m.first && later.differs(l) == nil
}

// What is written to the next segment proves what the one before it ends with, whatever it
// is.
func TestALostEndOfASegmentIsDamageWhateverFollowsIt(t *testing.T) {
	for name, write := range secondSegments {
		l, at := inSecondSegment(t, name, write)
		first := l.segments[0]
		clear(first.file.(*testFile).content[at:first.end])
		if _, err := Open("", l.ID(), l.Options); !errors.Is(err, errs.Damaged) {
			t.Errorf("before %s: %v, want damage", name, err)
		}
	}
}

// secondSegments write something.
var secondSegments = map[string]func(t *testing.T, l *Log) *Log{
	"a session": func(t *testing.T, l *Log) *Log { return reopen(t, l) },
	"a cut": func(t *testing.T, l *Log) *Log {
		disktest.Must(t, l.DeleteRange(5, 5))
		return l
	},
	"an entry": func(t *testing.T, l *Log) *Log {
		disktest.Must(t, l.StoreLogs(numbered(6, 6, 1, 10)))
		return l
	},
}

// inSecondSegment is a log with five entries in its first segment, the last of which is at
// that offset, and what is written then in its second one.
func inSecondSegment(t *testing.T, name string, write func(*testing.T, *Log) *Log) (l *Log, at int64) {
	t.Helper()
	l, err := Create("", Options{SegmentSize: 8192, files: newTestDisk(1)})
	disktest.Must(t, err)
	disktest.Must(t, l.StoreLogs(numbered(1, 4, 1, 890)))
	at = l.current.end
	disktest.Must(t, l.StoreLogs(numbered(5, 5, 1, 100)))
	if left := l.current.size - l.current.end; left >= 2*markSize {
		t.Fatalf("%d bytes are left: the test shows nothing", left)
	}
	if l = write(t, l); l.current.number != 2 {
		t.Fatalf("%s is in segment %d: the test shows nothing", name, l.current.number)
	}
	return l, at
}

// Entries that are missing before others show by the index of the first one. These have none
// behind them.
func TestALogWhoseEntriesAreAllInMissingSegmentsIsDamaged(t *testing.T) {
	const text = "kvraft: damaged data: segment-000002 at offset 4096: the log ends with entry %d by then, which was in segments that are missing"
	for name, want := range map[string]string{"a session": fmt.Sprintf(text, 5), "a cut": fmt.Sprintf(text, 4), "an entry": ""} {
		l, _ := inSecondSegment(t, name, secondSegments[name])
		disk := l.files.(*testDisk)
		delete(disk.names, "segment-000001")
		opened, err := Open("", l.ID(), l.Options)
		if got := fmt.Sprint(err); want != "" && (!errors.Is(err, errs.Damaged) || got != want) {
			t.Errorf("before %s:\n%s, want\n%s", name, got, want)
		}
		inspected := &inspection{}
		disktest.Must(t, inspected.read(&Log{Options: l.Options, id: l.id}))
		if inspected.isWhole() != (want == "") {
			t.Errorf("before %s: an inspection finds it whole: %v", name, inspected.isWhole())
		}
		if want != "" {
			continue
		}
		disktest.Must(t, err)
		if first, _ := opened.FirstIndex(); first != 6 {
			t.Errorf("before %s: the log begins with entry %d", name, first)
		}
	}
}

// All entries are deleted, and a crash comes before anything is in the next segment: that
// there was a log is in the one before it.
func TestTheLastFrameIsKeptUntilAnotherOneIsWritten(t *testing.T) {
	cuts := 0
	for k := 1; ; k++ {
		disk := newTestDisk(uint64(k))
		l, err := Create("", Options{SegmentSize: 8192, files: disk})
		disktest.Must(t, errors.Join(err, l.StoreLogs(numbered(1, 4, 1, 890)), l.DeleteRange(1, 4)))
		disk.failAt, disk.failure = disk.operations+k, errPower
		if err = l.StoreLogs(numbered(1, 1, 2, 500)); err == nil {
			break
		}
		for range 10 {
			if _, err := Open("", l.ID(), Options{files: disk.cutPower()}); err != nil {
				t.Fatalf("cut at operation %d: %v", k, err)
			}
			cuts++
		}
	}
	if cuts < 100 {
		t.Errorf("the power was cut %d times: the test shows less than it is to", cuts)
	}
}

// The entries of before a snapshot would fill the disk until the next one.
func TestSegmentsAreRemovedWhenTheWholeLogIsDeleted(t *testing.T) {
	l := unsyncedLog(t)
	for first := uint64(1); first < 500; first += 50 {
		for _, entry := range numbered(first, first+49, 1, 600) {
			disktest.Must(t, l.StoreLog(entry))
		}
		disktest.Must(t, l.StoreLogs(numbered(first+50, first+50, 1, 10_000))) // a segment that is not taken again
		disktest.Must(t, l.DeleteRange(first, first+50))
		wantFiles(t, l)
	}
}

// The remedy of damage is to remove the data, of a newer version to start it.
func TestAFrameOfANewerVersionIsNotDamage(t *testing.T) {
	_, err := openFrames(frame{mark: mark{kind: kindSession + 1}})
	if !errors.Is(err, errs.Newer) || errors.Is(err, errs.Damaged) {
		t.Error(err)
	}
	disk := newTestDisk(0)
	disk.names["segment-1"] = &testFile{disk: disk, content: contentOf(frame{mark: mark{kind: kindSession + 1}})}
	i := &inspection{}
	disktest.Must(t, i.read(&Log{Options: Options{files: disk}, id: ID{1}}))
	if len(i.found) != 1 || !errors.Is(i.found[0].err, errs.Newer) || errors.Is(i.found[0].err, errs.Damaged) {
		t.Errorf("an inspection finds %v", i.found)
	}
}

// openFrames opens a log of one segment.
func openFrames(of ...frame) (*Log, error) { return openContent(contentOf(of...)) }

// contentOf is that of a segment.
func contentOf(of ...frame) []byte {
	s := fuzzSegment(1)
	content := make([]byte, s.size)
	copy(content, s.header())
	copy(content[segmentHeader:], frames(s, of...))
	return content
}

func openContent(content []byte) (*Log, error) {
	disk := newTestDisk(0)
	disk.names["segment-1"] = &testFile{disk: disk, content: content}
	return Open("", ID{1}, Options{files: disk})
}

func TestAFrameThatNobodyWritesIsDamage(t *testing.T) {
	atZero := goldenEntries(0, 2, 1)
	around := []*raft.Log{{Index: 1<<64 - 1}, {Index: 0}}
	for name, f := range map[string]frame{
		"no entries":              {mark{kind: kindEntries, index: 1, first: 1}, nil},
		"index 0":                 {mark{kind: kindEntries, count: 3, index: 0, first: 0}, atZero},
		"more than all indexes":   {mark{kind: kindEntries, count: 2, index: 1<<64 - 1, first: 1}, around},
		"a first entry behind it": {mark{kind: kindEntries, count: 1, index: 3, first: 4}, goldenEntries(3, 3, 1)},
	} {
		if _, err := openFrames(f); !errors.Is(err, errs.Damaged) {
			t.Errorf("%s: %v, want damage", name, err)
		}
	}
}

func TestASegmentSmallerThanItsHeaderIsDamage(t *testing.T) {
	for _, size := range []int64{0, headerSize, segmentHeader - 1, -1, -1 << 63} {
		s := fuzzSegment(1)
		s.size = size
		content := make([]byte, 8192)
		copy(content, s.header())
		if _, err := openContent(content); !errors.Is(err, errs.Damaged) {
			t.Errorf("a size of %d: %v, want damage", size, err)
		}
	}
}

// failingFiles are of a disk that cannot be read.
type failingFiles struct{ files }

type failingFile struct{ file }

func (f failingFiles) open(name string, writable bool) (file, error) {
	opened, err := f.files.open(name, writable)
	return failingFile{opened}, err
}

func (failingFile) ReadAt([]byte, int64) (int, error) { return 0, syscall.EIO }

// What is on the disk may be whole.
func TestADiskThatCannotBeReadIsNotDamage(t *testing.T) {
	l := unsyncedLog(t)
	opt := l.Options
	opt.files = failingFiles{opt.files}
	if _, err := Open("", l.ID(), opt); !errors.Is(err, syscall.EIO) || errors.Is(err, errs.Damaged) {
		t.Error(err)
	}
}

// A snapshot takes the place of entries, and not of what the node may have acknowledged
// behind it.
func TestADoubtStaysWhenTheLogIsShortened(t *testing.T) {
	l, _ := doubtfulLog(t)
	for _, entry := range numbered(4, 8, 1, 3000) { // one to a segment
		disktest.Must(t, l.StoreLog(entry))
	}
	disktest.Must(t, l.DeleteRange(1, 7))
	for range 2 + keptSegments { // the oldest segments could be taken again, or removed
		disktest.Must(t, l.DeleteRange(8, 8))
		disktest.Must(t, l.StoreLogs(numbered(8, 8, 1, 3000)))
	}
	want := l.Doubt()
	if l = reopen(t, l); l.Doubt() != want {
		t.Errorf("the log doubts %v, want %v", l.Doubt(), want)
	}
}

func TestAnInspectionFindsALogThatBeginsAgainAtALowerIndex(t *testing.T) {
	l := unsyncedLog(t)
	dir := l.files.(unsynced).Name()
	want := numbered(5, 7, 2, 10)
	disktest.Must(t, l.StoreLogs(numbered(100, 102, 1, 10)))
	disktest.Must(t, l.DeleteRange(100, 102))
	disktest.Must(t, l.StoreLogs(want))
	var found []*raft.Log
	disktest.Must(t, Inspect(dir, l.ID(), func(_ uint64, entry *raft.Log, _ int, err error) error {
		found = append(found, entry)
		return err
	}, func(_ uint64, err error) error { return err }))
	if !slices.EqualFunc(found, want, same) {
		t.Errorf("%d entries are found, want %d", len(found), len(want))
	}
}
