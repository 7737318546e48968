package boltlog

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/kvraft/kvraft/internal/durable"
	"go.etcd.io/bbolt"
)

// compactFrom is the size of a raft.db from which on it is worth a look. Smaller
// ones are what a node needs between two snapshots.
const compactFrom = 256 << 20

// tryToCompact is compact, but most errors of it are no reason not to start with the
// old file.
func tryToCompact(path string, found fileState, from int64, wait time.Duration, log hclog.Logger) (fileState, error) {
	now, err := compact(path, found, from, wait)
	return now, judgeCompaction(found, now, err, log)
}

// judgeCompaction returns err if the node must not start after it.
func judgeCompaction(found, now fileState, err error, log hclog.Logger) error {
	switch {
	case err == nil:
		return nil
	case now != found: // and a power loss could bring the old one back, without what comes now
		return fmt.Errorf("replace it by a smaller one: %w", err)
	case errors.Is(err, syscall.EIO): // what the disk does to a copy it may do to the log
		return err
	}
	log.Warn("the free pages of raft.db stay in the file", "error", err)
	return nil
}

// compact replaces the raft.db at path, which was checked in the state found, by a
// copy without its free pages when it has from bytes and three quarters of them are free,
// and returns the state of what is at path then. bbolt uses such pages again, and never
// gives them back: the file stays as large as the log has ever been. A crash leaves the
// one file or the other. A link at path stays one: the file that it leads to is replaced,
// on its own disk.
func compact(path string, found fileState, from int64, wait time.Duration) (now fileState, err error) {
	if found.file.Size() < from || runtime.GOOS == "windows" { // which renames no file that is open
		return found, nil
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return found, err
	}
	var old *bbolt.DB // whose lock keeps others out
	err = Contain(func() (err error) {
		old, err = bbolt.Open(path, 0, bboltOptions(wait))
		return err
	})
	if err != nil {
		return found, lockError(err)
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	if err := found.check(path); err != nil {
		return found, err
	}
	used, err := bytesInUse(old)
	if err != nil || used > found.file.Size()/4 {
		return found, err
	}
	unfinished := path + "." + rand.Text() + unfinishedSuffix
	err = Contain(func() (err error) {
		now, err = copyInUse(unfinished, old)
		return err
	})
	if err != nil {
		return found, errors.Join(fmt.Errorf("compact %s: %w", path, err), os.RemoveAll(unfinished))
	}
	if err := os.Rename(unfinished, path); err != nil {
		return found, errors.Join(err, os.Remove(unfinished))
	}
	return now, durable.SyncDir(filepath.Dir(path))
}

func bytesInUse(db *bbolt.DB) (used int64, err error) {
	err = db.View(func(tx *bbolt.Tx) error {
		used = tx.Size() - int64(db.Stats().FreePageN)*int64(db.Info().PageSize)
		return nil
	})
	return used, err
}

// copyInUse makes a complete file at path, and checks it: what it replaces was good.
func copyInUse(path string, old *bbolt.DB) (made fileState, err error) {
	const transaction = 1 << 20 // bytes
	fresh, err := bbolt.Open(path, 0o600, bboltOptions(0))
	if err != nil {
		return made, err
	}
	fresh.NoSync = true // until it is whole
	if err := bbolt.Compact(fresh, old, transaction); err != nil {
		return made, errors.Join(err, fresh.Close())
	}
	if err := errors.Join(fresh.Sync(), fresh.Close()); err != nil {
		return made, err
	}
	meta, err := checkFile(path)
	if err != nil {
		return made, err
	}
	info, err := os.Stat(path)
	return fileState{info, meta.transaction}, err
}
