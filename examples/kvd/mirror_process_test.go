package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// putFile sets a key to bytes, or deletes it if there are none.
func putFile(t *testing.T, n *node, key, value string) {
	t.Helper()
	method := http.MethodPut
	if value == "" {
		method = http.MethodDelete
	}
	r, err := http.NewRequest(method, n.url("/files?key="+url.QueryEscape(key)), strings.NewReader(value))
	if err != nil {
		t.Fatal(err)
	}
	if code, body, err := answer(client.Do(r)); err != nil || code/100 != 2 {
		t.Fatalf("%s %q: %d %s, %v", method, key, code, body, err)
	}
}

// waitFiles waits until the mirror has exactly these files.
func waitFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	eventually(t, "the files in "+dir, func() string {
		left := len(want)
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "%mirror" {
				return err
			}
			name, _ := filepath.Rel(dir, path)
			content, err := os.ReadFile(path)
			if err == nil && string(content) != want[name] {
				return fmt.Errorf("%q is %.40q, want %.40q", name, content, want[name])
			}
			left--
			return err
		})
		if err != nil {
			return err.Error()
		}
		if left > 0 {
			return fmt.Sprintf("%d are missing", left)
		}
		return ""
	})
}

func TestEachNodeMirrorsEveryKeyAsAFile(t *testing.T) {
	mirrors := t.TempDir()
	mirrorOf := func(n *node) string { return filepath.Join(mirrors, n.id) }
	var nodes []*node
	for i := range 3 {
		n := newNode(t, fmt.Sprint("node", i))
		n.flags = []string{"-mirror", mirrorOf(n)}
		if i > 0 {
			n.flags = append(n.flags, "-join", nodes[0].haddr)
		}
		nodes = append(nodes, n)
		n.start(t)
		waitReady(t, n)
	}
	large := string(bytes.Repeat([]byte{0, 0xff, '\n'}, 1<<18))
	putFile(t, nodes[0], "user1", "batman")
	putFile(t, nodes[1], "dir/name", large)
	putFile(t, nodes[2], "dir", "beside it")
	putFile(t, nodes[0], "../../outside", "in")
	putFile(t, nodes[1], "/etc/passwd", "in too")
	want := map[string]string{"user1": "batman", "dir/name": large, "dir%": "beside it", "%2E%2E/%2E%2E/outside": "in", "%/etc/passwd": "in too"}
	for _, n := range nodes {
		waitFiles(t, mirrorOf(n), want)
	}

	nodes[2].kill()
	putFile(t, nodes[0], "user1", "robin")
	putFile(t, nodes[0], "dir/name", "")
	putFile(t, nodes[0], "../../outside", "")
	for _, change := range []func(string) error{ // while nobody looks
		func(dir string) error { return os.WriteFile(filepath.Join(dir, "stray"), []byte("x"), 0o600) },
		func(dir string) error { return os.RemoveAll(filepath.Join(dir, "%")) },
	} {
		if err := change(mirrorOf(nodes[2])); err != nil {
			t.Fatal(err)
		}
	}
	nodes[2].start(t)
	waitReady(t, nodes[2])
	want = map[string]string{"user1": "robin", "dir": "beside it", "%/etc/passwd": "in too"}
	for _, n := range nodes {
		waitFiles(t, mirrorOf(n), want)
	}
	if found, err := os.ReadDir(mirrors); err != nil || len(found) != len(nodes) {
		t.Errorf("beside the mirrors: %v, %v", found, err)
	}
	for _, n := range nodes {
		n.signal(syscall.SIGTERM)
		if code := n.exitCode(); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	}
}

func TestAMirrorWhereOtherFilesAreIsRefused(t *testing.T) {
	full, others := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{filepath.Join(full, "precious"): "content", filepath.Join(others, "%mirror"): "This is the mirror of kvd node node1"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, mirror := range []func(*node) string{
		func(*node) string { return full },
		func(*node) string { return others },
		func(n *node) string { return n.dir },
		func(n *node) string { return filepath.Join(n.dir, "files") },
		func(n *node) string { return filepath.Dir(n.dir) },
	} {
		n := newNode(t, "node0")
		n.flags = []string{"-mirror", mirror(n)}
		n.start(t)
		if code := n.exitCode(); code != 1 {
			t.Errorf("%s: exit code %d, want 1", mirror(n), code)
		}
		n.waitOutput("-mirror " + mirror(n) + ": not a directory for a mirror")
		if _, err := os.Stat(n.dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the start that failed has made DIR: %v", mirror(n), err)
		}
	}
	if content, err := os.ReadFile(filepath.Join(full, "precious")); err != nil || string(content) != "content" {
		t.Errorf("the file that was there is %q, %v", content, err)
	}
}

// Root may write everywhere, and so kvd runs as somebody else for it.
func TestAMirrorThatTheUserMayNotWriteToIsRefused(t *testing.T) {
	n := newNode(t, "node0")
	base := t.TempDir()
	n.dir = filepath.Join(base, "data")
	const nobody = 65534
	if os.Getuid() == 0 {
		for _, dir := range []string{filepath.Dir(kvd), filepath.Dir(base), base} {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := filepath.Join(base, "mirror")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o000, 0o555} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		for _, mirror := range []string{dir, filepath.Join(dir, "new")} {
			n.process = newProcess(t, kvd, "-haddr", n.haddr, "-raddr", n.raddr, "-mirror", mirror, n.dir)
			if os.Getuid() == 0 {
				n.runAs(nobody)
			}
			n.launch()
			if code := n.exitCode(); code != 1 {
				t.Errorf("%v %s: exit code %d, want 1", mode, mirror, code)
			}
			_, out, _ := strings.Cut(n.output.String(), "\n") // after the line with the version
			if strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "kvd: -mirror "+mirror+": ") || !strings.HasSuffix(out, "permission denied; name a directory that this user may write to\n") {
				t.Errorf("%v %s: %s", mode, mirror, out)
			}
		}
	}
}
