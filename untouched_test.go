package kvraft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/disktest"
	"go.etcd.io/bbolt"
)

// leaveUnfinished leaves in dir what a node leaves that was killed at its first start, and
// in a snapshot, or as it copied the log of an older version. Every start that goes on removes it.
func leaveUnfinished(t *testing.T, dir string) {
	t.Helper()
	left := map[string][]byte{
		"raft.db.ABC.new":               []byte("half a file"),
		"snapshots/9-9-9.tmp/state.bin": []byte("half a state"),
		"raft.log.new/segment-000001":   []byte("half a segment"),
	}
	if _, err := os.Stat(filepath.Join(dir, "raft.log")); err == nil { // it is not copied twice
		delete(left, "raft.log.new/segment-000001")
		left["raft.log/segment.new"] = []byte("half a segment")
	}
	disktest.WriteFiles(t, dir, left)
}

const (
	ourFixture      = "formats/node"   // of an older version, whose log is in raft.db
	segmentsFixture = "formats/node-2" // with a log in segments
	fixtureSnapshot = "snapshots/2-7-1795769191947"
)

// edited is a copy of a node's directory, with an edit, that was killed.
func edited(edit func(t *testing.T, dir string)) func(*testing.T) string {
	return editedCopy(ourFixture, edit)
}

// inSegments is edited for a node whose log is in segments.
func inSegments(edit func(t *testing.T, dir string)) func(*testing.T) string {
	return editedCopy(segmentsFixture, edit)
}

func editedCopy(fixture string, edit func(t *testing.T, dir string)) func(*testing.T) string {
	return func(t *testing.T) string {
		dir := disktest.CopyOf(t, "testdata", fixture)
		leaveUnfinished(t, dir)
		edit(t, dir)
		return dir
	}
}

// newerSegment makes a segment one of the format of a newer version.
func newerSegment(t *testing.T, dir string) {
	path := filepath.Join(dir, "raft.log", "segment-000001")
	content, err := os.ReadFile(path)
	disktest.Must(t, err)
	binary.BigEndian.PutUint32(content[8:], 99)
	binary.BigEndian.PutUint32(content[segmentHead-4:], crc32.Checksum(content[:segmentHead-4], crc32c))
	disktest.Must(t, os.WriteFile(path, content, 0o600))
}

func hraftds(id string) func(*testing.T) string {
	return func(t *testing.T) string {
		dir := disktest.CopyOf(t, "testdata", "hraftd/"+id)
		leaveUnfinished(t, dir)
		return dir
	}
}

// A directory may be another program's, or a node's whose damage somebody is to look at.
func TestAStartThatIsRefusedChangesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	disktest.Must(t, err)
	defer taken.Close()
	for name, c := range map[string]struct {
		dir  func(*testing.T) string
		opts []Option
		want string // in the error
	}{
		"the id of another node":    {edited(func(*testing.T, string) {}), []Option{WithID("other")}, "this is the data of node"},
		"an address that is taken":  {edited(func(*testing.T, string) {}), []Option{WithAddr(taken.Addr().String())}, "listen for peers"},
		"a newer version's":         {edited(func(t *testing.T, dir string) { editRecord(t, dir, func(m *disk.Record) { m.Format = 99 }) }), nil, "newer version"},
		"a record that was changed": {edited(func(t *testing.T, dir string) { editBolt(t, dir, spoilRecord) }), nil, "does not match its checksum"},
		"entries that are missing":  {edited(func(t *testing.T, dir string) { editBolt(t, dir, dropEntries) }), nil, "entries up to"},
		"no raft.db":                {edited(func(t *testing.T, dir string) { disktest.Must(t, os.Remove(filepath.Join(dir, "raft.db"))) }), nil, "it is missing"},
		"an empty raft.db":          {edited(func(t *testing.T, dir string) { disktest.Must(t, os.Truncate(filepath.Join(dir, "raft.db"), 0)) }), nil, "the file is empty"},
		"half a raft.db":            {edited(func(t *testing.T, dir string) { disktest.Must(t, os.Truncate(filepath.Join(dir, "raft.db"), 10_000)) }), nil, "cut short"},
		"another raft.db": {edited(func(t *testing.T, dir string) {
			disktest.Must(t, os.WriteFile(filepath.Join(dir, "raft.db"), []byte("text"), 0o600))
		}), nil, "damaged"},
		"a meta page that was changed": {edited(func(t *testing.T, dir string) { disktest.Flip(t, filepath.Join(dir, "raft.db"), 30./32768) }), nil, "meta page 0"},
		"no snapshot":                  {edited(func(t *testing.T, dir string) { disktest.Must(t, os.RemoveAll(filepath.Join(dir, fixtureSnapshot))) }), nil, "there is no snapshot"},
		"no snapshots":                 {edited(func(t *testing.T, dir string) { disktest.Must(t, os.RemoveAll(filepath.Join(dir, "snapshots"))) }), nil, "there is no snapshot"},
		"a snapshot that was changed": {edited(func(t *testing.T, dir string) {
			disktest.Flip(t, filepath.Join(dir, fixtureSnapshot, "state.bin"), 0.5)
		}), nil, fixtureSnapshot},
		"a snapshot of a newer term": {edited(func(t *testing.T, dir string) {
			editRecord(t, dir, func(m *disk.Record) { delete(m.Raft, "CurrentTerm") })
		}), nil, "term"},
		"segments, and the id of another node":    {inSegments(func(*testing.T, string) {}), []Option{WithID("other")}, "this is the data of node"},
		"segments, and an address that is taken":  {inSegments(func(*testing.T, string) {}), []Option{WithAddr(taken.Addr().String())}, "listen for peers"},
		"segments, and no raft.db":                {inSegments(removed("raft.db")), nil, "it is missing"},
		"segments, and no raft.db and no mark":    {inSegments(removed("raft.db", "raft.db.mark", "snapshots")), nil, "which the node's record does not know"},
		"segments, and a record that was changed": {inSegments(func(t *testing.T, dir string) { editBolt(t, dir, spoilRecord) }), nil, "does not match its checksum"},
		"segments that are missing":               {inSegments(removed("raft.log")), nil, "raft.log is missing"},
		"an empty raft.log":                       {inSegments(removed("raft.log/segment-000001", "raft.log/segment-000002")), nil, "the log has no segment"},
		"a segment that is missing":               {inSegments(removed("raft.log/segment-000001")), nil, "the segments before it are missing"},
		"a segment of a newer version's":          {inSegments(newerSegment), nil, "newer version"},
		"a segment that was changed": {inSegments(func(t *testing.T, dir string) {
			_, at, _ := segmentWith(t, dir, 3)
			overwritten("raft.log/segment-000001", at+20, "?")(t, dir)
		}), nil, "entry 3 does not match its checksum"},
		"half a segment": {inSegments(func(t *testing.T, dir string) {
			disktest.Must(t, os.Truncate(filepath.Join(dir, "raft.log", "segment-000001"), 8192))
		}), nil, "segment-000001 at offset 8192: it is cut short, to 8192 bytes of 16384"},
		"segments that the record does not know": {inSegments(func(t *testing.T, dir string) {
			editRecord(t, dir, func(m *disk.Record) { m.Log, m.Format = "", 1 })
		}), nil, "which the node's record does not know"},
		"segments of another node's": {inSegments(func(t *testing.T, dir string) {
			editRecord(t, dir, func(m *disk.Record) { m.Log = "00112233445566778899aabbccddeeff" })
		}), nil, "it is a segment of another log"},
		"entries that are missing in segments": {inSegments(func(t *testing.T, dir string) {
			editLog(t, dir, func(entries []*raft.Log) []*raft.Log { return entries[:len(entries)-1] })
		}), nil, "entries up to"},
		"segments beside an older raft.db": {edited(func(t *testing.T, dir string) {
			disktest.Must(t, os.CopyFS(filepath.Join(dir, "raft.log"), os.DirFS(filepath.Join("testdata", segmentsFixture, "raft.log"))))
		}), nil, "it is another node's, or the raft.db beside it is an old copy"},
		"segments beside hraftd's raft.db": {func(t *testing.T) string {
			dir := hraftds("node0")(t)
			disktest.Must(t, os.CopyFS(filepath.Join(dir, "raft.log"), os.DirFS(filepath.Join("testdata", segmentsFixture, "raft.log"))))
			return dir
		}, []Option{WithID("node0")}, "which the node's record does not know"},
		"hraftd's, and it is not told who": {hraftds("node1"), nil, "which of the members it is"},
		"hraftd's, with another id":        {hraftds("node3"), []Option{WithID("node4")}, "no member has the id"},
		"hraftd's, at a taken address":     {hraftds("node2"), []Option{WithID("node2"), WithAddr(taken.Addr().String())}, "listen for peers"},
		"hraftd's, with bad options":       {hraftds("node0"), []Option{WithBootstrapExpect(3)}, "WithBootstrapExpect"},
		"hraftd's, damaged": {func(t *testing.T) string {
			dir := hraftds("node2")(t)
			disktest.Must(t, os.WriteFile(filepath.Join(dir, "snapshots", "2-5-1795278202525", "state.bin"), nil, 0o600))
			return dir
		}, []Option{WithID("node2")}, "damaged"},
		"a directory that is not there, at a taken address": {func(t *testing.T) string {
			return filepath.Join(t.TempDir(), "absent")
		}, []Option{WithAddr(taken.Addr().String())}, "listen for peers"},
		"an empty directory, at a taken address": {func(t *testing.T) string { return t.TempDir() }, []Option{WithAddr(taken.Addr().String())}, "listen for peers"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := c.dir(t)
			for what, start := range map[string]func() error{
				"Open":    func() error { return openAndClose(dir, c.opts...) },
				"Recover": func() error { return ignore(Recover(dir)) },
				"Examine": func() error { return ignore(Examine(dir)) },
			} {
				before := disktest.Tree(t, filepath.Dir(dir))
				err := start()
				if err == nil || what == "Open" && !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v, want %s", what, err, c.want)
				}
				disktest.WantSameTree(t, filepath.Dir(dir), before)
			}
		})
	}
}

func openAndClose(dir string, opts ...Option) error {
	s, err := Open(dir, append([]Option{WithAddr("127.0.0.1:0")}, opts...)...)
	if err == nil {
		err = s.Close()
	}
	return err
}

func spoilRecord(conf, _ *bbolt.Bucket) error {
	record := bytes.Clone(conf.Get(boltlog.RecordKey))
	record[len(record)-2] ^= 1
	return conf.Put(boltlog.RecordKey, record)
}

func dropEntries(_, logs *bbolt.Bucket) error {
	for key, _ := logs.Cursor().First(); key != nil; key, _ = logs.Cursor().First() {
		if err := logs.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// Nor does one at which another process has the directory.
func TestAStartOnADirectoryInUseChangesNothing(t *testing.T) {
	for _, stored := range []string{ourFixture, segmentsFixture, "hraftd/node0"} {
		dir := disktest.CopyOf(t, "testdata", stored)
		leaveUnfinished(t, dir)
		before := disktest.Tree(t, dir)
		db, err := bbolt.Open(filepath.Join(dir, "raft.db"), 0o600, &bbolt.Options{NoFreelistSync: true}) // hraftd's lock, which is bbolt's
		disktest.Must(t, err)
		var starting sync.WaitGroup
		for what, start := range map[string]func() error{
			"Open":    func() error { return openAndClose(dir) },
			"Recover": func() error { return ignore(Recover(dir)) },
			"Examine": func() error { return ignore(Examine(dir)) },
			"OpenLog": func() error { return ignore(OpenLog(dir)) },
		} {
			starting.Go(func() {
				if err := start(); !errors.Is(err, ErrLocked) {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		starting.Wait()
		disktest.Must(t, db.Close())
		disktest.WantSameTree(t, dir, before)
	}
}

func ignore[T any](_ T, err error) error { return err }

// Neither a log that is replaced nor anything else is removed by looking at it.
func TestLookingAtADirectoryChangesNothing(t *testing.T) {
	for name, make := range map[string]func(*testing.T) string{
		"a node's":                 func(t *testing.T) string { return disktest.CopyOf(t, "testdata", ourFixture) },
		"a node's that was killed": edited(func(*testing.T, string) {}),
		"a node's without a mark":  edited(func(t *testing.T, dir string) { disktest.Must(t, os.Remove(filepath.Join(dir, "raft.db.mark"))) }),
		"a node's whose log a snapshot has replaced": edited(func(t *testing.T, dir string) {
			editBolt(t, dir, dropEntries)
			editRecord(t, dir, func(m *disk.Record) { m.Tail = 0 })
			storeRaw(t, dir, withChecksum(&raft.Log{Index: 1, Term: 1}))
		}),
		"a node's with segments":                 func(t *testing.T) string { return disktest.CopyOf(t, "testdata", segmentsFixture) },
		"a node's with segments that was killed": inSegments(func(*testing.T, string) {}),
		"a node's with segments and no mark":     inSegments(removed("raft.db.mark")),
		"a node's with segments that were not named": inSegments(func(t *testing.T, dir string) {
			disktest.Must(t, os.Rename(filepath.Join(dir, "raft.log"), filepath.Join(dir, "raft.log.new")))
		}),
		"hraftd's log":                   hraftds("node1"),
		"hraftd's log behind a snapshot": hraftds("node2"),
		"hraftd's snapshot":              hraftds("node3"),
	} {
		t.Run(name, func(t *testing.T) {
			dir := make(t)
			makeReadOnly(t, dir)
			before := disktest.Tree(t, dir)
			l, err := OpenLog(dir)
			disktest.Must(t, err)
			for _, err := range l.Entries(0, math.MaxUint64) {
				if err != nil {
					t.Error(err)
				}
			}
			disktest.Must(t, errors.Join(l.Err, l.Close()))
			if r, err := Examine(dir); !errors.Is(err, ErrInvalid) {
				t.Errorf("%+v, %v", r, err)
			}
			disktest.WantSameTree(t, dir, before)
		})
	}
}

// makeReadOnly takes the permission to write from all below dir, until the test ends. The
// superuser can write all the same.
func makeReadOnly(t *testing.T, dir string) {
	t.Helper()
	var dirs []string
	disktest.Must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, path)
			return os.Chmod(path, 0o555)
		}
		return os.Chmod(path, 0o444)
	}))
	t.Cleanup(func() {
		for _, dir := range dirs {
			disktest.Must(t, os.Chmod(dir, 0o700))
		}
	})
}

// What was left by a start that was killed goes with the next one that goes on.
func TestAStartRemovesWhatAKilledOneHasLeft(t *testing.T) {
	for name, make := range map[string]func(*testing.T) string{
		"a node's":               edited(func(*testing.T, string) {}),
		"a node's with segments": inSegments(func(*testing.T, string) {}),
		"hraftd's":               hraftds("node0"),
	} {
		t.Run(name, func(t *testing.T) {
			dir, id := make(t), "n1"
			if name == "hraftd's" {
				id = "node0"
			}
			disktest.Must(t, openAndClose(dir, WithID(id)))
			for name := range disktest.FilesIn(t, dir) {
				if strings.Contains(name, ".new") || strings.Contains(name, ".tmp") {
					t.Errorf("%s is left", name)
				}
			}
		})
	}
}
