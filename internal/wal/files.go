package wal

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
)

// files is what a log needs of a directory. Tests put one in its place that fails, and
// that loses at a power cut what was not synced.
type files interface {
	list() (names []string, err error)
	open(name string, writable bool) (file, error)
	// create makes a file, or takes the one of that name from its start on.
	create(name string) (file, error)
	rename(from, to string) error
	remove(name string) error
	sync() error // makes the names durable
	// beside runs f beside what else is done in the directory. Tests run it at once, so that
	// operations have one order.
	beside(f func())
	Close() error
}

// file is what a log needs of a file.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes durable what was written, and where the file has it.
	Sync() error
	size() (int64, error)
	// allocate makes the file so large, on blocks that are its own from then on.
	allocate(size int64) error
}

// directory is a directory of the operating system's, whatever becomes of its name.
type directory struct {
	*os.Root
	names *os.File // itself, so that it can be synced when there is no other descriptor
}

func openDirectory(path string) (d directory, err error) {
	root, err := os.OpenRoot(path) // a link to another disk is followed
	if err != nil {
		return d, err
	}
	names, err := root.Open(".")
	if err != nil {
		return d, errors.Join(err, root.Close())
	}
	return directory{root, names}, nil
}

func (d directory) beside(f func()) { go f() }

func (d directory) Close() error { return errors.Join(d.names.Close(), d.Root.Close()) }

func (d directory) list() (names []string, err error) {
	entries, err := fs.ReadDir(d.FS(), ".")
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, err
}

func (d directory) open(name string, writable bool) (file, error) {
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	return d.openFile(name, flag)
}

func (d directory) create(name string) (file, error) {
	return d.openFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

func (d directory) openFile(name string, flag int) (file, error) {
	f, err := d.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d directory) rename(from, to string) error { return d.Rename(from, to) }

func (d directory) remove(name string) error {
	if err := d.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sync makes the names durable. Windows has no such call.
func (d directory) sync() error {
	if runtime.GOOS == "windows" {
		return nil
	}
	return d.names.Sync()
}

// osFile is a file of the operating system's.
type osFile struct{ *os.File }

func (f osFile) Sync() error { return datasync(f.File) }

func (f osFile) size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// allocate writes zeros: what is reserved without, as by fallocate, the file system turns
// into blocks of data when it is written to, which takes a second write to the disk at each
// sync; and where that fails behind the back of a sync, it may not tell.
func (f osFile) allocate(size int64) error {
	was, err := f.size()
	if err != nil {
		return err
	}
	zeros := make([]byte, 1<<18)
	for offset := was; offset < size; offset += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-offset)], offset); err != nil {
			return err
		}
	}
	return nil
}
