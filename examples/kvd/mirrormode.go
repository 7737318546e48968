package main

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strconv"
)

// fileMode is what the permissions of a file may be; zero: the default.
type fileMode fs.FileMode

func (m *fileMode) String() string {
	if *m == 0 {
		return ""
	}
	return fmt.Sprintf("%#o", uint32(*m))
}

func (m *fileMode) Set(text string) error {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode&^0o666 != 0 || mode&0o600 != 0o600 {
		return errors.New("want an octal number such as 0644, by which the node itself can read and write them and nobody execute")
	}
	*m = fileMode(mode)
	return nil
}

// perm is that of each file: nobody else reads what only the node's user can read in its
// data, unless that is asked for.
func (m *mirror) perm() fs.FileMode {
	if m.mode == 0 {
		return 0o600
	}
	return fs.FileMode(m.mode)
}

// dirPerm lets those list a directory who may read a file.
func (m *mirror) dirPerm() fs.FileMode { return m.perm() | m.perm()>>2&0o111 }

// shows reports whether others may do more than perm allows, as an earlier version let
// them. Windows has no such permissions.
func (m *mirror) shows(info fs.FileInfo, perm fs.FileMode) bool {
	return runtime.GOOS != "windows" && info.Mode().Perm()&^perm != 0
}
