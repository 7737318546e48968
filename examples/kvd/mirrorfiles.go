package main

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// put writes the file of key.
func (m *mirror) put(key string, value []byte) error {
	path := pathOf(key)
	name := join(path)
	if err := m.makeDirs(path[:len(path)-1]); err != nil {
		return err
	}
	if m.isDir(name) {
		name += beside
	}
	return m.write(name, value)
}

// write replaces a file as a whole.
func (m *mirror) write(name string, content []byte) error {
	f, err := m.root.OpenFile(newName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil && m.perm() != 0o600 { // whatever the umask
		err = f.Chmod(m.perm())
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = m.root.Rename(newName, name)
	}
	if err != nil { // what is left takes room
		return errors.Join(err, m.root.Remove(newName))
	}
	return nil
}

// makeDirs makes the directories of path. A file in the place of one goes beside it.
func (m *mirror) makeDirs(path []string) error {
	if m.isDir(join(path)) {
		return nil
	}
	for i := range path {
		name := join(path[:i+1])
		err := m.root.Mkdir(name, m.dirPerm())
		if errors.Is(err, fs.ErrExist) && !m.isDir(name) {
			if err := m.root.Rename(name, name+beside); err != nil {
				return err
			}
			err = m.root.Mkdir(name, m.dirPerm())
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// remove deletes the file of key, and the directories that were only there for it.
func (m *mirror) remove(key string) error {
	path := pathOf(key)
	name := join(path)
	if m.isDir(name) {
		name += beside
	}
	if err := m.root.Remove(name); err != nil && !isAbsent(err) {
		return err
	}
	for i := len(path) - 1; i > 0; i-- {
		dir := join(path[:i])
		if !m.isDir(dir) {
			continue
		}
		if err := m.root.Remove(dir); isNotEmpty(err) {
			return nil
		} else if err != nil {
			return err
		}
		if err := m.root.Rename(dir+beside, dir); err != nil && !isAbsent(err) {
			return err
		}
	}
	return nil
}

func (m *mirror) isDir(name string) bool {
	info, err := m.root.Lstat(name)
	return err == nil && info.IsDir()
}

func join(path []string) string {
	if len(path) == 0 {
		return "."
	}
	return strings.Join(path, "/")
}

// isAbsent reports whether there is no file, or a file in the place of its directory.
func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func isNotEmpty(err error) bool {
	return errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist)
}
