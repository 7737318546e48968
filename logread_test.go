package kvraft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/disktest"
	"go.etcd.io/bbolt"
)

// everything is what OpenLog finds in a directory.
type everything struct {
	log     *Log
	entries map[uint64]string // those without damage
	damage  []string

	// lastDamage is the highest index at which there is an error; 0: at none.
	lastDamage uint64
}

// entryText is what tells an entry that was read from any other.
func entryText(e LogEntry) string {
	return fmt.Sprintf("%d %s %d %08x", e.Term, e.Type, e.Size, e.Checksum)
}

// readEverything reads dir, and makes sure that nothing there changes.
func readEverything(t *testing.T, dir string) everything {
	t.Helper()
	before := disktest.FilesIn(t, dir)
	l, err := OpenLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := everything{log: l, entries: map[uint64]string{}}
	found := func(err error) {
		if err == nil {
			return
		}
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("not an ErrDamaged: %v", err)
		}
		all.damage = append(all.damage, strings.ReplaceAll(err.Error(), dir, "DIR"))
	}
	found(l.Err)
	for _, s := range l.Snapshots {
		found(s.Err)
	}
	for e, err := range l.Entries(0, math.MaxUint64) {
		if found(err); err == nil {
			all.entries[e.Index] = entryText(e)
		} else {
			all.lastDamage = max(all.lastDamage, e.Index)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	after := disktest.FilesIn(t, dir)
	if !maps.EqualFunc(before, after, bytes.Equal) {
		t.Errorf("files were changed: there are %q", slices.Sorted(maps.Keys(after)))
	}
	return all
}

// editBolt changes a raft.db as bbolt does it, so that its structure stays whole.
func editBolt(t *testing.T, dir string, edit func(conf, logs *bbolt.Bucket) error) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "raft.db"), 0o600, &bbolt.Options{NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return edit(tx.Bucket([]byte("conf")), tx.Bucket([]byte("logs"))) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func logKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

// withChecksum gives an entry its checksum.
func withChecksum(entry *raft.Log) *raft.Log {
	entry.Extensions = binary.BigEndian.AppendUint32([]byte{0xC5}, disk.SampleOf(entry).Sum)
	return entry
}

// storeRaw stores an entry past all that kvraft checks.
func storeRaw(t *testing.T, dir string, entry *raft.Log) {
	t.Helper()
	base, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(base.StoreLog(entry), base.Close()); err != nil {
		t.Fatal(err)
	}
}

func editRecord(t *testing.T, dir string, edit func(*disk.Record)) {
	t.Helper()
	editBolt(t, dir, func(conf, _ *bbolt.Bucket) error {
		m, err := disk.DecodeRecord(conf.Get(boltlog.RecordKey))
		if err != nil {
			return err
		}
		edit(&m)
		stored, err := m.Encode()
		if err != nil {
			return err
		}
		return conf.Put(boltlog.RecordKey, stored)
	})
}

// leaf is a page of entries, at an offset of the file.
type leaf struct {
	at          int
	first, last uint64
}

// leafOf returns the page of the raft.db in dir that has the entry at index.
func leafOf(t *testing.T, dir string, index uint64) (found leaf) {
	t.Helper()
	path := filepath.Join(dir, "raft.db")
	content := disktest.FilesIn(t, dir)["raft.db"]
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		for id := 0; found.last == 0; id++ {
			page, err := tx.Page(id)
			if err != nil || page == nil {
				return fmt.Errorf("entry %d is in no page: %w", index, err)
			}
			if page.Type == "free" {
				continue
			}
			at := id * os.Getpagesize()
			id += page.OverflowCount
			if page.Type != "leaf" {
				continue
			}
			key := func(i int) []byte { // of an element: flags, where its key is, the length of that
				element := at + 16 + 16*i
				start := element + int(binary.NativeEndian.Uint32(content[element+4:]))
				return content[start : start+int(binary.NativeEndian.Uint32(content[element+8:]))]
			}
			first, last := key(0), key(page.Count-1)
			if len(first) == 8 && bytes.Compare(first, logKey(index)) <= 0 && bytes.Compare(logKey(index), last) <= 0 {
				found = leaf{at, binary.BigEndian.Uint64(first), binary.BigEndian.Uint64(last)}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// damageCase is damage to a directory, and what becomes of it.
type damageCase struct {
	damage func(t *testing.T, dir string)
	want   []string // what is said, in this order; whole, if it begins as an error does
	lost   int      // entries that are not read, or not without an error
}

// testDamage has damage done to copies of the directory whole.
func testDamage(t *testing.T, whole string, cases map[string]damageCase) {
	t.Helper()
	files, entries := disktest.FilesIn(t, whole), readEverything(t, whole).entries
	for what, c := range cases {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			disktest.WriteFiles(t, dir, files)
			c.damage(t, dir)
			got := readEverything(t, dir)
			if len(got.damage) != len(c.want) {
				t.Fatalf("damage %q, want %q", got.damage, c.want)
			}
			for i, text := range c.want {
				whole := strings.HasPrefix(text, "kvraft: ")
				if !strings.Contains(got.damage[i], text) || whole && got.damage[i] != text {
					t.Errorf("damage %q, want %q", got.damage[i], text)
				}
			}
			if n := len(entries) - len(got.entries); n != c.lost {
				t.Errorf("%d entries are not read, want %d", n, c.lost)
			}
			if _, err := contentsOf(dir); errors.Is(err, ErrDamaged) != (len(c.want) > 0) {
				t.Errorf("a node that starts: %v", err)
			}
		})
	}
}

// overwritten writes over a file, from an offset on.
func overwritten(name string, at int, with string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		data := disktest.FilesIn(t, dir)[name]
		copy(data[at:], with)
		disktest.WriteFiles(t, dir, map[string][]byte{name: data})
	}
}

func removed(names ...string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		for _, name := range names {
			disktest.Must(t, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
}

// wholeTestDir is a directory as fillTestDir makes it, closed in order, with the number of
// its entries and the last one.
func wholeTestDir(t *testing.T) (dir string, count int, last uint64) {
	t.Helper()
	dir = t.TempDir()
	fillTestDir(t, dir, true)
	all := readEverything(t, dir)
	count, last = len(all.entries), slices.Max(slices.Collect(maps.Keys(all.entries)))
	if len(all.damage) > 0 || count < 300 {
		t.Fatalf("%d entries, %q", count, all.damage)
	}
	return dir, count, last
}

// The directory is one of an older version, whose log is in raft.db. It has a snapshot that
// ends at entry 200 and the entries from 121 on.
func TestWhatIsDamagedOfALogInOneFileIsNamedAndTheRestIsRead(t *testing.T) {
	whole, count, last := wholeTestDir(t)
	moveLogToBolt(t, whole)
	middle, end := leafOf(t, whole, 300), leafOf(t, whole, last)
	deleteEntries := func(from, to uint64) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			editBolt(t, dir, func(_, logs *bbolt.Bucket) (err error) {
				for i := from; i <= to; i++ {
					err = errors.Join(err, logs.Delete(logKey(i)))
				}
				return err
			})
		}
	}
	testDamage(t, whole, map[string]damageCase{
		"an entry's data": {func(t *testing.T, dir string) {
			editBolt(t, dir, func(_, logs *bbolt.Bucket) error {
				value := bytes.Clone(logs.Get(logKey(250)))
				value[bytes.Index(value, []byte("command"))] ^= 1
				return logs.Put(logKey(250), value)
			})
		}, []string{"entry 250 does not match its checksum"}, 1},
		"an entry's encoding": {func(t *testing.T, dir string) {
			editBolt(t, dir, func(_, logs *bbolt.Bucket) error { return logs.Put(logKey(250), []byte("\xff\xff")) })
		}, []string{"read entry 250: "}, 1},
		"another entry in its place": {func(t *testing.T, dir string) {
			editBolt(t, dir, func(_, logs *bbolt.Bucket) error {
				return logs.Put(logKey(250), bytes.Clone(logs.Get(logKey(251))))
			})
		}, []string{"entry 251 is stored where entry 250 belongs"}, 1},
		"no checksum": {func(t *testing.T, dir string) {
			storeRaw(t, dir, &raft.Log{Index: 250, Term: 3, Data: []byte("x")})
		}, []string{"entry 250 has no checksum"}, 1},
		"no checksum, from before the take-over": {func(t *testing.T, dir string) {
			storeRaw(t, dir, &raft.Log{Index: 250, Term: 3, Data: []byte(`{"op":"set","key":"k","value":"v"}`)})
			editRecord(t, dir, func(m *disk.Record) { m.ChecksummedFrom = 251 })
		}, nil, 0},
		"no checksum, and nothing that hraftd writes": {func(t *testing.T, dir string) {
			storeRaw(t, dir, &raft.Log{Index: 250, Term: 3, Data: []byte("x")})
			editRecord(t, dir, func(m *disk.Record) { m.ChecksummedFrom = 251 })
		}, []string{"entry 250: decode log entry of hraftd"}, 1},
		"a term that goes back": {func(t *testing.T, dir string) {
			storeRaw(t, dir, withChecksum(&raft.Log{Index: 250, Term: 2}))
		}, []string{"entry 250 is of term 2, between ones of term 3 and the node's term 3"}, 1},
		"a term that the node has not heard of": {func(t *testing.T, dir string) {
			editRecord(t, dir, func(m *disk.Record) { m.Raft["CurrentTerm"][7] = 2 })
		}, slices.Repeat([]string{"is of term 3, between ones of term"}, count), count},
		"a hole":         {deleteEntries(250, 252), []string{"entries 250 to 252: missing"}, 3},
		"an entry less":  {deleteEntries(250, 250), []string{"entry 250: missing"}, 1},
		"the last ones":  {deleteEntries(last-10, last), []string{fmt.Sprintf("the log ends at entry %d, but entries up to %d were stored", last-11, last)}, 11},
		"all entries":    {deleteEntries(121, last), []string{fmt.Sprintf("the log ends at entry 0, but entries up to %d were stored", last)}, count},
		"the first ones": {deleteEntries(121, 205), []string{"the log starts at entry 206, the newest snapshot ends at 200"}, 85},
		"a page":         {overwritten("raft.db", middle.at, "garbage!"), []string{fmt.Sprintf("entries %d to %d: page %d: ", middle.first, middle.last, middle.at/os.Getpagesize())}, int(middle.last + 1 - middle.first)},
		"the last page":  {overwritten("raft.db", end.at, "garbage!"), []string{fmt.Sprintf("entries from %d on: page ", end.first)}, int(last + 1 - end.first)},
		"meta page 0":    {overwritten("raft.db", 0, strings.Repeat("\x00", 512)), []string{"raft.db: kvraft: damaged data: meta page 0: "}, 0},
		"meta page 1":    {overwritten("raft.db", os.Getpagesize(), strings.Repeat("\x00", 512)), []string{"raft.db: kvraft: damaged data: meta page 1: "}, 0},
		"garbage":        {overwritten("raft.db", 0, strings.Repeat("garbage!", 4096)), []string{"raft.db: kvraft: damaged data: "}, count},
		"an empty file":  {func(t *testing.T, dir string) { disktest.WriteFiles(t, dir, map[string][]byte{"raft.db": nil}) }, []string{"raft.db: kvraft: damaged data: the file is empty"}, count},
		"no raft.db":     {removed("raft.db"), []string{"raft.db: kvraft: damaged data: it is missing, but there is DIR/raft.db.mark"}, count},
		"no raft.db, nor its mark": {func(t *testing.T, dir string) {
			removed("raft.db", "raft.db.mark")(t, dir)
		}, []string{"raft.db: kvraft: damaged data: it is missing, but there is DIR/snapshots/"}, count},
		"the record": {func(t *testing.T, dir string) {
			editBolt(t, dir, func(conf, _ *bbolt.Bucket) error {
				record := bytes.Clone(conf.Get(boltlog.RecordKey))
				record[20] ^= 1
				return conf.Put(boltlog.RecordKey, record)
			})
		}, []string{"raft.db: kvraft: damaged data: the node's record does not match its checksum"}, 0},
		"a key that nobody writes": {func(t *testing.T, dir string) {
			editBolt(t, dir, func(conf, _ *bbolt.Bucket) error { return conf.Put([]byte("zzz"), []byte("x")) })
		}, []string{`raft.db: kvraft: damaged data: read the node's record: bucket "conf": unknown key "zzz"`}, 0},
	})
}

// The same for a log in segments. What is wrong with a segment as a whole is said where it
// belongs.
func TestWhatIsDamagedOfALogInSegmentsIsNamedAndTheRestIsRead(t *testing.T) {
	whole, count, last := wholeTestDir(t)
	files := disktest.FilesIn(t, whole)
	snapshot := filepath.Join("snapshots", readEverything(t, whole).log.Snapshots[0].ID)
	s, at, f := segmentWith(t, whole, 250)
	segments := segmentsIn(t, whole)
	lastSegment, _, lastFrame := segmentWith(t, whole, last)
	name, firstName := filepath.Base(s.name), filepath.Base(slices.MinFunc(segments, func(a, b segmentFile) int { return strings.Compare(a.name, b.name) }).name)
	inSegment := int(s.last() + 1 - s.first())
	inLast := int(last + 1 - lastSegment.first())
	other, _, _ := wholeTestDir(t)

	const damaged = "kvraft: damaged data: "
	notEntry := func(index uint64, at int) string {
		return fmt.Sprintf(damaged+"%s at offset %d: entry %d does not match its checksum", name, at, index)
	}
	lostFrom := func(index uint64, why string, at int) string { // to the end of the frame
		return fmt.Sprintf(damaged+"entries %d to %d: "+damaged+"%s at offset %d: %s", index, f.last(), name, at, why)
	}
	lost := func(text string) string { // in place of the segment
		return fmt.Sprintf(damaged+"entries %d to %d: "+damaged+"%s", s.first(), s.last(), text)
	}
	before := func(text string) string { // the segment, which is read
		return fmt.Sprintf(damaged+"entry %d: "+damaged+"%s", s.first(), text)
	}
	endsEarly := fmt.Sprintf(damaged+"the log ends at entry %d, but entries up to %d were stored", lastSegment.first()-1, last)
	edited := func(edit func([]*raft.Log) []*raft.Log) func(*testing.T, string) {
		return func(t *testing.T, dir string) { editLog(t, dir, edit) }
	}
	replaced := func(index uint64, by *raft.Log) func(*testing.T, string) {
		return edited(func(entries []*raft.Log) []*raft.Log {
			entries[index-121] = by
			return entries
		})
	}
	testDamage(t, whole, map[string]damageCase{
		"an entry's data":   {overwritten(s.name, at+40, "?"), []string{notEntry(250, at)}, 1},
		"an entry's length": {overwritten(s.name, at, "\xff"), []string{lostFrom(250, "entry 250 has an impossible length, 4278190316", at)}, int(f.last() - 249)},
		"another entry in its place": {func(t *testing.T, dir string) {
			next, _ := s.record(251)
			overwritten(s.name, at, string(s.content[next:next+100]))(t, dir)
		}, []string{notEntry(250, at), lostFrom(251, "entry 251 has an impossible length, 1668246893", at+181)}, int(f.last() - 249)},
		"the beginning of a frame":                      {overwritten(s.name, f.at+20, "?"), []string{lostFrom(f.index, "the beginning of a frame does not match its checksum, and others follow it", f.at)}, int(f.count)},
		"the beginning of a frame, and its first entry": {overwritten(s.name, f.at, strings.Repeat("?", 100)), []string{lostFrom(f.index, "the beginning of a frame does not match its checksum, and others follow it", f.at)}, int(f.count)},
		"the end of a frame":                            {overwritten(s.name, f.at+f.length-markLength, strings.Repeat("?", markLength)), nil, 0},
		"both ends of a frame": {func(t *testing.T, dir string) {
			overwritten(s.name, f.at, "?")(t, dir)
			overwritten(s.name, f.at+f.length-markLength, "?")(t, dir)
		}, []string{lostFrom(f.index, "the beginning of a frame does not match its checksum, and others follow it", f.at)}, int(f.count)},
		"the newest frame with entries": {overwritten(lastSegment.name, lastFrame.at, "?"), []string{fmt.Sprintf(damaged+"entries from %d on: "+damaged+"%s at offset %d: the beginning of a frame does not match its checksum, and others follow it", lastFrame.index, filepath.Base(lastSegment.name), lastFrame.at)}, int(lastFrame.count)},
		"a segment's header":            {overwritten(s.name, 20, "garbage!"), []string{lost(name + " at offset 0: its header does not match its checksum")}, inSegment},
		"garbage in place of a segment": {overwritten(s.name, 0, strings.Repeat("garbage!", 2048)), []string{lost(name + " at offset 0: its header does not match its checksum")}, inSegment},
		"zeros in place of a segment":   {overwritten(s.name, 0, strings.Repeat("\x00", 16384)), []string{lost(name + " at offset 0: its header does not match its checksum")}, inSegment},
		"an empty segment":              {func(t *testing.T, dir string) { disktest.WriteFiles(t, dir, map[string][]byte{s.name: nil}) }, []string{lost(name + " at offset 0: read its header: EOF")}, inSegment},
		"half a segment's header":       {func(t *testing.T, dir string) { disktest.Must(t, os.Truncate(filepath.Join(dir, s.name), 30)) }, []string{lost(name + " at offset 0: read its header: EOF")}, inSegment},
		"a segment cut short behind its frames": {func(t *testing.T, dir string) {
			disktest.Must(t, os.Truncate(filepath.Join(dir, s.name), int64(s.end)))
		}, []string{before(fmt.Sprintf("%s at offset %d: it is cut short, to %d bytes of 16384", name, s.end, s.end))}, 0},
		"a segment cut short within a frame": {func(t *testing.T, dir string) {
			disktest.Must(t, os.Truncate(filepath.Join(dir, s.name), int64(at+10)))
		}, []string{before(fmt.Sprintf("%s at offset %d: it is cut short, to %d bytes of 16384", name, at+10, at+10)), fmt.Sprintf(damaged+"entries %d to %d: %s at offset %d: a frame of %d bytes has no room there", f.index, s.last(), name, f.at, f.length)}, int(s.last() + 1 - f.index)},
		"a segment missing in the middle":         {removed(s.name), []string{lost("between segment-000011 and segment-000013 the log lacks 1 segments")}, inSegment},
		"the spare segment missing":               {removed(segments[len(segments)-1].name), nil, 0},
		"the newest segment with entries missing": {removed(lastSegment.name), []string{fmt.Sprintf(damaged+"entries from %d on: "+damaged+"between segment-000001 and segment-000003 the log lacks 1 segments", lastSegment.first())}, inLast},
		"the last two segments missing":           {removed(segments[len(segments)-2].name, segments[len(segments)-1].name), []string{endsEarly}, inLast},
		"a segment of another log": {func(t *testing.T, dir string) {
			foreign, _, _ := segmentWith(t, other, 250)
			disktest.WriteFiles(t, dir, map[string][]byte{s.name: foreign.content})
		}, []string{lost(fmt.Sprintf("%s at offset 0: it is a segment of another log, %x", name, logID(t, other)))}, inSegment},
		"a segment that is there twice": {func(t *testing.T, dir string) {
			disktest.WriteFiles(t, dir, map[string][]byte{"raft.log/segment-999999": s.content})
		}, []string{before(fmt.Sprintf("segment-999999 at offset 0: it is segment 12 of the log, and so is %s", name))}, 0},
		"an empty raft.log": {func(t *testing.T, dir string) {
			removed("raft.log")(t, dir)
			disktest.Must(t, os.Mkdir(filepath.Join(dir, "raft.log"), 0o700))
		}, []string{damaged + "entries from 1 on: " + damaged + "the log has no segment"}, count},
		"no raft.log": {removed("raft.log"), []string{damaged + "entries from 1 on: " + damaged + "DIR/raft.log is missing"}, count},
		"a raft.log that the record does not know": {func(t *testing.T, dir string) {
			editRecord(t, dir, func(m *disk.Record) { m.Log, m.Format = "", 1 })
		}, []string{"DIR/raft.db: " + damaged + "there is DIR/raft.log, which the node's record does not know: it is another node's, or the raft.db beside it is an old copy", fmt.Sprintf(damaged+"the log ends at entry 0, but entries up to %d were stored", last)}, count},
		"another node's raft.log": {func(t *testing.T, dir string) {
			editRecord(t, dir, func(m *disk.Record) { m.Log = "00112233445566778899aabbccddeeff" })
		}, []string{fmt.Sprintf(damaged+"entries from 1 on: "+damaged+"%s at offset 0: it is a segment of another log, %x", firstName, logID(t, whole))}, count},
		"a raft.log with an impossible name": {func(t *testing.T, dir string) {
			editRecord(t, dir, func(m *disk.Record) { m.Log = "0011" })
		}, []string{damaged + "entries from 1 on: " + damaged + `the node's record names a log "0011"`}, count},
		"an entry that was changed before it was stored": {replaced(250, &raft.Log{Index: 250, Term: 3, Data: []byte("x"), Extensions: []byte{0xC5, 1, 2, 3, 4}}), []string{damaged + "entry 250 does not match its checksum"}, 1},
		"no checksum": {replaced(250, &raft.Log{Index: 250, Term: 3, Data: []byte("x")}), []string{"entry 250 has no checksum"}, 1},
		"no checksum, from before the take-over": {func(t *testing.T, dir string) {
			replaced(250, &raft.Log{Index: 250, Term: 3, Data: []byte(`{"op":"set","key":"k","value":"v"}`)})(t, dir)
			editRecord(t, dir, func(m *disk.Record) { m.ChecksummedFrom = 251 })
		}, nil, 0},
		"no checksum, and nothing that hraftd writes": {func(t *testing.T, dir string) {
			replaced(250, &raft.Log{Index: 250, Term: 3, Data: []byte("x")})(t, dir)
			editRecord(t, dir, func(m *disk.Record) { m.ChecksummedFrom = 251 })
		}, []string{"entry 250: decode log entry of hraftd"}, 1},
		"a term that goes back": {replaced(250, withChecksum(&raft.Log{Index: 250, Term: 2})), []string{"entry 250 is of term 2, between ones of term 3 and the node's term 3"}, 1},
		"a term that the node has not heard of": {func(t *testing.T, dir string) {
			editRecord(t, dir, func(m *disk.Record) { m.Raft["CurrentTerm"][7] = 2 })
		}, slices.Repeat([]string{"is of term 3, between ones of term"}, count), count},
		"the last ones":         {edited(func(entries []*raft.Log) []*raft.Log { return entries[:last-11-120] }), []string{fmt.Sprintf("the log ends at entry %d, but entries up to %d were stored", last-11, last)}, 11},
		"all entries":           {edited(func([]*raft.Log) []*raft.Log { return nil }), []string{fmt.Sprintf("the log ends at entry 0, but entries up to %d were stored", last)}, count},
		"the first ones":        {edited(func(entries []*raft.Log) []*raft.Log { return entries[206-121:] }), []string{"the log starts at entry 206, the newest snapshot ends at 200"}, 85},
		"a page of the raft.db": {overwritten("raft.db", 2*os.Getpagesize(), strings.Repeat("garbage!", 3*512)), []string{"says that it is page 2406443243860549991"}, 0},
		"meta page 0":           {overwritten("raft.db", 0, strings.Repeat("\x00", 512)), []string{"raft.db: kvraft: damaged data: meta page 0: "}, 0},
		"meta page 1":           {overwritten("raft.db", os.Getpagesize(), strings.Repeat("\x00", 512)), []string{"raft.db: kvraft: damaged data: meta page 1: "}, 0},
		"garbage":               {overwritten("raft.db", 0, strings.Repeat("garbage!", 4096)), []string{"raft.db: kvraft: damaged data: "}, 0},
		"an empty file":         {func(t *testing.T, dir string) { disktest.WriteFiles(t, dir, map[string][]byte{"raft.db": nil}) }, []string{"raft.db: kvraft: damaged data: the file is empty"}, 0},
		"no raft.db":            {removed("raft.db"), []string{"raft.db: kvraft: damaged data: it is missing, but there is DIR/raft.db.mark"}, 0},
		"the record": {func(t *testing.T, dir string) {
			editBolt(t, dir, spoilRecord)
		}, []string{"raft.db: kvraft: damaged data: the node's record does not match its checksum"}, 0},
		"a key that nobody writes": {func(t *testing.T, dir string) {
			editBolt(t, dir, func(conf, _ *bbolt.Bucket) error { return conf.Put([]byte("zzz"), []byte("x")) })
		}, []string{`raft.db: kvraft: damaged data: read the node's record: bucket "conf": unknown key "zzz"`}, 0},
		"a snapshot's state":  {overwritten(filepath.Join(snapshot, "state.bin"), 100, "garbage!"), []string{"snapshot DIR/" + snapshot + ": "}, 0},
		"a snapshot's header": {overwritten(filepath.Join(snapshot, "meta.json"), 0, "garbage!"), []string{"snapshot DIR/" + snapshot + ": meta.json: "}, 0},
		"another snapshot":    {overwritten(filepath.Join(snapshot, "meta.json"), bytes.Index(files[filepath.Join(snapshot, "meta.json")], []byte("10.0.0.1")), "10.0.0.2"), []string{"not what was completed here under that name"}, 0},
		"no snapshot":         {removed("snapshots"), []string{"snapshot " + filepath.Base(snapshot) + " is missing, but this node completed it"}, 0},
	})
}

func TestEntriesKeepsToItsBounds(t *testing.T) {
	for name, make := range map[string]func(*testing.T) string{
		"segments": func(t *testing.T) string {
			dir, _, _ := wholeTestDir(t)
			s, at, f := segmentWith(t, dir, 250)
			if f.last() != 252 {
				t.Fatalf("the frame of entry 250 ends with entry %d", f.last())
			}
			overwritten(s.name, at, "\xff")(t, dir) // its length: what follows it in the frame is not found
			return dir
		},
		"raft.db": func(t *testing.T) string {
			dir, _, _ := wholeTestDir(t)
			moveLogToBolt(t, dir)
			editBolt(t, dir, func(_, logs *bbolt.Bucket) error {
				return errors.Join(logs.Delete(logKey(250)), logs.Delete(logKey(251)), logs.Delete(logKey(252)))
			})
			return dir
		},
	} {
		t.Run(name, func(t *testing.T) { testBounds(t, make(t)) })
	}
}

// testBounds reads parts of a log of which the entries 250 to 252 cannot be read.
func testBounds(t *testing.T, dir string) {
	l, err := OpenLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for bounds, want := range map[[2]uint64]string{
		{0, 122}:                         "121 122",
		{130, 132}:                       "130 131 132",
		{248, 249}:                       "248 249",
		{249, 250}:                       "249 250!",
		{251, 251}:                       "251!",
		{252, 253}:                       "252! 253",
		{253, 254}:                       "253 254",
		{1 << 40, math.MaxUint64}:        "",
		{math.MaxUint64, math.MaxUint64}: "",
	} {
		var got []string
		for e, err := range l.Entries(bounds[0], bounds[1]) {
			text := fmt.Sprint(e.Index)
			if err != nil {
				text += "!"
			}
			got = append(got, text)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%d to %d: %q, want %q", bounds[0], bounds[1], got, want)
		}
	}
	for range l.Entries(0, math.MaxUint64) {
		break // the caller may stop anywhere
	}
}

func TestALogTellsWhatANodeHasDone(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Open(dir, WithID("n1"), WithAddr("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	id := RequestID{name: "mine"}
	_, err = s.Set(ctx, "color", []byte("green"), IfVersion(0), WithRequestID(id))
	if err == nil {
		_, err = s.Batch(ctx, SetOp("a", []byte{0xff}), DeleteOp("b"))
	}
	if err == nil {
		err = s.TakeSnapshot()
	}
	if err == nil {
		err = s.members.WriteNote("replica/n2", "1")
	}
	st := s.Status()
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}

	l, err := OpenLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, identity, _ := strings.Cut(string(s.node.Server), "#")
	want := LogNode{ID: "n1", Identity: identity, Cluster: st.Cluster, Term: st.Term, VotedTerm: st.Term, VotedFor: st.Addr}
	if l.Err != nil || l.Node != want {
		t.Errorf("%+v, %v; want %+v", l.Node, l.Err, want)
	}
	self := []LogMember{{"n1", identity, st.Addr, true}}
	if len(l.Snapshots) != 1 {
		t.Fatalf("%d snapshots", len(l.Snapshots))
	}
	head := l.Snapshots[0]
	if head.Err != nil || head.Cluster != st.Cluster || head.Term != st.Term || head.Version != 2 || head.Keys != 2 || head.Requests < 2 || head.Size == 0 || !slices.Equal(head.Members, self) {
		t.Errorf("%+v", head)
	}
	var types []string
	ops := map[string]LogRequest{}
	for e, err := range l.Entries(0, math.MaxUint64) {
		if err != nil || e.Unknown != nil || !e.Checksummed {
			t.Errorf("%+v, %v", e, err)
		}
		types = append(types, e.Type)
		if e.Type == "configuration" && !slices.Equal(e.Members, self) {
			t.Errorf("%+v", e.Members)
		}
		for _, r := range e.Requests {
			text := ""
			for _, op := range r.Ops {
				text += fmt.Sprintf("%s %s %q %d;", op.Kind, op.Key, op.Value, op.Version)
			}
			ops[text] = r
		}
	}
	if types[0] != "configuration" || types[1] != "noop" {
		t.Errorf("%q", types)
	}
	for _, want := range []string{`set color "green" 0;check color "" 0;`, `set a "\xff" 0;delete b "" 0;`, `note replica/n2 "1" 0;`} {
		if r, ok := ops[want]; !ok || r.ID == [16]byte{} {
			t.Errorf("%s is not there, or has no id: %v", want, ops)
		}
	}
}

func TestALogIsOpenedOnlyWhereAStoppedNodeIs(t *testing.T) {
	running, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	s, err := Open(running, WithAddr("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = OpenLog(running)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "in use by another process, or by another store in this one") {
		t.Errorf("a running node: %v", err)
	}
	empty := t.TempDir()
	for what, dir := range map[string]string{"empty": empty, "absent": filepath.Join(empty, "absent")} {
		if _, err := OpenLog(dir); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(disktest.FilesIn(t, empty)) > 0 {
		t.Error("something was made")
	}
	if _, err := OpenLog(file); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a file: %v", err)
	}
}

func TestANodeDoesNotStartWhileItsLogIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	fillTestDir(t, dir, true)
	l, err := OpenLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, WithAddr("127.0.0.1:0")); !errors.Is(err, ErrLocked) {
		t.Errorf("err = %v, want ErrLocked", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := contentsOf(dir); err != nil {
		t.Error(err)
	}
}

// What hraftd has left is read before it is taken over; what it cannot have written is
// named.
func TestALogOfHraftdsIsRead(t *testing.T) {
	dir := t.TempDir()
	base, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(base.SetUint64([]byte("CurrentTerm"), 2), base.StoreLogs([]*raft.Log{
		{Index: 1, Term: 1, Data: []byte(`{"op":"set","key":"user1","value":"batman"}`)},
		{Index: 2, Term: 2, Data: []byte("?what")},
	}), base.Close())
	if err != nil {
		t.Fatal(err)
	}
	l, err := OpenLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Err != nil || l.Node != (LogNode{Term: 2}) {
		t.Errorf("node %+v, err = %v", l.Node, l.Err)
	}
	for e, err := range l.Entries(1, math.MaxUint64) {
		switch {
		case e.Checksummed || e.Type != "command":
			t.Errorf("%+v", e)
		case e.Index == 1:
			if op := e.Requests[0].Ops[0]; err != nil || op.Kind != "set" || op.Key != "user1" || string(op.Value) != "batman" {
				t.Errorf("%+v, %v", e, err)
			}
		case !errors.Is(err, ErrDamaged) || e.Unknown == nil:
			t.Errorf("%+v, %v", e, err)
		}
	}
}
