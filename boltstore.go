package kvraft

import (
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

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// ErrLocked is returned by Open for a data directory that a node has open, in
// this process or another one.
var ErrLocked = errors.New("kvraft: directory is in use by another process")

// boltBase is the log store that kvraft opens by itself: a raft.db.
type boltBase struct {
	*raftboltdb.BoltStore
	path string
}

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
// taken for a new one, however short: it is created under another name.
func openBolt(path string, wait time.Duration) (*boltBase, error) {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = createBolt(path, wait)
	case err == nil && !info.Mode().IsRegular():
		err = errors.New("not a regular file")
	case err == nil && info.Size() == 0:
		err = fmt.Errorf("%w: the file is empty", ErrDamaged)
	case err == nil:
		err = verifyBolt(path, wait)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	base, err := newBoltBase(path, wait)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := removeUnfinished(path); err != nil {
		return nil, errors.Join(err, base.Close())
	}
	return base, nil
}

// newBoltBase opens a file that is new or was verified.
func newBoltBase(path string, wait time.Duration) (*boltBase, error) {
	base := &boltBase{path: path}
	err := contain(func() (err error) {
		base.BoltStore, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions(wait)})
		return err
	})
	if err != nil {
		return nil, lockError(err)
	}
	return base, nil
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
	// A node has its raft.db before it has anything else.
	snapshots := filepath.Join(filepath.Dir(path), snapshotsDir)
	if left, err := os.ReadDir(snapshots); err == nil && len(left) > 0 {
		return fmt.Errorf("%w: it is missing, but there is %s", ErrDamaged, filepath.Join(snapshots, left[0].Name()))
	}
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
// that one's file stays, as it may be in use. File systems without links get a
// rename, which cannot tell.
func nameBolt(unfinished, path string) error {
	err := os.Link(unfinished, path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return os.Rename(unfinished, path)
	}
	return os.Remove(unfinished)
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
		if err := os.Remove(filepath.Join(dir, file.Name())); err != nil {
			return err
		}
	}
	return nil
}

// verifyBolt checks the file while it holds bbolt's shared lock, so that nobody
// writes to it meanwhile.
func verifyBolt(path string, wait time.Duration) error {
	var locked *bbolt.DB
	options := boltOptions(wait)
	options.ReadOnly = true
	err := contain(func() (err error) {
		locked, err = bbolt.Open(path, 0, options)
		return err
	})
	switch {
	case err == nil:
		return errors.Join(checkBoltFile(path), locked.Close())
	case errors.Is(err, bbolterrors.ErrTimeout):
		return lockError(err)
	case errors.As(err, new(syscall.Errno)): // no permission, a directory, out of memory
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

func lockError(err error) error {
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return ErrLocked
	}
	return err
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
