// Package boltlog keeps raft's log, and the few values that a node must not forget, in one
// file, raft.db, as raft-boltdb writes it. It adds what bbolt leaves to its users: a file
// that is damaged, lost, or another process's is an error and never a panic, an empty log
// or an endless wait; what bit rot does is noticed before bbolt sees it; and a file whose
// log is kept elsewhere by now is replaced by one without entries.
//
// [Read] opens a file without writing to it, and [File.OpenForWriting] goes on from there.
// [OpenReader] is for a look at a file whatever its state. Nothing here knows what the
// entries and the values mean.
//
// A File may be used from any goroutine, but for OpenForWriting and Close, which are for
// its owner. There are no locks but bbolt's, on the file among them, and no goroutines
// but one that waits in Close for a disk that hangs. Tests damage, cut and replace files
// under the package, and let several processes' worth of first starts race.
package boltlog

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/kvraft/kvraft/internal/durable"
	"github.com/kvraft/kvraft/internal/errs"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// store is what raft-boltdb gives.
type store interface {
	raft.LogStore
	raft.StableStore
}

// File is a raft.db that is opened in two steps: to be read by Read, and then
// for writing. Where there is none yet it reads as an empty one.
type File struct {
	store
	base  *handle // nil: there is no file, or it is closed
	path  string
	wait  time.Duration // for its lock
	found fileState

	syncDir func(dir string) error // [durable.SyncDir], or a test's
}

// handle is a file that is open.
type handle struct {
	*raftboltdb.BoltStore
	path string
}

// Names in a data directory: the file's, and that of the directory in which a node has
// its snapshots, never before it has the file.
const (
	Name         = "raft.db"
	SnapshotsDir = "snapshots"
)

// RecordKey is the one key that kvraft keeps in a stable store.
var RecordKey = []byte("kvraft")

// RaftKeys are raft's own keys: a store that has them and no record of
// kvraft's was written by other software.
var RaftKeys = [][]byte{[]byte("CurrentTerm"), []byte("LastVoteTerm"), []byte("LastVoteCand")}

// closePatience is how long a Close waits for the disk.
const closePatience = 2 * time.Second

// Close closes the file. bbolt's Close waits for a write that hangs, and for
// ever where a memory fault has left one of bbolt's mutexes locked.
func (b *handle) Close() error { return CloseSoon(b.path, b.BoltStore.Close) }

// ErrHangs is what CloseSoon returns if it has closed nothing.
var ErrHangs = errors.New("an operation on it has not ended")

// CloseSoon closes what is at path, or soon returns an [ErrHangs] and leaves it, with a lock
// on it, to the end of the process: whoever opened it now could meet the write that hangs.
func CloseSoon(path string, close func() error) error {
	closed := make(chan error, 1)
	go func() { closed <- close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(closePatience):
		return fmt.Errorf("close %s: %w; it stays locked until this process ends", path, ErrHangs)
	}
}

// fileState tells a state of a raft.db from any other.
type fileState struct {
	file        os.FileInfo // nil: there is no file
	transaction uint64      // the newest one
}

// Read verifies the raft.db at path and opens it for reading: until it is closed
// nobody writes to it. It waits that long for another process to let go of the file, and
// then returns an error that wraps [errs.Locked]. It writes nothing.
func Read(path string, wait time.Duration) (*File, error) {
	f := &File{store: raft.NewInmemStore(), path: path, wait: wait, syncDir: durable.SyncDir}
	there, err := find(path)
	if err == nil && there {
		f.base, f.found, err = verify(path, wait)
		f.store = f.base
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return f, nil
}

// OpenForWriting opens the file for writing, or makes it, unless another process has used
// it since it was read.
func (f *File) OpenForWriting() error {
	if err := f.Close(); err != nil {
		return err
	}
	base, err := openFound(f.path, f.found, f.wait)
	if err != nil {
		return err
	}
	f.base, f.store = base, base
	return f.syncName()
}

// syncName comes before the first write: whoever has replaced the file may have been killed
// before its name was on disk, and a power loss would bring the old file back, without what
// is written now.
func (f *File) syncName() error {
	path, err := filepath.EvalSymlinks(f.path)
	if err == nil {
		err = f.syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", f.path, err)
	}
	return nil
}

// Tidy removes what crashes at the birth of the file have left, and makes sure that its
// loss would be noticed. Where the file is behind a link, it is born there.
func (f *File) Tidy() error {
	linked, err := filepath.EvalSymlinks(f.path)
	if err == nil {
		err = errors.Join(removeUnfinished(linked), removeUnfinished(f.path))
	}
	return errors.Join(err, mark(f.path))
}

// Close closes the file.
func (f *File) Close() (err error) {
	if f.base != nil {
		err = f.base.Close()
		f.base = nil
	}
	return err
}

// verify checks the file while it is locked. bbolt looks at no more of it before
// than the meta pages.
func verify(path string, wait time.Duration) (*handle, fileState, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileState{}, err
	}
	options := bboltOptions(wait)
	options.ReadOnly = true
	base, err := openHandle(path, options)
	if err != nil {
		return nil, fileState{}, readError(err)
	}
	meta, err := checkFile(path)
	found := fileState{info, meta.transaction}
	if err = cmp.Or(found.checkFile(path), err); err != nil {
		return nil, fileState{}, errors.Join(err, base.Close())
	}
	return base, found, nil
}

// openFound opens the raft.db at path for writing, which Read has found in that state
// and let go of since. It returns errs.Locked if another process has used it meanwhile.
// Where there was none, it and its directory are created: a file that is there is never
// taken for a new one, however short, as it is created under another name. Nothing else
// is written.
func openFound(path string, found fileState, wait time.Duration) (base *handle, err error) {
	if found.file == nil {
		found, err = create(path, wait)
	}
	if err == nil {
		base, err = reopen(path, found, wait)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return base, nil
}

// reopen opens a file for writing and writes nothing yet. raft-boltdb would store
// a transaction, even if its buckets are there, after which older versions of bolt
// cannot read the file; it does not if the options say by then that the file is only
// to be read.
func reopen(path string, found fileState, wait time.Duration) (*handle, error) {
	options := bboltOptions(wait)
	options.OpenFile = func(path string, flag int, mode os.FileMode) (*os.File, error) {
		options.ReadOnly = true
		return os.OpenFile(path, flag, mode)
	}
	base, err := openHandle(path, options)
	if err != nil {
		return nil, err
	}
	if err := found.check(path); err != nil {
		return nil, errors.Join(err, base.Close())
	}
	return base, nil
}

// checkFile returns errs.Locked unless the file at path is the one that was found: whoever
// has waited for its lock may have got that of a file which another process has replaced
// meanwhile, and uses. To write to that would be to write to nothing.
func (found fileState) checkFile(path string) error {
	now, err := os.Stat(path)
	if err != nil || !os.SameFile(found.file, now) {
		return errors.Join(errs.Locked, err)
	}
	return nil
}

// check returns errs.Locked unless the file at path, which is locked, is in the state in
// which it was found: another process may have used it meanwhile.
func (found fileState) check(path string) error {
	if err := found.checkFile(path); err != nil {
		return err
	}
	meta, err := readNewestMeta(path)
	if err != nil || meta.transaction != found.transaction {
		return errors.Join(errs.Locked, err)
	}
	return nil
}

// find reports whether there is a file at path, or returns why it cannot be a
// raft.db, or must not be taken for one that never was.
func find(path string) (found bool, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err := lost(path)
		if err != nil && exists(path) { // another process has made it and its mark since
			return find(path)
		}
		return false, err
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, errors.New("not a regular file")
	case info.Size() == 0:
		return false, fmt.Errorf("%w: the file is empty", errs.Damaged)
	}
	return true, nil
}

// lost returns an error if something says that there was a file at path. A node
// has its raft.db before it has anything else.
func lost(path string) error {
	if HasMark(path) {
		return fmt.Errorf("%w: it is missing, but there is %s", errs.Damaged, path+markSuffix)
	}
	snapshots := filepath.Join(filepath.Dir(path), SnapshotsDir)
	if left, err := os.ReadDir(snapshots); err == nil && len(left) > 0 {
		return fmt.Errorf("%w: it is missing, but there is %s", errs.Damaged, filepath.Join(snapshots, left[0].Name()))
	}
	return nil
}

// markSuffix names a file that says that there was a raft.db: a directory that has
// lost nothing but that must not be taken for a new one.
const markSuffix = ".mark"

func mark(path string) error {
	if HasMark(path) {
		return nil
	}
	const text = "There is a raft.db beside this file. A node that has lost it must not start as a new one.\n"
	if err := os.WriteFile(path+markSuffix, []byte(text), 0o600); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// Contain runs op and turns a panic into an error. bbolt panics on pages that
// make no sense, and it reads through a memory map, where a bad sector or a
// file cut short is a memory fault, which by default ends the process.
func Contain(op func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: storage panicked: %v", errs.Damaged, p)
		}
	}()
	return op()
}

// HasMark reports whether there is, or was, a raft.db at path.
func HasMark(path string) bool { return exists(path + markSuffix) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// openHandle opens a file that is new or is verified before it is used.
func openHandle(path string, options *bbolt.Options) (*handle, error) {
	base := &handle{path: path}
	err := Contain(func() (err error) {
		base.BoltStore, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: options})
		return err
	})
	if err != nil {
		return nil, lockError(err)
	}
	return base, nil
}

func bboltOptions(wait time.Duration) *bbolt.Options {
	return &bbolt.Options{
		// bbolt would wait for ever.
		Timeout: wait,
		// The list of free pages can be found again: it is not worth writing in each
		// transaction.
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	}
}

// create makes an empty raft.db complete before it gets its name, so that a
// crash at its birth leaves no file which looks like a damaged one. What is at path then
// may be another process's, but is empty all the same if it is in the returned state.
func create(path string, wait time.Duration) (made fileState, err error) {
	if err := durable.MakeDir(filepath.Dir(path)); err != nil {
		return made, fmt.Errorf("create the data directory: %w", err)
	}
	unfinished := path + "." + rand.Text() + unfinishedSuffix
	base, err := openHandle(unfinished, bboltOptions(wait))
	if err != nil {
		return made, errors.Join(err, os.RemoveAll(unfinished))
	}
	err = base.Close()
	var meta metaPage
	if err == nil {
		meta, err = readNewestMeta(unfinished)
	}
	if err == nil {
		err = giveName(unfinished, path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && exists(path): // another process has made it, and tidied
		return made, errors.Join(errs.Locked, err)
	case err != nil:
		return made, errors.Join(err, os.RemoveAll(unfinished))
	}
	info, err := os.Stat(path)
	return fileState{info, meta.transaction}, errors.Join(err, durable.SyncDir(filepath.Dir(path)))
}

// giveName gives the file its name, unless another process was faster: then
// that one's file stays, as it may be in use. File systems without links get a
// rename, which cannot tell.
func giveName(unfinished, path string) error {
	if err := os.Link(unfinished, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return os.Rename(unfinished, path)
	}
	return removeIfThere(unfinished)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

const unfinishedSuffix = ".new"

// removeUnfinished removes what crashes at the birth of path have left.
func removeUnfinished(path string) error {
	dir, name := filepath.Split(path)
	files, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return err
	}
	for _, file := range files {
		if !strings.HasPrefix(file.Name(), name+".") || !strings.HasSuffix(file.Name(), unfinishedSuffix) {
			continue
		}
		if err := removeIfThere(filepath.Join(dir, file.Name())); err != nil {
			return err
		}
	}
	return nil
}

// readError is err, or errs.Damaged if it is what the file holds that is wrong, and not
// that there is no permission, or no memory.
func readError(err error) error {
	switch {
	case errors.Is(err, errs.Locked), errors.As(err, new(syscall.Errno)):
		return err
	case errors.Is(err, bbolterrors.ErrInvalid):
		err = errs.Unfamiliar("it is no file of bbolt's")
	}
	return fmt.Errorf("%w: %w", errs.Damaged, err)
}

func lockError(err error) error {
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return fmt.Errorf("%w by another process, or by another store in this one", errs.Locked)
	}
	return err
}
