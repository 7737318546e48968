package boltlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/kvraft/kvraft/internal/errs"
)

// Reader reads a raft.db that may be damaged, past all that cannot be read. It is not
// bbolt that reads it, which panics on damage.
type Reader struct {
	locked     lockedFile
	check      *checker // nil: nothing can be read
	conf, logs element
}

// OpenReader opens the raft.db at path, and keeps nodes away from it until Close. An
// error that wraps [errs.Damaged] says what is wrong with the structure of the file:
// what can be read is read all the same.
func OpenReader(path string, wait time.Duration) (*Reader, error) {
	found, err := find(path)
	if err == nil && !found {
		err = fmt.Errorf("%w: there is no node's data", errs.Invalid)
	}
	if err != nil {
		return nil, err
	}
	locked, err := lock(path, wait)
	if err != nil {
		return nil, err
	}
	info, err := locked.file.Stat()
	if err != nil {
		return nil, errors.Join(err, locked.Close())
	}
	r := &Reader{locked: locked}
	if err := r.find(&checker{file: locked.file, size: info.Size()}); err != nil {
		return r, fmt.Errorf("%w: %w", errs.Damaged, err)
	}
	return r, nil
}

// find finds the buckets.
func (r *Reader) find(check *checker) error {
	meta, damage := check.readMetas()
	if meta.root == 0 {
		return damage
	}
	conf, logs, err := check.buckets(meta.root)
	if err != nil {
		return errors.Join(damage, err)
	}
	r.check, r.conf, r.logs = check, conf, logs
	return damage
}

// Close lets go of the file.
func (r *Reader) Close() error {
	if r == nil {
		return nil
	}
	r.check = nil
	return r.locked.Close()
}

// CanRead reports whether there is a log that can be read.
func (r *Reader) CanRead() bool { return r != nil && r.check != nil }

// Values reads all that the file has beside the log, as far as it can be read.
func (r *Reader) Values() (map[string][]byte, error) {
	values := map[string][]byte{}
	err := r.check.walkBucket(r.conf, walk{visit: func(e element) error {
		values[string(e.key)] = e.value
		return checkConfKey(e)
	}})
	return values, err
}

// Entries reads the log. visit gets each entry, or why what is stored at its index, of
// so many bytes, is none. skip is told of each place that cannot be read, and the lowest
// index that may be there, if that is known; the log goes on behind it. An error of either
// ends the reading.
func (r *Reader) Entries(visit func(index uint64, entry *raft.Log, size int, err error) error, skip func(low uint64, err error) error) error {
	check := *r.check
	check.seen = make([]bool, check.pages)
	var stop error
	visitElement := func(e element) error {
		if err := checkLogKey(e); err != nil {
			return err
		}
		entry := new(raft.Log)
		err := Contain(func() error { return codec.NewDecoderBytes(e.value, new(codec.MsgpackHandle)).Decode(entry) })
		if err != nil {
			entry = nil
		}
		stop = visit(binary.BigEndian.Uint64(e.key), entry, len(e.value), err)
		return stop
	}
	skipPage := func(low []byte, err error) error {
		if stop != nil {
			return stop
		}
		var index uint64
		if len(low) == 8 {
			index = binary.BigEndian.Uint64(low)
		}
		stop = skip(index, err)
		return stop
	}
	err := check.walkBucket(r.logs, walk{visit: visitElement, skip: skipPage})
	if err != nil {
		err = skipPage(nil, err)
	}
	return err
}

// lockedFile is a file under bbolt's shared lock: nobody writes to it until it is
// closed.
type lockedFile struct {
	*bbolt.DB
	file *os.File // the DB's
}

// lock locks the file at path. bbolt looks at no more of it than the meta pages.
func lock(path string, wait time.Duration) (locked lockedFile, err error) {
	options := bboltOptions(wait)
	options.ReadOnly = true
	options.OpenFile = func(path string, flag int, mode os.FileMode) (file *os.File, err error) {
		locked.file, err = os.OpenFile(path, flag, mode)
		return locked.file, err
	}
	err = Contain(func() (err error) {
		locked.DB, err = bbolt.Open(path, 0, options)
		return err
	})
	if err != nil {
		err = readError(lockError(err))
	}
	return locked, err
}
