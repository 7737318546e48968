package wal

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
)

// doubtfulLog is a log that holds the entries 1 to 3, of term 1, and doubts 4 to 9.
func doubtfulLog(t *testing.T) (*Log, *testDisk) {
	t.Helper()
	disk := newTestDisk(1)
	opt := smallSegments
	opt.files = disk
	l, err := Create("", opt)
	disktest.Must(t, err)
	disktest.Must(t, l.StoreLogs(numbered(1, 3, 1, 200)))
	at := l.current.end
	disktest.Must(t, l.StoreLogs(numbered(4, 9, 1, 200)))
	clear(l.current.file.(*testFile).content[at:][:markSize])
	l = reopen(t, l)
	if last, _ := l.LastIndex(); last != 3 || l.Doubt() != (Doubt{Index: 9, Term: 1}) {
		t.Fatalf("the log ends with entry %d and doubts %v", last, l.Doubt())
	}
	return l, disk
}

// Then it was no crash that tore its end apart.
func TestALogThatEndsBeforeWhatWasStoredIsDamagedThere(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(whole []byte)
		want  string
	}{
		"one mark of the last frame": {func(whole []byte) { whole[20] ^= 1 }, "the beginning of a frame does not match its checksum, and entries up to 9 were stored"},
		"an entry of the last frame": {func(whole []byte) { whole[1000] ^= 1 }, "entry 8 does not match its checksum, and entries up to 9 were stored"},
		"all of the last frame":      {func(whole []byte) { clear(whole) }, "the log ends with entry 3, but entries up to 9 were stored"},
	} {
		disk := newTestDisk(1)
		opt := Options{SegmentSize: 8192, Stored: 9, files: disk}
		l, err := Create("", opt)
		disktest.Must(t, errors.Join(err, l.StoreLogs(numbered(1, 3, 1, 200))))
		at := l.current.end
		disktest.Must(t, l.StoreLogs(numbered(4, 9, 1, 200)))
		if _, err := Open("", l.ID(), opt); err != nil {
			t.Fatal(err)
		}
		c.spoil(l.current.file.(*testFile).content[at:l.current.end])
		want := fmt.Sprintf("kvraft: damaged data: segment-000001 at offset %d: %s", at, c.want)
		if _, err := Open("", l.ID(), opt); !errors.Is(err, errs.Damaged) || err.Error() != want {
			t.Errorf("%s:\n%v, want\n%s", name, err, want)
		}
		opt.Stored = 3
		if opened, err := Open("", l.ID(), opt); err != nil || opened.last != 3 {
			t.Errorf("%s, after a crash: %v", name, err)
		}
	}
}

func TestADoubtStaysUntilTheLogReachesIt(t *testing.T) {
	doubt := Doubt{Index: 9, Term: 1}
	for name, c := range map[string]struct {
		first, last, term uint64
		want              Doubt
	}{
		"short of it":                      {4, 8, 1, doubt},
		"it":                               {4, 9, 1, Doubt{}},
		"more":                             {4, 12, 1, Doubt{}},
		"a later term short of it":         {4, 4, 2, Doubt{}},
		"an earlier term and a longer log": {4, 12, 0, doubt},
	} {
		l, _ := doubtfulLog(t)
		disktest.Must(t, l.StoreLogs(numbered(c.first, c.last, c.term, 10)))
		if l.Doubt() != c.want {
			t.Errorf("%s: the log doubts %v, want %v", name, l.Doubt(), c.want)
		}
		for range 2 {
			if l = reopen(t, l); l.Doubt() != c.want {
				t.Errorf("%s, opened again: the log doubts %v, want %v", name, l.Doubt(), c.want)
			}
		}
	}
}
