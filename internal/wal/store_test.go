package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/disktest"
)

// unsynced is a directory of the operating system's where nothing is made durable, which
// takes most of the time.
type unsynced struct{ directory }

func (d unsynced) open(name string, writable bool) (file, error) {
	f, err := d.directory.open(name, writable)
	return unsyncedFile{f}, err
}

func (d unsynced) create(name string) (file, error) {
	f, err := d.directory.create(name)
	return unsyncedFile{f}, err
}

func (unsynced) sync() error { return nil }

func (unsynced) beside(f func()) { f() } // so that the directory is as the last call has left it

func (unsynced) Close() error { return nil } // it is opened again

type unsyncedFile struct{ file }

func (unsyncedFile) Sync() error { return nil }

// unsyncedLog is an empty log in small segments.
func unsyncedLog(t testing.TB) *Log {
	t.Helper()
	opt := smallSegments
	opt.files = openUnsynced(t, t.TempDir())
	l, err := Create("", opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func openUnsynced(t testing.TB, dir string) unsynced {
	t.Helper()
	d, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return unsynced{d}
}

// reopen closes a log and opens it again for writing.
func reopen(t *testing.T, l *Log) *Log {
	t.Helper()
	disktest.Must(t, l.Close())
	again, err := Open("", l.ID(), l.Options)
	disktest.Must(t, err)
	t.Cleanup(func() { again.Close() })
	disktest.Must(t, again.Resume())
	return again
}

// holding is a model of a log that holds those entries.
func holding(entries []*raft.Log) model {
	m := model{entries: map[uint64]*raft.Log{}}
	for _, entry := range entries {
		m.entries[entry.Index] = entry
	}
	if len(entries) > 0 {
		m.first, m.last = entries[0].Index, entries[len(entries)-1].Index
	}
	return m
}

func TestEntriesThatDoNotFollowAreRefusedAndChangeNothing(t *testing.T) {
	l := unsyncedLog(t)
	if err := l.StoreLogs(numbered(0, 2, 1, 10)); err == nil || err.Error() != "entry 0 was to follow entry 0" {
		t.Errorf("index 0 in an empty log: %v", err)
	}
	stored := numbered(5, 9, 1, 10)
	disktest.Must(t, l.StoreLogs(stored))
	gap := append(numbered(10, 11, 1, 10), numbered(13, 13, 1, 10)...)
	for name, c := range map[string]struct {
		entries []*raft.Log
		want    string
	}{
		"a gap":              {numbered(11, 12, 1, 10), "entry 11 was to follow entry 9"},
		"an overlap":         {numbered(9, 12, 2, 10), "entry 9 was to follow entry 9"},
		"what is there":      {numbered(5, 9, 1, 10), "entry 5 was to follow entry 9"},
		"below the first":    {numbered(4, 4, 1, 10), "entry 4 was to follow entry 9"},
		"index 0":            {numbered(0, 0, 1, 10), "entry 0 was to follow entry 9"},
		"a gap among them":   {gap, "entry 13 was to follow entry 11"},
		"the same one twice": {slices.Repeat(numbered(10, 10, 1, 10), 2), "entry 10 was to follow entry 10"},
	} {
		if err := l.StoreLogs(c.entries); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if err := holding(stored).differs(l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := holding(stored).differs(reopen(t, l)); err != nil {
		t.Errorf("opened again: %v", err)
	}
}

func TestADeletionThatWouldTearTheLogApartIsRefusedAndChangesNothing(t *testing.T) {
	l := unsyncedLog(t)
	disktest.Must(t, l.DeleteRange(1, 5)) // of nothing
	stored := numbered(5, 9, 1, 10)
	disktest.Must(t, l.StoreLogs(stored))
	for _, c := range []struct{ from, to uint64 }{{6, 8}, {6, 6}, {8, 8}} {
		want := fmt.Sprintf("deleting the entries %d to %d would tear the log 5 to 9 apart", c.from, c.to)
		if err := l.DeleteRange(c.from, c.to); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for _, c := range []struct{ from, to uint64 }{{1, 4}, {10, 20}, {8, 7}, {0, 0}} { // where nothing is
		if err := l.DeleteRange(c.from, c.to); err != nil {
			t.Errorf("from %d to %d: %v", c.from, c.to, err)
		}
	}
	if err := holding(stored).differs(reopen(t, l)); err != nil {
		t.Error(err)
	}
}

func TestADeletionIsOfWhatIsThere(t *testing.T) {
	for _, c := range []struct{ from, to, first, last uint64 }{
		{1, 5, 6, 9}, {0, 8, 9, 9}, {9, 9, 5, 8}, {6, 100, 5, 5}, {5, 9, 0, 0}, {0, 1<<64 - 1, 0, 0},
	} {
		l := unsyncedLog(t)
		want := holding(numbered(5, 9, 1, 10))
		disktest.Must(t, l.StoreLogs(numbered(5, 9, 1, 10)))
		disktest.Must(t, l.DeleteRange(c.from, c.to))
		want.first, want.last = c.first, c.last
		if first, _ := l.FirstIndex(); first != c.first {
			t.Errorf("without %d to %d the log begins with entry %d, want %d", c.from, c.to, first, c.first)
		}
		if err := want.differs(l); err != nil {
			t.Errorf("without %d to %d: %v", c.from, c.to, err)
		}
		// What was deleted at its beginning can be there again.
		if err := want.differs(reopen(t, l)); err != nil {
			t.Errorf("without %d to %d, opened again: %v", c.from, c.to, err)
		}
	}
}

func TestAnEntryThatIsNotThereIsNotFound(t *testing.T) {
	l := unsyncedLog(t)
	missing := func(indexes ...uint64) {
		t.Helper()
		for _, index := range indexes {
			entry := raft.Log{Index: 77}
			if err := l.GetLog(index, &entry); err != raft.ErrLogNotFound || entry.Index != 77 {
				t.Errorf("entry %d: %v, %v", index, entry.Index, err)
			}
		}
	}
	missing(0, 1, 1<<64-1)
	disktest.Must(t, l.StoreLogs(numbered(5, 30, 1, 600)))
	missing(0, 4, 31, 1<<64-1)
	disktest.Must(t, errors.Join(l.DeleteRange(5, 20), l.DeleteRange(28, 30)))
	missing(5, 20, 28, 30)
	disktest.Must(t, l.DeleteRange(21, 27))
	missing(0, 21, 27)
}

func TestWhatAReaderGotIsItsOwn(t *testing.T) {
	l := unsyncedLog(t)
	entries := goldenEntries(1, 6, 1)
	disktest.Must(t, l.StoreLogs(entries))
	for range 2 {
		var entry raft.Log
		disktest.Must(t, l.GetLog(6, &entry))
		if !same(&entry, entries[5]) {
			t.Fatalf("%v, want %v", entry, entries[5])
		}
		clear(entry.Data)
		_ = append(entry.Extensions, "written over"...)
	}
}

func TestAFrameLargerThanASegmentGetsOneOfItsOwnSize(t *testing.T) {
	l := unsyncedLog(t)
	small, large, after := numbered(1, 3, 1, 10), numbered(4, 7, 1, 5000), numbered(8, 9, 1, 10)
	for _, entries := range [][]*raft.Log{small, large, after} {
		disktest.Must(t, l.StoreLogs(entries))
	}
	if size := l.segments[1].size; size < 20_000 || size > 30_000 || size%segmentHeader != 0 {
		t.Errorf("its segment has %d bytes", size)
	}
	if size := l.segments[2].size; size != smallSegments.SegmentSize {
		t.Errorf("the next segment has %d bytes", size)
	}
	want := holding(slices.Concat(small, large, after))
	l = reopen(t, l)
	if err := want.differs(l); err != nil {
		t.Fatal(err)
	}
	// The one before it is kept to be taken again, and until then it is kept as well.
	disktest.Must(t, l.DeleteRange(1, 7))
	for index := uint64(10); l.segments[0].number == 1; index++ {
		entries := numbered(index, index, 1, 600)
		disktest.Must(t, l.StoreLogs(entries))
		want.entries[index], want.last = entries[0], index
	}
	disktest.Must(t, l.DeleteRange(8, 9))
	want.first = 10
	wantFiles(t, l)
	for _, s := range l.segments {
		if s.size != smallSegments.SegmentSize {
			t.Errorf("%s of %d bytes is there still", s.name, s.size)
		}
	}
	if err := want.differs(reopen(t, l)); err != nil {
		t.Error(err)
	}
}

func TestSegmentsOfAnotherSizeAreReadAndNotTakenAgain(t *testing.T) {
	l := unsyncedLog(t)
	stored := numbered(1, 30, 1, 600)
	disktest.Must(t, l.StoreLogs(stored[:5]))
	l.SegmentSize *= 2
	l = reopen(t, l)
	for _, entry := range stored[5:] {
		disktest.Must(t, l.StoreLog(entry))
	}
	if err := holding(stored).differs(l); err != nil {
		t.Fatal(err)
	}
	disktest.Must(t, l.DeleteRange(1, 29))
	wantFiles(t, l)
	for _, s := range l.segments {
		if s.size != l.SegmentSize {
			t.Errorf("%s of %d bytes is there still", s.name, s.size)
		}
	}
}

// wantFiles makes sure that the directory has the files of the segments and no others,
// and that at most two of them wait to be taken again, beside the spare.
func wantFiles(t *testing.T, l *Log) {
	t.Helper()
	names, err := l.files.list()
	disktest.Must(t, err)
	var want []string
	unneeded := 0
	for _, s := range l.segments {
		want = append(want, s.name)
		if l.isUnneeded(s) {
			unneeded++
		}
	}
	if slices.Sort(want); !slices.Equal(names, want) {
		t.Fatalf("the directory has %v, want %v", names, want)
	}
	if unneeded > keptSegments {
		t.Fatalf("%d segments are not needed", unneeded)
	}
}

func TestALogThatIsWrittenAndShortenedForLongStaysSmall(t *testing.T) {
	l := unsyncedLog(t)
	most, again := 0, 0
	for round := range uint64(200) {
		from := 10*round + 1
		disktest.Must(t, l.StoreLogs(numbered(from, from+4, round+1, 600)))
		disktest.Must(t, l.StoreLogs(numbered(from+5, from+9, round+1, 600)))
		if round%7 == 0 { // an end that a later leader does not have
			disktest.Must(t, l.DeleteRange(from+8, from+9))
			disktest.Must(t, l.StoreLogs(numbered(from+8, from+9, round+2, 600)))
		}
		if round%50 == 20 { // larger than a segment
			disktest.Must(t, l.DeleteRange(from+9, from+9))
			disktest.Must(t, l.StoreLogs(numbered(from+9, from+9, round+2, 10_000)))
		}
		if from > 20 {
			disktest.Must(t, l.DeleteRange(1, from-11))
		}
		wantFiles(t, l)
		most = max(most, len(l.segments))
		if newest := l.segments[len(l.segments)-1]; newest.name != fmt.Sprintf("segment-%06d", newest.number) {
			again++
		}
		if round%20 == 19 {
			l = reopen(t, l)
		}
	}
	if most > 7+keptSegments { // of thirty entries, five to a segment
		t.Errorf("there were %d segments", most)
	}
	if again < 100 {
		t.Errorf("a segment was taken again in %d rounds: the test shows less than it is to", again)
	}
}

func TestAClosedLogIsNotWritten(t *testing.T) {
	l := unsyncedLog(t)
	disktest.Must(t, l.StoreLogs(numbered(1, 3, 1, 10)))
	disktest.Must(t, l.Close())
	for name, write := range map[string]func() error{
		"StoreLogs":              func() error { return l.StoreLogs(numbered(4, 4, 1, 10)) },
		"DeleteRange of the end": func() error { return l.DeleteRange(3, 3) },
		"DeleteRange":            func() error { return l.DeleteRange(1, 1) },
	} {
		if err := write(); !errors.Is(err, errClosed) {
			t.Errorf("%s: %v, want %v", name, err, errClosed)
		}
	}
}

func TestADirectoryThatIsNotThereIsNoDamage(t *testing.T) {
	_, err := Open(filepath.Join(t.TempDir(), "log"), ID{}, smallSegments)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want %v", err, fs.ErrNotExist)
	}
}

func TestWhatIsStoredCostsOneWriteAndOneSync(t *testing.T) {
	disk := newTestDisk(1)
	l, err := Create("", Options{files: disk})
	disktest.Must(t, err)
	disktest.Must(t, l.Resume())
	for _, size := range []uint64{1, 64} {
		last, _ := l.LastIndex()
		before := disk.operations
		disktest.Must(t, l.StoreLogs(numbered(last+1, last+size, 1, 100)))
		if did := disk.operations - before; did != 2 {
			t.Errorf("%d entries cost %d operations of the disk", size, did)
		}
	}
}
