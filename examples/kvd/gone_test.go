package main_test

import (
	"os"
	"path/filepath"
	"testing"
)

func (n *node) loseData(t *testing.T) {
	t.Helper()
	names, err := os.ReadDir(n.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name.Name() == "kvd.json" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(n.dir, name.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

// A disk that is mounted elsewhere must not become an empty cluster.
func TestANodeWhoseDataAreGoneFormsNoNewClusterUnlessTold(t *testing.T) {
	n := newNode(t, "node0")
	n.start(t)
	waitReady(t, n)
	n.stop(t)
	n.loseData(t)
	expectExit(t, 1, []string{n.dir}, "kvd: kvd.json remembers a node in "+n.dir+", but its data are gone", "-form-new")
	expectExit(t, 1, n.args(), "its data are gone")
	n.restart(t, "-form-new")
	n.stop(t)
	n.restart(t)
	n.stop(t)
	n.loseData(t) // the permission was for once
	expectExit(t, 1, []string{n.dir}, "its data are gone")
}

func TestANodeWhoseDataAreGoneJoinsAgain(t *testing.T) {
	first := newNode(t, "node0")
	first.start(t)
	waitReady(t, first)
	replica := newNode(t, "node1", "-join", first.haddr, "-replica")
	replica.start(t)
	waitReady(t, replica)
	replica.stop(t)
	replica.loseData(t)
	replica.restart(t)
}
