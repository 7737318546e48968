package disktest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// FilesIn returns the files below dir by their relative names.
func FilesIn(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[name], err = os.ReadFile(filepath.Join(dir, name))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// EntriesOf returns the entries of a log.
func EntriesOf(t *testing.T, log raft.LogStore) (entries []*raft.Log) {
	t.Helper()
	first, err := log.FirstIndex()
	Must(t, err)
	last, err := log.LastIndex()
	Must(t, err)
	for index := first; index <= last && last > 0; index++ {
		entry := new(raft.Log)
		Must(t, log.GetLog(index, entry))
		entries = append(entries, entry)
	}
	return entries
}

// WriteFiles writes files below dir, by their relative names.
func WriteFiles(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// Tree is all that is below a directory, by name: mode, time of the last change, content.
func Tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := fmt.Sprint(info.Mode(), info.ModTime())
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += string(content)
		}
		all[path] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// WantSameTree makes sure that below dir nothing differs from a Tree of before.
func WantSameTree(t *testing.T, dir string, before map[string]string) {
	t.Helper()
	after := Tree(t, dir)
	for path, was := range before {
		if is, there := after[path]; is != was {
			t.Errorf("%s was changed, or removed (it is there: %v)", path, there)
		}
		delete(after, path)
	}
	for path := range after {
		t.Errorf("%s was made", path)
	}
}

// Must ends the test if err is an error.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Flip changes a byte of a file, at a share of its length.
func Flip(t *testing.T, path string, share float64) {
	t.Helper()
	content, err := os.ReadFile(path)
	Must(t, err)
	content[int(float64(len(content)-1)*share)] ^= 0x10
	Must(t, os.WriteFile(path, content, 0o600))
}

// CopyOf is a copy of a directory below another, where nobody knows it.
func CopyOf(t *testing.T, below, stored string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "node")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(below, stored))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TakeSnapshot completes a snapshot of a state.
func TakeSnapshot(snaps raft.SnapshotStore, state []byte, index, term uint64) error {
	_, trans := raft.NewInmemTransport("")
	members := raft.Configuration{Servers: []raft.Server{{ID: "n1#ab", Address: "10.0.0.1:7000"}}}
	sink, err := snaps.Create(1, index, term, members, 1, trans)
	if err != nil {
		return err
	}
	if _, err := sink.Write(state); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// ReplaceIn replaces the first old in a file by new.
func ReplaceIn(path, old, new string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.Replace(string(data), old, new, 1)), 0o600)
}
