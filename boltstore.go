package kvraft

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// ErrLocked is returned by Open for a data directory that a node has open, in
// this process or another one. The error's text names the process where the system
// tells which it is.
var ErrLocked = errors.New("kvraft: directory is in use")

// boltBase is the log store that kvraft opens by itself: a raft.db.
type boltBase struct {
	*raftboltdb.BoltStore
	path string
}

// boltFile is its name in a data directory.
const boltFile = "raft.db"

// closePatience is how long Close waits for bbolt.
const closePatience = 2 * time.Second

// Close closes the file. bbolt's Close waits for a write that hangs, and for
// ever where a memory fault has left one of bbolt's mutexes locked. Then Close
// returns an error and leaves the file, and its lock, to the end of the process:
// whoever opened it now could meet the write that hangs.
func (b *boltBase) Close() error {
	closed := make(chan error, 1)
	go func() { closed <- b.BoltStore.Close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(closePatience):
		return fmt.Errorf("close %s: an operation on it has not ended; it stays locked until this process ends", b.path)
	}
}

// openBolt opens the raft.db at path, and creates it and its directory if there
// is none. It waits that long for another process to let go of the file, and
// then returns an error that wraps [ErrLocked]. A file that is there is never
// taken for a new one, however short: it is created under another name. One that is
// mostly free is compacted, or that fails with a warning.
func openBolt(path string, wait time.Duration, log hclog.Logger) (*boltBase, error) {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	found, err := findBolt(path)
	switch {
	case err != nil:
	case found:
		err = verifyBolt(path, wait)
	default:
		err = createBolt(path, wait)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	replaced, err := compactBolt(path, compactFrom, wait)
	switch {
	case err == nil:
	case replaced: // and a power loss could bring the old one back, without what comes now
		return nil, fmt.Errorf("open %s: replace it by a smaller one: %w", path, err)
	case errors.Is(err, syscall.EIO): // what the disk does to a copy it may do to the log
		return nil, fmt.Errorf("open %s: %w", path, err)
	default:
		log.Warn("the free pages of raft.db stay in the file", "error", err)
	}
	base, err := newBoltBase(path, wait)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := errors.Join(removeUnfinished(path), mark(path)); err != nil {
		return nil, errors.Join(err, base.Close())
	}
	return base, nil
}

// findBolt reports whether there is a file at path, or returns why it cannot be a
// raft.db, or must not be taken for one that never was.
func findBolt(path string) (found bool, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, lostBolt(path)
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, errors.New("not a regular file")
	case info.Size() == 0:
		return false, fmt.Errorf("%w: the file is empty", ErrDamaged)
	}
	return true, nil
}

// lostBolt returns an error if something says that there was a file at path. A node
// has its raft.db before it has anything else.
func lostBolt(path string) error {
	if exists(path + markSuffix) {
		return fmt.Errorf("%w: it is missing, but there is %s", ErrDamaged, path+markSuffix)
	}
	snapshots := filepath.Join(filepath.Dir(path), snapshotsDir)
	if left, err := os.ReadDir(snapshots); err == nil && len(left) > 0 {
		return fmt.Errorf("%w: it is missing, but there is %s", ErrDamaged, filepath.Join(snapshots, left[0].Name()))
	}
	return nil
}

// markSuffix names a file that says that there was a raft.db: a directory that has
// lost nothing but that must not be taken for a new one.
const markSuffix = ".mark"

func mark(path string) error {
	if exists(path + markSuffix) {
		return nil
	}
	const text = "There is a raft.db beside this file. A node that has lost it must not start as a new one.\n"
	if err := os.WriteFile(path+markSuffix, []byte(text), 0o600); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// newBoltBase opens a file that is new or was verified. Whoever has waited for its
// lock may have got that of a file which compactBolt has replaced meanwhile: to write
// to that would be to write to nothing.
func newBoltBase(path string, wait time.Duration) (*boltBase, error) {
	base := &boltBase{path: path}
	before, _ := os.Stat(path) // nil: it is new
	err := contain(func() (err error) {
		base.BoltStore, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions(wait)})
		return err
	})
	if err != nil {
		return nil, lockError(path, err)
	}
	if before == nil {
		return base, nil
	}
	if err := stillAt(path, before); err != nil {
		return nil, errors.Join(err, base.Close())
	}
	return base, nil
}

// stillAt returns ErrLocked unless the file at path is the one that it was: whoever
// has replaced it meanwhile uses the other.
func stillAt(path string, before os.FileInfo) error {
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) {
		return errors.Join(ErrLocked, err)
	}
	return nil
}

func boltOptions(wait time.Duration) *bbolt.Options {
	return &bbolt.Options{
		// bbolt would wait for ever.
		Timeout: wait,
		// The list of free pages can be found again, and is long after a
		// compaction: it is not worth writing in each transaction.
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	}
}

// createBolt makes an empty raft.db complete before it gets its name, so that a
// crash at its birth leaves no file which looks like a damaged one.
func createBolt(path string, wait time.Duration) error {
	unfinished := path + "." + rand.Text() + unfinishedSuffix
	base, err := newBoltBase(unfinished, wait)
	if err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	if err := base.Close(); err != nil {
		return errors.Join(err, os.Remove(unfinished))
	}
	if err := nameBolt(unfinished, path); err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	return syncDir(filepath.Dir(path))
}

// nameBolt gives the file its name, unless another process was faster: then
// that one's file stays, as it may be in use. It has perhaps removed this one's
// already. File systems without links get a rename, which cannot tell.
func nameBolt(unfinished, path string) error {
	err := os.Link(unfinished, path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && exists(path):
		return nil
	case err != nil && !errors.Is(err, fs.ErrExist):
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

// verifyBolt checks the file while it is locked.
func verifyBolt(path string, wait time.Duration) error {
	before, err := os.Stat(path)
	if err != nil {
		return err
	}
	locked, err := lockBolt(path, wait)
	if err != nil {
		return err
	}
	if err := stillAt(path, before); err != nil {
		return errors.Join(err, locked.Close())
	}
	return errors.Join(checkBoltFile(path), locked.Close())
}

// lockedBolt is a file under bbolt's shared lock: nobody writes to it until it is
// closed.
type lockedBolt struct {
	*bbolt.DB
	file *os.File // the DB's
}

// lockBolt locks the file at path. bbolt looks at no more of it than the meta pages.
func lockBolt(path string, wait time.Duration) (locked lockedBolt, err error) {
	options := boltOptions(wait)
	options.ReadOnly = true
	options.OpenFile = func(path string, flag int, mode os.FileMode) (file *os.File, err error) {
		locked.file, err = os.OpenFile(path, flag, mode)
		return locked.file, err
	}
	err = contain(func() (err error) {
		locked.DB, err = bbolt.Open(path, 0, options)
		return err
	})
	switch {
	case err == nil:
		return locked, nil
	case errors.Is(err, bbolterrors.ErrTimeout):
		return locked, lockError(path, err)
	case errors.As(err, new(syscall.Errno)): // no permission, a directory, out of memory
		return locked, err
	}
	return locked, fmt.Errorf("%w: %w", ErrDamaged, err)
}

func lockError(path string, err error) error {
	if !errors.Is(err, bbolterrors.ErrTimeout) {
		return err
	}
	return fmt.Errorf("%w by %s", ErrLocked, cmp.Or(lockHolders(path), "another process"))
}

// makeDir creates dir and what is missing above it, on stable storage: without
// that, a power loss could take a whole directory, and with it a vote.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// syncDir makes the names in dir durable. Windows has no such call.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
