package kvraft

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
)

// compactFrom is the size of a raft.db from which on it is worth a look. Smaller
// ones are what a node needs between two snapshots.
const compactFrom = 256 << 20

// compactBolt replaces the raft.db at path, which was checked, by a copy without
// its free pages when it has from bytes and three quarters of them are free. bbolt
// uses such pages again, and never gives them back: the file stays as large as the
// log has ever been. A crash leaves the one file or the other. After an error the old
// one is still there, unless replaced. A link at path stays one: the file that it leads
// to is replaced, on its own disk.
func compactBolt(path string, from int64, wait time.Duration) (replaced bool, err error) {
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return false, err
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() < from || runtime.GOOS == "windows" { // which renames no file that is open
		return false, err
	}
	var old *bbolt.DB // whose lock keeps others out
	err = contain(func() (err error) {
		old, err = bbolt.Open(path, 0, boltOptions(wait))
		return err
	})
	if err != nil {
		return false, lockError(path, err)
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	if err := stillAt(path, info); err != nil {
		return false, err
	}
	used, err := bytesInUse(old)
	if err != nil || used > info.Size()/4 {
		return false, err
	}
	unfinished := path + "." + rand.Text() + unfinishedSuffix
	if err := contain(func() error { return copyBolt(unfinished, old) }); err != nil {
		return false, errors.Join(fmt.Errorf("compact %s: %w", path, err), os.RemoveAll(unfinished))
	}
	if err := os.Rename(unfinished, path); err != nil {
		return false, errors.Join(err, os.Remove(unfinished))
	}
	return true, syncDir(filepath.Dir(path))
}

func bytesInUse(db *bbolt.DB) (used int64, err error) {
	err = db.View(func(tx *bbolt.Tx) error {
		used = tx.Size() - int64(db.Stats().FreePageN)*int64(db.Info().PageSize)
		return nil
	})
	return used, err
}

// copyBolt makes a complete file at path, and checks it: what it replaces was good.
func copyBolt(path string, old *bbolt.DB) error {
	const transaction = 1 << 20 // bytes
	fresh, err := bbolt.Open(path, 0o600, boltOptions(0))
	if err != nil {
		return err
	}
	fresh.NoSync = true // until it is whole
	if err := bbolt.Compact(fresh, old, transaction); err != nil {
		return errors.Join(err, fresh.Close())
	}
	if err := errors.Join(fresh.Sync(), fresh.Close()); err != nil {
		return err
	}
	return checkBoltFile(path)
}
