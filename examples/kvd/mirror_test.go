package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// nastyKeys are in each other's way, and in that of the mirror's own files.
var nastyKeys = []string{
	"user1", "dir/name", "a", "a/", "a/b", "a/b/c", "a//b", "a%", "a%/b", "a%25", "A", "/", "//", "/etc/passwd", "../x", "..", ".", "./a", "a/../b",
	"%", "%%", "%mirror", "%new", "%2E", "\x00", "a\nb", "\xff\xfe", "\xff/\xfe", " ", "ü", strings.Repeat("x", 200), strings.Repeat("x", 201),
	strings.Repeat("x", 1000), strings.Repeat("x", 1000) + "/y", strings.Repeat("\xff", 1000), strings.Repeat("a/", 500), strings.Repeat("../", 300),
	strings.Repeat("d/", 31) + "d", strings.Repeat("d/", 32), strings.Repeat("d/", 32) + "d", strings.Repeat("d/", 32) + "d/d",
}

// wantTree wants the files of the keys in view, and nothing else.
func wantTree(t *testing.T, dir string, view *kvraft.View) {
	t.Helper()
	if diff := differs(dir, view); diff != "" {
		t.Fatal(diff)
	}
}

func differs(dir string, view *kvraft.View) string {
	want := map[string]string{}
	for e := range view.All() {
		name := join(pathOf(e.Key))
		for other := range view.All() {
			if strings.HasPrefix(other.Key, e.Key+"/") && strings.Count(e.Key, "/") < 32 {
				name = join(pathOf(e.Key)) + "%"
			}
		}
		want[name] = string(e.Value)
	}
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		switch {
		case err != nil || name == "." || name == markerName:
			return err
		case d.IsDir():
			if entries, err := os.ReadDir(path); err != nil || len(entries) == 0 {
				return fmt.Errorf("%q is empty, %v", path, err)
			}
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%q is a %v", path, d.Type())
		}
		content, err := os.ReadFile(path)
		got[name] = string(content)
		return err
	})
	if err != nil {
		return err.Error()
	}
	if !maps.Equal(got, want) {
		return fmt.Sprintf("got the files %.3000q, want %.3000q", got, want)
	}
	return ""
}

func newTestMirror(t *testing.T, store *kvraft.Store) *mirror {
	t.Helper()
	m := &mirror{dir: filepath.Join(t.TempDir(), "mirror"), id: "n1", store: store, log: hclog.NewNullLogger(), pause: shortestPause}
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	return m
}

func viewOf(t *testing.T, store *kvraft.Store) *kvraft.View {
	t.Helper()
	view, err := store.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return view
}

func batch(t *testing.T, store *kvraft.Store, ops ...kvraft.Op) {
	t.Helper()
	if _, err := store.Batch(t.Context(), ops...); err != nil {
		t.Error(err)
	}
}

// randomOps are some on nasty keys.
func randomOps(random *rand.Rand) (ops []kvraft.Op) {
	for range 1 + random.IntN(4) {
		key := nastyKeys[random.IntN(len(nastyKeys))]
		if random.IntN(3) == 0 {
			ops = append(ops, kvraft.DeleteOp(key))
		} else {
			ops = append(ops, kvraft.SetOp(key, fmt.Append(nil, random.Uint64())))
		}
	}
	return ops
}

func TestTheFilesFollowEveryChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := kvrafttest.New(t, 1).Store(0)
		m := newTestMirror(t, store)
		random := rand.New(rand.NewPCG(1, 2))
		at := uint64(0)
		for range 150 {
			batch(t, store, randomOps(random)...)
			for e, err := range store.Watch(t.Context(), "", kvraft.After(at), kvraft.SyncEvery(time.Hour)) {
				switch {
				case err != nil:
					t.Fatal(err)
				case e.Kind == kvraft.EventSet:
					m.failWith(e.Key, m.put(e.Key, e.Value))
				case e.Kind == kvraft.EventDelete:
					m.failWith(e.Key, m.remove(e.Key))
				}
				if e.Kind == kvraft.EventSync {
					at = e.Version
					break
				}
			}
			if m.failed != nil {
				t.Fatal(m.failed)
			}
			wantTree(t, m.dir, viewOf(t, store))
		}
	})
}

// Whatever has been done to a mirror while the node was down, and wherever that
// stopped.
func TestAStartBringsAnyFilesUpToDate(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		store := kvrafttest.New(t, 1).Store(0)
		random := rand.New(rand.NewPCG(3, 4))
		for range 20 {
			m := newTestMirror(t, store)
			batch(t, store, randomOps(random)...)
			for range random.IntN(30) {
				path := pathOf(nastyKeys[random.IntN(len(nastyKeys))])
				name := join(path) + []string{"", "", "%", ".x", "%zz"}[random.IntN(5)]
				_ = m.root.MkdirAll(filepath.Dir(name), 0o755) // each of these may fail: another is in its way
				switch random.IntN(4) {
				case 0, 1:
					_ = m.root.WriteFile(name, []byte("old"), 0o644)
				case 2:
					_ = m.root.MkdirAll(name, 0o755)
				case 3:
					_ = m.root.Symlink([]string{outside, "..", filepath.Dir(outside), "a"}[random.IntN(4)], name)
				}
			}
			view := viewOf(t, store)
			m.compare(view)
			if m.failed != nil {
				t.Fatal(m.failed)
			}
			wantTree(t, m.dir, view)
		}
	})
	if content, err := os.ReadFile(outside); err != nil || string(content) != "untouched" {
		t.Errorf("the file outside is %q, %v", content, err)
	}
}

func TestADirectoryThatIsNotForAMirrorIsLeftAlone(t *testing.T) {
	full, file, others := t.TempDir(), filepath.Join(t.TempDir(), "file"), t.TempDir()
	for name, content := range map[string]string{filepath.Join(full, "precious"): "content", file: "content", filepath.Join(others, markerName): "This is the mirror of kvd node n2, which deletes whatever else is here.\n"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for dir, says := range map[string]string{full: `"precious"`, file: "not a directory", others: `here."; name another directory`} {
		m := &mirror{dir: dir, id: "n1"}
		if err := m.open(); !errors.Is(err, errNoMirror) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, which does not tell of %s", err, says)
		}
		m.close()
	}
	if entries, err := os.ReadDir(full); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestANewNodeWithoutAnIDIsCalledByItsAddress(t *testing.T) {
	dir := t.TempDir()
	m := &mirror{dir: dir, id: "localhost:12000"}
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	m.close()
	for raddr, refused := range map[string]bool{"localhost:12000": false, "localhost:12001": true, ":12001": false} {
		err := checkMirror(config{mirror: dir, inMem: true, raddr: setting{value: raddr}})
		if errors.Is(err, errNoMirror) != refused {
			t.Errorf("%s: %v", raddr, err)
		}
	}
}

// It may be the mirror of a node that runs.
func TestCheckingAMirrorChangesNothingInIt(t *testing.T) {
	dir := t.TempDir()
	m := &mirror{dir: dir, id: "n1"}
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	m.close()
	if err := os.WriteFile(filepath.Join(dir, newName), []byte("being written"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"n1", ""} {
		if err := checkMirror(config{mirror: dir, inMem: true, id: setting{value: id}}); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestAMirrorAndTheDataAreApart(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	for _, d := range []string{data, filepath.Join(data, "snapshots"), filepath.Join(dir, "data2")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(data, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for mirror, apart := range map[string]bool{
		"mirror": true, "data2": true, "data2/new/mirror": true, "..data": true,
		"data": false, ".": false, "..": false, "data/snapshots": false, "data/new/mirror": false, "link": false, "link/new": false, "data2/../data": false,
	} {
		err := checkApart(config{mirror: filepath.Join(dir, mirror), dir: data})
		if (err == nil) != apart || err != nil && !errors.Is(err, errNoMirror) {
			t.Errorf("%s: %v", mirror, err)
		}
	}
	if err := checkApart(config{mirror: dir, inMem: true}); err != nil {
		t.Errorf("without data: %v", err)
	}
}

// The data directory is yet to be made.
func TestAMirrorByALinkThatLeadsToTheDataLaterIsRefused(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	for link, target := range map[string]string{
		"absolute": data, "relative": "data", "chain": "relative", "below": "data/below", "elsewhere": "other", "loop": "absent/../loop",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for mirror, apart := range map[string]bool{
		"absolute": false, "relative": false, "chain": false, "below": false, "relative/new": false, "loop": false, "elsewhere": true, "elsewhere/new": true,
	} {
		err := checkApart(config{mirror: filepath.Join(dir, mirror), dir: data})
		if (err == nil) != apart || err != nil && !errors.Is(err, errNoMirror) {
			t.Errorf("%s: %v", mirror, err)
		}
	}
	if err := checkApart(config{mirror: data, dir: filepath.Join(dir, "chain")}); !errors.Is(err, errNoMirror) {
		t.Errorf("the data by a link: %v", err)
	}
}

// logged is what a mirror logs.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// runMirror mirrors until the store closes. The mirror belongs to its goroutine.
func runMirror(t *testing.T, store *kvraft.Store, dir string) *logged {
	t.Helper()
	out := new(logged)
	m := &mirror{dir: dir, id: "n1", store: store, log: hclog.New(&hclog.LoggerOptions{Output: out}), pause: shortestPause}
	go m.run()
	return out
}

// await waits in virtual time.
func await(t *testing.T, what string, missing func() string) {
	t.Helper()
	for range 10_000 {
		if missing() == "" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s: %s", what, missing())
}

func awaitLog(t *testing.T, out *logged, text string) {
	t.Helper()
	await(t, "the log", func() string {
		if log := out.String(); !strings.Contains(log, text) {
			return fmt.Sprintf("%q is not in %s", text, log)
		}
		return ""
	})
}

func TestAMirrorThatCannotBeWrittenIsToldAndCatchesUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mirror")
	synctest.Test(t, func(t *testing.T) {
		store := kvrafttest.New(t, 1).Store(0)
		batch(t, store, kvraft.SetOp("a", []byte("1")), kvraft.SetOp("b", []byte("1")))
		out := runMirror(t, store, dir)
		await(t, "the files", func() string { return differs(dir, viewOf(t, store)) })
		obstacle := filepath.Join(dir, newName, "x")
		if err := os.MkdirAll(obstacle, 0o755); err != nil {
			t.Fatal(err)
		}
		batch(t, store, kvraft.SetOp("a", []byte("2")), kvraft.DeleteOp("b"))
		awaitLog(t, out, "not up to date")
		if content, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(content) != "1" {
			t.Errorf("the file is %q, %v, want it as it was", content, err)
		}
		time.Sleep(10 * time.Minute)
		if err := os.RemoveAll(filepath.Dir(obstacle)); err != nil {
			t.Fatal(err)
		}
		await(t, "the files", func() string { return differs(dir, viewOf(t, store)) })
		awaitLog(t, out, "up to date again")

		if err := os.RemoveAll(dir); err != nil { // it is made anew
			t.Fatal(err)
		}
		batch(t, store, kvraft.SetOp("c", []byte("1")))
		await(t, "the files", func() string { return differs(dir, viewOf(t, store)) })
	})
}

// The history is too short for the mirror, which begins anew.
func TestAMirrorThatIsTooSlowCatchesUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mirror")
	synctest.Test(t, func(t *testing.T) {
		store := kvrafttest.New(t, 1, kvraft.WithHistory(1)).Store(0)
		out := runMirror(t, store, dir)
		var writers sync.WaitGroup
		for i := range 4 {
			writers.Go(func() {
				random := rand.New(rand.NewPCG(5, uint64(i)))
				for range 500 {
					batch(t, store, randomOps(random)...)
				}
			})
		}
		writers.Wait()
		await(t, "the files", func() string { return differs(dir, viewOf(t, store)) })
		if log := out.String(); log != "" {
			t.Errorf("that is no failure: %s", log)
		}
	})
}

func TestNastyKeysAreKeys(t *testing.T) {
	for _, key := range nastyKeys {
		if key == "" || len(key) > 1<<10 {
			t.Errorf("%q is none", key)
		}
	}
	if sorted := slices.Sorted(slices.Values(nastyKeys)); len(slices.Compact(sorted)) != len(nastyKeys) {
		t.Error("one is there twice")
	}
}
