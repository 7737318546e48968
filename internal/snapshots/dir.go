package snapshots

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/durable"
)

// directory is the directory of the snapshots, as files uses it. Names are
// relative to it, with slashes. Tests let one of its operations fail, or be the last.
type directory interface {
	// Make makes the directory unless it is there.
	Make() (directory, error)
	ReadDir() ([]fs.DirEntry, error)
	Open(name string) (*os.File, error)
	Mkdir(name string) error
	Create(name string) (file, error)
	Rename(from, to string) error
	RemoveAll(name string) error
	// Sync makes the names in the directory name durable; "." is the directory itself.
	Sync(name string) error
	Close() error
}

// file is a file that is written once.
type file interface {
	io.WriteCloser
	Sync() error
}

// rootDir is a directory of the file system. It holds the directory by a handle: it
// stays the same one when it, or what is above it, gets another name, and when the
// process changes its working directory.
type rootDir struct{ *os.Root }

// openDirectory opens the directory of the snapshots at path. It need not be there.
func openDirectory(path string) (directory, error) {
	root, err := os.OpenRoot(path) // a link to another disk is followed
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return absentDir{path: path}, nil
	case err != nil:
		return nil, err
	}
	return rootDir{root}, nil
}

// absentDir is the directory of a node that has none yet. All else is to be done with
// what Make returns.
type absentDir struct {
	directory
	path string
}

func (d absentDir) ReadDir() ([]fs.DirEntry, error) { return nil, nil }
func (d absentDir) Sync(string) error               { return nil }
func (d absentDir) Close() error                    { return nil }

func (d absentDir) Make() (directory, error) {
	if err := durable.MakeDir(d.path); err != nil {
		return d, err
	}
	return openDirectory(d.path)
}

func (d rootDir) Make() (directory, error) { return d, nil }

func (d rootDir) ReadDir() ([]fs.DirEntry, error) { return fs.ReadDir(d.FS(), ".") }

func (d rootDir) Mkdir(name string) error { return d.Root.Mkdir(name, 0o700) }

func (d rootDir) Create(name string) (file, error) {
	return d.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (d rootDir) Sync(name string) error {
	if runtime.GOOS == "windows" { // which has no such call
		return nil
	}
	dir, err := d.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// name is the id of a snapshot, which is the name of its directory: raft's file
// snapshot store gave them in this form.
type name struct {
	term, index uint64
	number      int64 // milliseconds since 1970 as a rule; it only tells snapshots apart that end at one entry
}

func (n name) String() string { return fmt.Sprintf("%d-%d-%d", n.term, n.index, n.number) }

// parseName returns false for what is no name of a snapshot.
func parseName(id string) (n name, ok bool) {
	_, err := fmt.Sscanf(id, "%d-%d-%d", &n.term, &n.index, &n.number)
	return n, err == nil && n.String() == id
}

// mark is what the name alone tells of its snapshot.
func (n name) mark() disk.SnapshotMark {
	return disk.SnapshotMark{ID: n.String(), Index: n.index, Term: n.term}
}
