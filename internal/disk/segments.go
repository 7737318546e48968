package disk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/durable"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/wal"
)

// lockPatience is how long a start waits for another process to let go of the raft.db.
const lockPatience = time.Second

// Names in a data directory.
const (
	logDir    = "raft.log"
	newLogDir = "raft.log.new" // until the record names the log in it
)

// files is the engine of a node's own directory: the record in raft.db, and the log in a
// directory of segments. hraftd's log is in raft.db, as that of older versions of kvraft
// was. It is copied at the first start, in steps of which each can be the last:
//
//  1. The entries are copied into raft.log.new. Without a record that names it, it is nothing,
//     and the next start begins anew.
//  2. The record names it: that is the moment from which on it is the log.
//  3. It is renamed, and raft.db is replaced by one without entries, which the next start
//     does if this one does not.
//
// What is in the segments a start has read before it has the lock with which it writes.
// Another can have written to them in between, and only raft.db tells: so each start writes
// the record before it writes to the segments.
type files struct {
	raft.LogStore // raft.db, or segments
	raft.StableStore

	dir      string
	file     *boltlog.File
	segments *wal.Log // nil: not open
	unnamed  bool     // the log is in raft.log.new
	opt      wal.Options
}

func openFiles(dir string, opt wal.Options) (engine, error) {
	file, err := boltlog.Read(filepath.Join(dir, boltlog.Name), lockPatience)
	if err != nil {
		return nil, err
	}
	return &files{LogStore: file, StableStore: file, dir: dir, file: file, opt: opt}, nil
}

// OpenLog opens the log that the record names; without a name it is that in raft.db.
func (f *files) OpenLog(name string, tail uint64) error {
	if name == "" {
		return checkNoLog(f.dir)
	}
	f.opt.Stored = tail
	return f.openSegments(name)
}

// checkNoLog makes sure that there is no log that the record of the node in dir would name.
func checkNoLog(dir string) error {
	if path := filepath.Join(dir, logDir); exists(path) {
		return fmt.Errorf("%w: there is %s, which the node's record does not know: it is another node's, or the raft.db beside it is an old copy", errs.Damaged, path)
	}
	return nil
}

func (f *files) openSegments(name string) error {
	dir, id, err := findLog(f.dir, name)
	if err != nil {
		return err
	}
	segments, err := wal.Open(dir, id, f.opt)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	f.LogStore, f.segments, f.unnamed = segments, segments, filepath.Base(dir) == newLogDir
	return nil
}

// findLog finds the log that the record of the node in dir names.
func findLog(dir, name string) (path string, id wal.ID, err error) {
	if n, err := hex.Decode(id[:], []byte(name)); err != nil || n != len(id) {
		return "", id, fmt.Errorf("%w: the node's record names a log %q", errs.Damaged, name)
	}
	path = filepath.Join(dir, logDir)
	if exists(path) {
		return path, id, nil
	}
	if unfinished := filepath.Join(dir, newLogDir); exists(unfinished) { // a crash came before step 3
		return unfinished, id, nil
	}
	return "", id, fmt.Errorf("%w: %s is missing", errs.Damaged, path)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// OpenForWriting opens raft.db for writing, or makes it, and copies the entries first to
// last of a log that is in it. It returns the name of the log, which the record is to have
// before Adopt.
func (f *files) OpenForWriting(first, last uint64) (name string, err error) {
	if err := f.file.OpenForWriting(); err != nil {
		return "", err
	}
	if f.segments == nil {
		return f.copyLog(first, last)
	}
	id := f.segments.ID()
	return hex.EncodeToString(id[:]), nil
}

func (f *files) copyLog(first, last uint64) (name string, err error) {
	dir := filepath.Join(f.dir, newLogDir)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	segments, err := wal.Create(dir, f.opt)
	if err == nil {
		if first > 0 {
			err = copyEntries(f.file, segments, first, last)
		}
		err = errors.Join(err, segments.Close())
	}
	if err != nil { // the disk may be full of it
		return "", errors.Join(fmt.Errorf("copy the log into %s: %w", dir, err), os.RemoveAll(dir))
	}
	f.unnamed = true
	id := segments.ID()
	return hex.EncodeToString(id[:]), nil
}

// copyAtOnce is how many bytes of entries are written at once.
const copyAtOnce = 1 << 20

func copyEntries(from, to raft.LogStore, first, last uint64) error {
	var batch []*raft.Log
	size := 0
	for index := first; index <= last; index++ {
		entry := new(raft.Log)
		if err := from.GetLog(index, entry); err != nil {
			return fmt.Errorf("read entry %d: %w", index, err)
		}
		batch, size = append(batch, entry), size+len(entry.Data)
		if size < copyAtOnce && index < last {
			continue
		}
		if err := to.StoreLogs(batch); err != nil {
			return err
		}
		batch, size = nil, 0
	}
	return nil
}

// Adopt makes the log that the record names the one that is written to.
func (f *files) Adopt(name string) error {
	if f.unnamed {
		if err := f.finish(name); err != nil {
			return err
		}
	}
	return f.segments.Resume()
}

// finish gives a log its name. No file of it is open then, which some systems want.
func (f *files) finish(name string) error {
	if segments := f.segments; segments != nil {
		f.segments = nil // Close would close it again
		if err := segments.Close(); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(f.dir, newLogDir), filepath.Join(f.dir, logDir)); err != nil {
		return err
	}
	if err := durable.SyncDir(f.dir); err != nil {
		return err
	}
	return f.openSegments(name)
}

// Tidy removes what is left of crashes, and of a log that was copied. It comes after Adopt:
// what is in raft.log.new then is not the log.
func (f *files) Tidy() error {
	return errors.Join(os.RemoveAll(filepath.Join(f.dir, newLogDir)), f.file.DropEntries(f.opt.Logger), f.file.Tidy())
}

func (f *files) Close() (err error) {
	if f.segments != nil {
		err = boltlog.CloseSoon(filepath.Join(f.dir, logDir), f.segments.Close)
	}
	if errors.Is(err, boltlog.ErrHangs) { // with raft.db, whose lock is that of the directory
		return err
	}
	return errors.Join(err, f.file.Close())
}

// Entries reads the entries of the log.
func (f *files) Entries(first, last uint64, visit func(uint64, *raft.Log, error) error) error {
	if f.segments == nil {
		return readEntries(f.file, first, last, visit)
	}
	return f.segments.Each(func(entry *raft.Log) error { return visit(entry.Index, entry, nil) })
}

// Doubt is what the log in segments doubts.
func (f *files) Doubt() wal.Doubt {
	if f.segments == nil {
		return wal.Doubt{}
	}
	return f.segments.Doubt()
}
