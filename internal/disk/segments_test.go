package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/wal"
)

// olderNode is a copy of a directory that an older version has written.
func olderNode(t *testing.T) string {
	t.Helper()
	return disktest.CopyOf(t, filepath.Join("..", "..", "testdata"), "formats/node")
}

// entryTexts tells entries from any others, whatever time they have.
func entryTexts(t *testing.T, from raft.LogStore) (texts []string) {
	t.Helper()
	first, err := from.FirstIndex()
	disktest.Must(t, err)
	last, err := from.LastIndex()
	disktest.Must(t, err)
	for index := first; index <= last && last > 0; index++ {
		var e raft.Log
		disktest.Must(t, from.GetLog(index, &e))
		texts = append(texts, fmt.Sprintf("%d %d %v %x %x %d", e.Index, e.Term, e.Type, e.Data, e.Extensions, e.AppendedAt.UnixNano()))
	}
	return texts
}

// boltTexts is entryTexts of the raft.db in dir.
func boltTexts(t *testing.T, dir string) []string {
	t.Helper()
	base, err := raftboltdb.NewBoltStore(filepath.Join(dir, boltlog.Name))
	disktest.Must(t, err)
	defer base.Close()
	return entryTexts(t, base)
}

// convertTestDir starts on dir once, as a node does, and returns its entries and its record.
func convertTestDir(t *testing.T, dir string) (texts []string, m Record) {
	t.Helper()
	l := openTestFile(t, dir, 1, disktest.FailTest(t))
	texts, m = entryTexts(t, l), l.stable.Record()
	disktest.Must(t, l.Close())
	return texts, m
}

// wantConverted makes sure that the log of dir is where it belongs, and nowhere else.
func wantConverted(t *testing.T, dir string) {
	t.Helper()
	if exists(filepath.Join(dir, newLogDir)) || !exists(filepath.Join(dir, logDir)) {
		t.Errorf("there is a %s: %v, and a %s: %v", logDir, exists(filepath.Join(dir, logDir)), newLogDir, exists(filepath.Join(dir, newLogDir)))
	}
	if left := boltTexts(t, dir); len(left) > 0 {
		t.Errorf("%d entries are left in %s", len(left), boltlog.Name)
	}
}

func TestADirectoryOfAnOlderVersionIsConvertedOnce(t *testing.T) {
	dir := olderNode(t)
	want := boltTexts(t, dir)
	got, m := convertTestDir(t, dir)
	if !slices.Equal(got, want) || len(want) < 6 {
		t.Errorf("the log is\n%q\nand was\n%q", got, want)
	}
	wantConverted(t, dir)
	if m.Format != 2 || m.Log == "" || m.ID != "n1" {
		t.Errorf("the record is %+v", m)
	}
	segment, err := os.Stat(filepath.Join(dir, logDir, "segment-000001"))
	disktest.Must(t, err)
	raftDB, err := os.Stat(filepath.Join(dir, boltlog.Name))
	disktest.Must(t, err)

	again, now := convertTestDir(t, dir)
	if !slices.Equal(again, want) || now.Log != m.Log {
		t.Errorf("the second start has %d entries in %s, the first one had %d in %s", len(again), now.Log, len(want), m.Log)
	}
	same, err := os.Stat(filepath.Join(dir, logDir, "segment-000001"))
	if err != nil || !os.SameFile(segment, same) {
		t.Errorf("the log was copied again: %v", err)
	}
	same, err = os.Stat(filepath.Join(dir, boltlog.Name))
	if err != nil || !os.SameFile(raftDB, same) {
		t.Errorf("raft.db was replaced again: %v", err)
	}
}

// The copy is written some entries at a time.
func TestALogOfManyEntriesIsConvertedWhole(t *testing.T) {
	dir := t.TempDir()
	base, err := raftboltdb.NewBoltStore(filepath.Join(dir, boltlog.Name))
	disktest.Must(t, err)
	var entries []*raft.Log
	for index := uint64(100); index < 400; index++ {
		e := sealedEntry(index, 1)
		e.Data, e.AppendedAt = make([]byte, 20_000), time.Unix(int64(index), 5)
		e.Extensions = appendChecksum(nil, e)
		entries = append(entries, e)
	}
	stored, err := Record{Format: 1, ID: "n1", Tail: 399, Raft: map[string][]byte{"CurrentTerm": {7: 1}}}.Encode()
	disktest.Must(t, errors.Join(err, base.StoreLogs(entries), base.Set(boltlog.RecordKey, stored), base.Close()))
	want := boltTexts(t, dir)
	if got, _ := convertTestDir(t, dir); !slices.Equal(got, want) || len(got) != 300 {
		t.Errorf("%d entries of %d", len(got), len(want))
	}
	wantConverted(t, dir)
}

// steps are those of a conversion after which a start can be killed. Each leaves dir as it is
// then.
var steps = map[string]func(t *testing.T, dir string){
	"the copy was begun": func(t *testing.T, dir string) {
		disktest.WriteFiles(t, dir, map[string][]byte{filepath.Join(newLogDir, "segment.new"): []byte("half")})
	},
	"half of the entries were copied": func(t *testing.T, dir string) {
		f := openToConvert(t, dir)
		first, last := f.Bounds()
		_, err := f.base.OpenForWriting(first, (first+last)/2)
		disktest.Must(t, errors.Join(err, f.Close()))
	},
	"the copy is without a record": func(t *testing.T, dir string) {
		f := openToConvert(t, dir)
		_, err := f.base.OpenForWriting(f.Bounds())
		disktest.Must(t, errors.Join(err, f.Close()))
	},
	"the record is written": func(t *testing.T, dir string) {
		f := openToConvert(t, dir)
		name, err := f.base.OpenForWriting(f.Bounds())
		disktest.Must(t, err)
		disktest.Must(t, errors.Join(f.stable.Update(func(m *Record) { m.Log = name }), f.Close()))
	},
	"the log has its name": func(t *testing.T, dir string) {
		f := openToConvert(t, dir)
		disktest.Must(t, errors.Join(f.OpenForWriting(), f.Close()))
	},
	"all is done": func(t *testing.T, dir string) {
		f := openToConvert(t, dir)
		disktest.Must(t, errors.Join(f.OpenForWriting(), f.Tidy(), f.Close()))
	},
}

// openToConvert is the first step of a start.
func openToConvert(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := Open(Options{Dir: dir, CacheBytes: 1, Fail: disktest.FailTest(t)})
	disktest.Must(t, err)
	return l
}

func TestAConversionThatWasInterruptedIsFinishedByTheNextStart(t *testing.T) {
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			dir := olderNode(t)
			want := boltTexts(t, dir)
			step(t, dir)
			wantRead(t, dir, len(want))
			l := openTestFile(t, dir, 1, disktest.FailTest(t))
			if got := entryTexts(t, l); !slices.Equal(got, want) {
				t.Errorf("%d entries, want %d", len(got), len(want))
			}
			_, last := l.Bounds()
			disktest.Must(t, errors.Join(l.StoreLogs(disktest.Entries(last+1, last+3, l.stable.Term())), l.Close()))
			wantConverted(t, dir)
			got, m := convertTestDir(t, dir)
			if len(got) != len(want)+3 || !slices.Equal(got[:len(want)], want) || m.Format != 2 {
				t.Errorf("the next start has %d entries, want %d and 3, and the record %+v", len(got), len(want), m)
			}
		})
	}
}

// wantRead makes sure that so many entries are read, and nothing is damaged.
func wantRead(t *testing.T, dir string, want int) {
	t.Helper()
	r, err := OpenReader(dir)
	disktest.Must(t, err)
	got := 0
	r.Entries(0, 1<<40, r.Record.Snapshot.Index, func(e Entry, err error) bool {
		if err != nil {
			t.Errorf("entry %d: %v", e.Index, err)
		}
		got++
		return true
	})
	if disktest.Must(t, errors.Join(r.Err, r.Close())); got != want {
		t.Errorf("%d entries are read, want %d", got, want)
	}
}

// A start that was killed twice is as good as one that was killed once.
func TestAConversionMayBeInterruptedAgain(t *testing.T) {
	dir := olderNode(t)
	want := boltTexts(t, dir)
	for _, name := range []string{"the copy was begun", "half of the entries were copied", "the copy is without a record", "the copy is without a record", "the record is written", "the log has its name"} {
		steps[name](t, dir)
	}
	if got, _ := convertTestDir(t, dir); !slices.Equal(got, want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
	wantConverted(t, dir)
}

// What was copied half is no log, even where nobody has looked at what it was a copy of.
func TestACopyWithoutARecordIsNoLog(t *testing.T) {
	dir := t.TempDir()
	segments, err := wal.Create(filepath.Join(dir, newLogDir), wal.Options{})
	disktest.Must(t, err)
	disktest.Must(t, errors.Join(segments.StoreLogs([]*raft.Log{sealedEntry(1, 1)}), segments.Close()))
	got, m := convertTestDir(t, dir)
	if id := segments.ID(); len(got) > 0 || m.Log == fmt.Sprintf("%x", id[:]) {
		t.Errorf("it has %d entries, and is %s", len(got), m.Log)
	}
	wantConverted(t, dir)
}

func TestALogThatTheRecordDoesNotNameIsDamage(t *testing.T) {
	other := olderNode(t)
	convertTestDir(t, other)
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { disktest.Must(t, os.RemoveAll(filepath.Join(dir, name))) }
	}
	const unknown = "raft.log, which the node's record does not know: it is another node's, or the raft.db beside it is an old copy"
	for name, c := range map[string]struct {
		of     func(*testing.T) string
		damage func(*testing.T, string)
		want   string
	}{
		"another node's log": {converted, func(t *testing.T, dir string) {
			remove(logDir)(t, dir)
			copied(other, logDir)(t, dir)
		}, "segment-000001 at offset 0: it is a segment of another log, "},
		"another node's log beside an older one": {olderNode, copied(other, logDir), unknown},
		"an old copy of raft.db":                 {converted, copied(olderNode(t), boltlog.Name), unknown},
		"a log without raft.db and a mark": {converted, func(t *testing.T, dir string) {
			for _, name := range []string{boltlog.Name, boltlog.Name + ".mark", boltlog.SnapshotsDir} {
				remove(name)(t, dir)
			}
		}, unknown},
		"no log": {converted, remove(logDir), "raft.log is missing"},
		"no log under its first name": {func(t *testing.T) string {
			dir := olderNode(t)
			steps["the record is written"](t, dir)
			return dir
		}, remove(newLogDir), "raft.log is missing"},
		"no segment": {converted, func(t *testing.T, dir string) {
			remove(logDir)(t, dir)
			disktest.Must(t, os.Mkdir(filepath.Join(dir, logDir), 0o700))
		}, "the log has no segment"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := c.of(t)
			c.damage(t, dir)
			before := disktest.Tree(t, dir)
			for range 2 { // the first attempt leaves nothing that helps the second
				_, err := Open(Options{Dir: dir, CacheBytes: 1, Fail: disktest.FailTest(t)})
				if !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want damage: %s", err, c.want)
				}
			}
			disktest.WantSameTree(t, dir, before)
			if exists(filepath.Join(dir, boltlog.Name)) {
				wantDamageRead(t, dir, c.want)
			}
		})
	}
}

// converted is a directory whose log is in segments.
func converted(t *testing.T) string {
	t.Helper()
	dir := olderNode(t)
	convertTestDir(t, dir)
	return dir
}

// copied puts a copy of a file or directory of another directory into one.
func copied(from, name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		files := map[string][]byte{}
		for path, content := range disktest.FilesIn(t, from) {
			if path == name || strings.HasPrefix(path, name+"/") {
				files[path] = content
			}
		}
		disktest.WriteFiles(t, dir, files)
	}
}

// wantDamageRead makes sure that a Reader says what a start says.
func wantDamageRead(t *testing.T, dir, want string) {
	t.Helper()
	r, err := OpenReader(dir)
	disktest.Must(t, err)
	said := []error{r.Err}
	r.Entries(0, 1<<40, r.Record.Snapshot.Index, func(_ Entry, err error) bool {
		said = append(said, err)
		return true
	})
	disktest.Must(t, r.Close())
	if err := errors.Join(said...); !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), want) {
		t.Errorf("a reader says %v, want %s", err, want)
	}
}

// Part of what the file of the record has beside it is where the log was before.
func TestAReaderFindsDamageToARaftDBWithoutEntries(t *testing.T) {
	dir := converted(t)
	path := filepath.Join(dir, boltlog.Name)
	content, err := os.ReadFile(path)
	disktest.Must(t, err)
	damaged := 0
	for page := 0; page < len(content); page += os.Getpagesize() {
		if !bytes.Contains(content[page:page+os.Getpagesize()], []byte("logs")) {
			continue // it does not name the buckets; of those that do, one is in use
		}
		flipped := slices.Clone(content)
		flipped[page+32] ^= 2 // the flags of the second bucket
		disktest.Must(t, os.WriteFile(path, flipped, 0o600))
		l, openErr := Open(Options{Dir: dir, CacheBytes: 1, Fail: disktest.FailTest(t)})
		if openErr == nil {
			disktest.Must(t, l.Close())
		}
		r, err := OpenReader(dir)
		disktest.Must(t, err)
		if errors.Is(openErr, errs.Damaged) {
			damaged++
			if r.Err == nil {
				t.Errorf("page at %d: a start says %v, and a reader nothing", page, openErr)
			}
		}
		disktest.Must(t, r.Close())
	}
	if damaged == 0 {
		t.Error("nothing was damaged")
	}
}

// A log that no record names any more names itself.
func TestAReaderReadsALogWithoutItsRecord(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"no raft.db":       os.Remove,
		"an empty raft.db": func(path string) error { return os.Truncate(path, 0) },
		"half a raft.db":   func(path string) error { return os.Truncate(path, 100) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := olderNode(t)
			want := boltTexts(t, dir)
			convertTestDir(t, dir)
			disktest.Must(t, damage(filepath.Join(dir, boltlog.Name)))
			r, err := OpenReader(dir)
			disktest.Must(t, err)
			defer r.Close()
			got := 0
			r.Entries(0, 1<<40, 7, func(e Entry, err error) bool {
				if err == nil {
					got++
				}
				return true
			})
			if !errors.Is(r.Err, errs.Damaged) || got != len(want) {
				t.Errorf("%v, and %d entries of %d", r.Err, got, len(want))
			}
		})
	}
}

func TestAStoreWhoseRecordNamesALogInSegmentsIsRefused(t *testing.T) {
	record, err := Record{Format: recordFormat, ID: "n1", Log: "00"}.Encode()
	disktest.Must(t, err)
	store := raft.NewInmemStore()
	disktest.Must(t, store.Set(boltlog.RecordKey, record))
	if _, err := Open(Options{Store: store, Fail: disktest.FailTest(t)}); !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "a log of its own") {
		t.Errorf("got %v", err)
	}
}

// The remedy of damage is to remove the data, of a newer version to start it.
func TestASegmentOfANewerVersionIsNotDamageToAReader(t *testing.T) {
	dir := converted(t)
	path := filepath.Join(dir, logDir, "segment-000001")
	content, err := os.ReadFile(path)
	disktest.Must(t, err)
	content[11]++ // the format
	binary.BigEndian.PutUint32(content[52:], crc32.Checksum(content[:52], castagnoli))
	disktest.Must(t, os.WriteFile(path, content, 0o600))
	if _, err := Open(Options{Dir: dir, CacheBytes: 1, Fail: disktest.FailTest(t)}); !errors.Is(err, errs.Newer) || errors.Is(err, errs.Damaged) {
		t.Errorf("a start says %v", err)
	}
	r, err := OpenReader(dir)
	disktest.Must(t, err)
	found := 0
	r.Entries(0, 1<<40, r.Record.Snapshot.Index, func(e Entry, err error) bool {
		if found++; !errors.Is(err, errs.Newer) || errors.Is(err, errs.Damaged) {
			t.Errorf("entry %d: %v", e.Index, err)
		}
		return true
	})
	if disktest.Must(t, errors.Join(r.Err, r.Close())); found != 1 {
		t.Errorf("%d places are named", found)
	}
}

// deletions counts those of an engine.
type deletions struct {
	engine
	made int
}

func (d *deletions) DeleteRange(from, to uint64) error {
	d.made++
	return d.engine.DeleteRange(from, to)
}

func TestADeletionInSegmentsIsOneWrite(t *testing.T) {
	const n = 3*deleteChunk + 7
	for name, c := range map[string]struct{ from, to, first, last uint64 }{
		"prefix": {1, n - 5, n - 4, n},
		"suffix": {6, n, 1, 5},
		"all":    {1, n, 0, 0},
	} {
		l := openTestFile(t, t.TempDir(), 1, disktest.FailTest(t))
		disktest.Must(t, l.StoreLogs(disktest.Entries(1, n, 0)))
		counted := &deletions{engine: l.base}
		l.base = counted
		disktest.Must(t, l.DeleteRange(c.from, c.to))
		if first, last := l.Bounds(); first != c.first || last != c.last || counted.made != 1 {
			t.Errorf("%s: %d deletions, and the log is from %d to %d", name, counted.made, first, last)
		}
		disktest.Must(t, l.Close())
	}
}
