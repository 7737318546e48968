package main_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// leftBy copies a directory that hraftd has left.
func leftBy(t *testing.T, id, dir string) {
	t.Helper()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "..", "testdata", "hraftd", id))); err != nil {
		t.Fatal(err)
	}
}

func TestTheDirectoryOfAStoppedHraftdIsServed(t *testing.T) {
	for _, flags := range [][]string{nil, {"-id", "node0"}, {"-id", "node0", "-bootstrap-expect", "3", "-join", "localhost:1"}} {
		n := newNode(t, "node0")
		leftBy(t, n.id, n.dir)
		args := slices.Concat(flags, []string{"-haddr", n.haddr, "-raddr", n.raddr, n.dir})
		for _, announced := range []string{"node node0 goes on with the data of ", "node node0 goes on with the data of cluster "} {
			n.process = startCommand(t, kvd, args...)
			n.waitOutput(announced)
			waitReady(t, n)
			n.waitOutput("kvd: try: curl -XPOST " + n.haddr)
			if _, body, err := get(n.url("/key/user1")); err != nil || strings.TrimSpace(body) != `{"user1":"batman"}` {
				t.Errorf("%s, %v", body, err)
			}
			if err := set(n, "user3", "alfred"); err != nil {
				t.Error(err)
			}
			n.signal(syscall.SIGTERM)
			if code := n.exitCode(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		}
	}
}

func TestANodeOfHraftdsThatCannotAnswerYetNamesNoCommandToTry(t *testing.T) {
	n := newNode(t, "node2") // of three
	leftBy(t, n.id, n.dir)
	n.start(t)
	n.waitOutput("2 of 3 voters do not answer")
	if strings.Contains(n.output.String(), "kvd: try: ") {
		t.Error("it names one")
	}
}

func TestADirectoryOfHraftdThatCannotBeTakenOverIsExplained(t *testing.T) {
	n := newNode(t, "node2")
	leftBy(t, n.id, n.dir)
	expectExit(t, 1, []string{"-haddr", n.haddr, "-raddr", n.raddr, n.dir}, "node1, node2, node3", "kvd -id")
	expectExit(t, 1, []string{"-haddr", n.haddr, "-raddr", n.raddr, "-id", "node4", n.dir}, `no member has the id "node4"`)
	expectExit(t, 1, []string{"recover", n.dir}, "the data of hraftd")
	path := filepath.Join(n.dir, "raft.db")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data = []byte(strings.Replace(string(data), `"op":"set"`, `"op":"put"`, -1))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	expectExit(t, 1, n.args(), "damaged data: entry 4", `unknown operation "put"`)
}
