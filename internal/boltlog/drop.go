package boltlog

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/hashicorp/go-hclog"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// keptSize is the size up to which a file without entries is as good as a new one.
const keptSize = 1 << 20

// DropEntries is for a file whose log is kept elsewhere by now: if it has entries, or is
// large of those that it had, it is replaced by one without. bbolt gives no space back, so
// that to delete them would not do. Most errors are no reason to stop: then the file stays
// as it is. It is open for writing, and others are kept out of it all the time.
func (f *File) DropEntries(log hclog.Logger) error {
	if runtime.GOOS == "windows" { // which renames no file that is open
		return nil
	}
	last, err := f.LastIndex()
	if err != nil {
		return err
	}
	info, err := os.Stat(f.path)
	if err != nil || last == 0 && info.Size() <= keptSize {
		return err
	}
	old := f.base
	fresh, err := f.replace(info.Mode().Perm())
	if fresh != nil {
		f.base, f.store = fresh, fresh
		err = errors.Join(err, old.Close())
	}
	return judgeDrop(fresh != nil, err, log)
}

// judgeDrop returns err if the node must not go on after it.
func judgeDrop(replaced bool, err error, log hclog.Logger) error {
	switch {
	case err == nil:
		return nil
	case replaced: // and a power loss could bring the old one back, without what comes now
		return fmt.Errorf("replace it by one without entries: %w", err)
	case errors.Is(err, syscall.EIO): // what the disk does to a copy it may do to the log
		return err
	}
	log.Warn("the entries of former times stay in raft.db", "error", err)
	return nil
}

// replace puts a file without entries in place of the file, and returns it, unless the
// file is still the old one. A crash leaves the one or the other. A link stays one: the
// file that it leads to is replaced, on its own disk.
func (f *File) replace(mode os.FileMode) (fresh *handle, err error) {
	path, err := filepath.EvalSymlinks(f.path)
	if err != nil {
		return nil, err
	}
	unfinished := path + "." + rand.Text() + unfinishedSuffix
	fresh, err = openHandle(unfinished, bboltOptions(0)) // it is locked before it has the name
	if err == nil {
		err = errors.Join(os.Chmod(unfinished, mode), Contain(func() error { return copyValues(fresh, f.base) }))
		if err == nil {
			err = os.Rename(unfinished, path)
		}
		if err != nil {
			err = errors.Join(err, fresh.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("copy %s: %w", path, err), os.RemoveAll(unfinished))
	}
	fresh.path = f.path
	return fresh, f.syncDir(filepath.Dir(path))
}

// copyValues copies all of the old file but the entries.
func copyValues(fresh, old *handle) error {
	for _, key := range append([][]byte{RecordKey}, RaftKeys...) {
		value, err := old.Get(key)
		if errors.Is(err, raftboltdb.ErrKeyNotFound) {
			continue
		}
		if err == nil {
			err = fresh.Set(key, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
