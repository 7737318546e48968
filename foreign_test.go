package kvraft

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/kvraft/kvraft/internal/disktest"
	"go.etcd.io/bbolt"
)

// raftLogAt makes the log of a program on hashicorp/raft, with these entries from index 1.
func raftLogAt(t *testing.T, path string, entries ...raft.Log) {
	t.Helper()
	disktest.Must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	base, err := raftboltdb.NewBoltStore(path)
	disktest.Must(t, err)
	for i := range entries {
		entries[i].Index, entries[i].Term = uint64(i+1), 1
		disktest.Must(t, base.StoreLog(&entries[i]))
	}
	disktest.Must(t, errors.Join(base.SetUint64([]byte("CurrentTerm"), 1), base.Close()))
}

func boltWith(t *testing.T, path string, bucket, key string) {
	t.Helper()
	disktest.Must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	db, err := bbolt.Open(path, 0o600, nil)
	disktest.Must(t, err)
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(key), []byte("value"))
	})
	disktest.Must(t, errors.Join(err, db.Close()))
}

// texts are files with some text.
func texts(names ...string) map[string][]byte {
	files := map[string][]byte{}
	for _, name := range names {
		files[name] = []byte("text\n")
	}
	return files
}

var (
	configured = raft.Log{Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "127.0.0.1:1"}}})}
	setByJSON  = raft.Log{Data: []byte(`{"op":"set","key":"k","value":"v"}`)}
	ofProtobuf = raft.Log{Data: []byte("\x0a\x12\x08\x01\x12\x0ecore/cluster/x")}
)

// What others have in their directories, and what the error must say.
var foreigners = map[string]struct {
	make func(t *testing.T, dir string)
	want string
}{
	"raft-kv-example": {func(t *testing.T, dir string) {
		command, err := json.Marshal(map[string]string{"Op": "SET", "Key": "k", "Value": "v"})
		disktest.Must(t, err)
		raftLogAt(t, filepath.Join(dir, "raft-log.bolt"), configured, raft.Log{Data: command})
		raftLogAt(t, filepath.Join(dir, "raft-stable.bolt"))
		disktest.WriteFiles(t, dir, texts("snapshots/1-2-1600000000000/meta.json", "snapshots/1-2-1600000000000/state.bin"))
	}, "raft-kv-example (raft-log.bolt)"},
	"raftd": {func(t *testing.T, dir string) {
		disktest.WriteFiles(t, dir, texts("name", "log", "a file of a user's"))
		disktest.Must(t, os.Mkdir(filepath.Join(dir, "snapshot"), 0o700))
	}, "of raftd"},
	"another on goraft": {func(t *testing.T, dir string) {
		disktest.WriteFiles(t, dir, texts("conf", "log", "snapshot/1_2.ss"))
	}, "goraft"},
	"hraftd of 2016": {func(t *testing.T, dir string) {
		raftLogAt(t, filepath.Join(dir, "raft.db"), raft.Log{Type: raft.LogNoop}, setByJSON)
		disktest.WriteFiles(t, dir, texts("peers.json"))
	}, "hraftd of 2016"},
	"hraftd of 2016, without its peers": {func(t *testing.T, dir string) {
		raftLogAt(t, filepath.Join(dir, "raft.db"), setByJSON, raft.Log{Type: raft.LogAddPeerDeprecated, Data: []byte("n2:7000")}, setByJSON)
	}, "before raft's protocol version 3, as hraftd of 2016"},
	"Vault": {func(t *testing.T, dir string) {
		boltWith(t, filepath.Join(dir, "vault.db"), "data", "core/cluster/x")
		raftLogAt(t, filepath.Join(dir, "raft", "raft.db"), configured, ofProtobuf)
	}, "of Vault (vault.db)"},
	"the raft of Vault": {func(t *testing.T, dir string) {
		raftLogAt(t, filepath.Join(dir, "raft.db"), configured, ofProtobuf, ofProtobuf)
		disktest.WriteFiles(t, dir, texts("snapshots/1-2-1600000000000/meta.json"))
	}, "neither kvraft's nor hraftd's"},
	"Consul": {func(t *testing.T, dir string) {
		raftLogAt(t, filepath.Join(dir, "raft", "raft.db"), configured)
		disktest.WriteFiles(t, dir, texts("node-id", "serf/local.snapshot", "raft/peers.info"))
	}, "Consul"},
	"Consul with its newer log": {func(t *testing.T, dir string) {
		disktest.WriteFiles(t, dir, texts("raft/wal/wal-meta.db", "raft/wal/00000000000000000001-0000000000000001.wal"))
	}, "Consul"},
	"rqlite": {func(t *testing.T, dir string) {
		raftLogAt(t, filepath.Join(dir, "raft.db"), configured, raft.Log{Data: []byte("\x08\x01\x12\x10insert")})
		disktest.WriteFiles(t, dir, texts("db.sqlite"))
	}, "of rqlite (db.sqlite, raft.db)"},
	"rqlite in memory": {func(t *testing.T, dir string) {
		raftLogAt(t, filepath.Join(dir, "raft.db"), configured, raft.Log{Data: []byte("\x08\x01\x12\x10insert")})
	}, "neither kvraft's nor hraftd's"},
	"rqlite with a key of its own": {func(t *testing.T, dir string) {
		raftLogAt(t, filepath.Join(dir, "raft.db"), configured)
		boltWith(t, filepath.Join(dir, "raft.db"), "conf", "rqlite_applied_index")
	}, `unknown key "rqlite_applied_index"`},
	"another raft.db of bolt's": {func(t *testing.T, dir string) {
		boltWith(t, filepath.Join(dir, "raft.db"), "meta", "term")
	}, `buckets ["meta"]`},
	"another raft.db": {func(t *testing.T, dir string) { disktest.WriteFiles(t, dir, texts("raft.db")) }, "no file of bbolt's"},
	"etcd": {func(t *testing.T, dir string) {
		disktest.WriteFiles(t, dir, texts("member/wal/0000000000000000-0000000000000000.wal", "member/snap/db"))
	}, "etcd (member/wal)"},
	"etcd's example": {func(t *testing.T, dir string) {
		disktest.WriteFiles(t, dir, texts("raftexample-1/0000000000000000-0000000000000000.wal"))
	}, "raftexample"},
	"raft-wal": {func(t *testing.T, dir string) { disktest.WriteFiles(t, dir, texts("wal-meta.db")) }, "raft-wal"},
	"dqlite": {func(t *testing.T, dir string) {
		disktest.WriteFiles(t, dir, texts("metadata1", "open-1", "cluster.yaml"))
	}, "dqlite"},
}

// Nothing is begun beside them, and nobody is advised to remove them.
func TestTheDataOfAnotherProgramAreNamedAndLeft(t *testing.T) {
	for name, c := range foreigners {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c.make(t, dir)
			before := disktest.Tree(t, dir)
			for what, err := range map[string]error{
				"Open":                openAndClose(dir),
				"Open, by another id": openAndClose(dir, WithID("n1")),
				"Open, for a cluster": openAndClose(dir, WithJoin("127.0.0.1:1")),
				"Recover":             ignore(Recover(dir)),
				"Examine":             ignore(Examine(dir)),
				"OpenLog":             ignore(OpenLog(dir)),
			} {
				if !errors.Is(err, ErrForeign) || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
					t.Errorf("%s: %v, want %s", what, err, c.want)
				}
			}
			disktest.WantSameTree(t, dir, before)
		})
	}
}

// It is damaged, and what can be read of it is hraftd's.
func TestADamagedLogOfHraftdsIsNotTakenForAnothers(t *testing.T) {
	for page := range 8 {
		dir := disktest.CopyOf(t, "testdata", "hraftd/node1")
		disktest.Flip(t, filepath.Join(dir, "raft.db"), float64(page)/8+30./32768)
		l, err := OpenLog(dir)
		disktest.Must(t, err)
		disktest.Must(t, l.Close())
		if err := openAndClose(dir, WithID("node1")); errors.Is(err, ErrForeign) {
			t.Errorf("page %d: %v", page, err)
		}
	}
}

// A disk of its own has some of them, a program that imports kvraft others.
func TestFilesThatAreNoRaftsAreNoHindrance(t *testing.T) {
	dir := t.TempDir()
	disktest.WriteFiles(t, dir, texts("lost+found/#1", ".gitkeep", ".DS_Store", "kvd.json", "log", "name", "notes.txt", "db.sqlite", "peers.json", "raft/notes.txt", "mirror/peers.json"))
	boltWith(t, filepath.Join(dir, "app.db"), "users", "alice")
	raftLogAt(t, filepath.Join(dir, "raft.db.ABC.new")) // of a first start that was killed
	for range 2 {
		disktest.Must(t, openAndClose(dir))
	}
}

// Once the directory is a node's, it stays that, whatever comes to lie in it.
func TestAnothersDataBesideANodesAreNoHindrance(t *testing.T) {
	dir := t.TempDir()
	disktest.Must(t, openAndClose(dir))
	disktest.WriteFiles(t, dir, texts("vault.db", "peers.json", "db.sqlite"))
	disktest.Must(t, openAndClose(dir))
	disktest.Must(t, os.Remove(filepath.Join(dir, "raft.db.mark")))
	disktest.Must(t, openAndClose(dir))
}

// Its owner keeps it where it likes.
func TestALogStoreOfOnesOwnMayLieInTheDirectory(t *testing.T) {
	dir := t.TempDir()
	base, err := raftboltdb.NewBoltStore(filepath.Join(dir, "log.bolt"))
	disktest.Must(t, err)
	defer base.Close()
	disktest.Must(t, openAndClose(dir, WithLogStore(base)))
}
