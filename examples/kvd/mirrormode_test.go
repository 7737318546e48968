package main

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kvraft/kvraft"
)

func TestAMirrorIsForTheNodesUserUnlessAsked(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no permissions")
	}
	store := openAlone(t)
	batch(t, store, kvraft.SetOp("a", nil), kvraft.SetOp("dir/b", []byte("secret")))
	for _, c := range []struct {
		mode       fileMode
		file, dirs fs.FileMode
	}{{0, 0o600, 0o700}, {0o640, 0o640, 0o750}, {0o644, 0o644, 0o755}, {0o666, 0o666, 0o777}} {
		m := newTestMirror(t, store)
		m.dir, m.mode = filepath.Join(m.dir, "new"), c.mode
		if err := m.open(); err != nil {
			t.Fatal(err)
		}
		m.compare(viewOf(t, store))
		if err := m.put("dir/c", nil); err != nil || m.failed != nil {
			t.Fatal(err, m.failed)
		}
		wantPerms(t, m, c.file, c.dirs)
	}
}

// wantPerms wants these of all files; directories may be narrower by the umask.
func wantPerms(t *testing.T, m *mirror, file, dirs fs.FileMode) {
	t.Helper()
	err := filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if perm := info.Mode().Perm(); d.IsDir() && perm&^dirs != 0 || !d.IsDir() && perm != file {
			t.Errorf("mode %#o: %s has %v", m.mode, path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// An earlier version let everybody read them.
func TestAMirrorThatOthersCouldReadIsClosedToThem(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no permissions")
	}
	store := openAlone(t)
	batch(t, store, kvraft.SetOp("a", []byte("secret")), kvraft.SetOp("dir/b", nil))
	m := newTestMirror(t, store)
	m.compare(viewOf(t, store))
	for name, perm := range map[string]fs.FileMode{"a": 0o644, "dir": 0o755, "dir/b": 0o644} {
		if err := os.Chmod(filepath.Join(m.dir, name), perm); err != nil {
			t.Fatal(err)
		}
	}
	m.compare(viewOf(t, store))
	wantPerms(t, m, 0o600, 0o700)
}

func TestTheModeOfAMirrorIsThatOfFiles(t *testing.T) {
	for _, mode := range []string{"0600", "600", "0644", "0660", "666"} {
		c, err := parseFlags([]string{"-inmem", "-mirror", "m", "-mirror-mode", mode}, io.Discard)
		if got := c.mode.String(); err != nil || strings.TrimPrefix(got, "0") != strings.TrimPrefix(mode, "0") {
			t.Errorf("%s: %q, %v", mode, got, err)
		}
	}
	for _, flags := range [][]string{{"-mirror-mode", "0644"}, {"-mirror", "m", "-mirror-mode", "0400"}, {"-mirror", "m", "-mirror-mode", "0755"},
		{"-mirror", "m", "-mirror-mode", "0444"}, {"-mirror", "m", "-mirror-mode", "u=rw"}, {"-mirror", "m", "-mirror-mode", "7777"}} {
		var out strings.Builder
		if _, err := parseFlags(append([]string{"-inmem"}, flags...), &out); err == nil || !strings.Contains(out.String(), "-mirror") {
			t.Errorf("%q: %v, %q", flags, err, out.String())
		}
	}
}
