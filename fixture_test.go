package kvraft_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/kvraft/kvraft"
)

// testdata/hraftd has directories as hraftd leaves them: node0 is alone, node1 to
// node3 are a cluster. What could be opened once must be for ever, so that they are
// written anew for a good reason only.
var writeFixtures = flag.Bool("write-fixtures", false, "write testdata/hraftd anew")

func TestTheFixturesOfHraftdAreTakenOver(t *testing.T) {
	const fixtures = "testdata/hraftd"
	if *writeFixtures {
		writeHraftd(t, fixtures, "node0")
		writeHraftd(t, fixtures, "node1", "node2", "node3")
	}
	for _, nodes := range [][]string{{"node0"}, {"node1", "node2", "node3"}} {
		for _, id := range nodes {
			dir := filepath.Join(t.TempDir(), id)
			if err := os.CopyFS(dir, os.DirFS(filepath.Join(fixtures, id))); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir, kvraft.WithID(id))
			if len(nodes) > 1 { // it has no majority
				if st := s.Status(); st.ID != id || len(st.Nodes) != len(nodes) || st.State == kvraft.Joining {
					t.Errorf("%+v", st)
				}
				continue
			}
			wantValue(t, s, "user1", "batman")
			wantValue(t, s, "user2", "robin")
			eventually(t, "it is known at its new address", ready(s))
			if st := s.Status(); st.Keys != 2 || st.Nodes[0].Addr != st.Addr {
				t.Errorf("%+v", st)
			}
		}
	}
}

// writeHraftd writes a directory for each node: the first one has the whole log, the
// second a snapshot and the rest, the third a snapshot alone.
func writeHraftd(t *testing.T, into string, ids ...string) {
	t.Helper()
	h := &hraftd{t: t}
	for i, id := range ids {
		dir := filepath.Join(into, id)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		logs, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db")})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := logs.Close(); err != nil {
				t.Error(err)
			}
		}()
		h.nodes = append(h.nodes, &hraftdNode{id: id, addr: fmt.Sprintf("127.0.0.%d:12000", i+1), logs: logs, dir: dir})
	}
	h.start()
	h.set("user1", "superman")
	h.set("user2", "robin")
	h.set("user3", "joker")
	if len(ids) > 1 {
		h.snapshot(1, 2)
	}
	h.delete("user3")
	h.set("user1", "batman")
	if len(ids) > 2 {
		h.snapshot(2, 0)
	}
	h.stop()
}

// One that is refused is left as it was, as far as hraftd sees.
func TestHraftdGoesOnWithADirectoryThatWasNotTakenOver(t *testing.T) {
	into := t.TempDir()
	writeHraftd(t, into, "node0")
	dir := filepath.Join(into, "node0")
	_, err := kvraft.Open(dir, kvraft.WithAddr("127.0.0.1:0"), kvraft.WithID("another"))
	if !errors.Is(err, kvraft.ErrInvalid) {
		t.Fatal(err)
	}
	logs, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db")})
	if err != nil {
		t.Fatal(err)
	}
	h := &hraftd{t: t, nodes: []*hraftdNode{{id: "node0", addr: "127.0.0.1:12000", logs: logs, dir: dir}}}
	h.start()
	h.set("user3", "alfred")
	h.stop()
	if err := logs.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	for key, value := range map[string]string{"user1": "batman", "user2": "robin", "user3": "alfred"} {
		wantValue(t, s, key, value)
	}
}
