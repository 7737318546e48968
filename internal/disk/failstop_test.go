package disk

import (
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/disktest"
)

// nothingFSM applies nothing.
type nothingFSM struct{}

func (nothingFSM) Apply(*raft.Log) any                 { return nil }
func (nothingFSM) Snapshot() (raft.FSMSnapshot, error) { return nothingSnapshot{}, nil }
func (nothingFSM) Restore(r io.ReadCloser) error       { return r.Close() }

type nothingSnapshot struct{}

func (nothingSnapshot) Persist(sink raft.SnapshotSink) error {
	_, err := sink.Write([]byte("nothing"))
	return err
}
func (nothingSnapshot) Release() {}

// raftOver starts a raft of one node over l, on a goroutine of its own. It
// returns nil if that goroutine ended or raft did not start.
func raftOver(l *Log, snaps raft.SnapshotStore, bootstrap bool) (node *raft.Raft) {
	conf := raft.DefaultConfig()
	conf.LocalID = "n1"
	conf.Logger = hclog.NewNullLogger()
	conf.TrailingLogs = 5
	done := make(chan struct{})
	go func() {
		defer close(done)
		addr, trans := raft.NewInmemTransport("n1")
		if bootstrap {
			members := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: addr}}}
			if err := raft.BootstrapCluster(conf, l, l.stable, snaps, trans, members); err != nil {
				return
			}
		}
		if started, err := raft.NewRaft(conf, nothingFSM{}, l, l.stable, snaps, trans); err == nil {
			node = started
		}
	}()
	<-done
	return node
}

// exercise lets raft become leader, apply commands, take a snapshot and apply
// more, as far as it gets.
func exercise(node *raft.Raft, told *disktest.Failures) {
	for node.State() != raft.Leader && len(told.Told()) == 0 {
		time.Sleep(time.Second)
	}
	for i := range 20 {
		if node.Apply(fmt.Append(nil, i), time.Second).Error() != nil {
			return
		}
		if i == 10 && !snapshotTaken(node) {
			return
		}
	}
}

func snapshotTaken(node *raft.Raft) bool {
	taken := make(chan error, 1)
	go func() { taken <- node.Snapshot().Error() }()
	select {
	case err := <-taken:
		return err == nil
	case <-time.After(time.Minute): // raft has lost the goroutine that would answer
		return false
	}
}

// TestRaftOverAStoreThatFailsAnywhereEndsWithoutAPanic runs raft over a disk
// that fails at each of the operations of a node's birth, life and second
// start. A panic would end the test.
func TestRaftOverAStoreThatFailsAnywhereEndsWithoutAPanic(t *testing.T) {
	for name, fault := range disktest.Faults {
		for _, again := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, second start %t", name, again), func(t *testing.T) {
				failed := 0
				for k := 1; ; k++ {
					if !raftFailsAt(t, k, again, fault) {
						break
					}
					failed++
				}
				if failed < 10 {
					t.Fatalf("raft made only %d operations of storage", failed)
				}
			})
		}
	}
}

// raftFailsAt reports whether raft came so far as to make k operations.
func raftFailsAt(t *testing.T, k int, again bool, fault func(func()) error) (failed bool) {
	synctest.Test(t, func(t *testing.T) {
		disk := disktest.NewFaultStore()
		snaps := raft.NewInmemSnapshotStore()
		if again {
			node := raftOver(openTestLog(t, disk), snaps, true)
			exercise(node, &disktest.Failures{})
			if err := node.Shutdown().Error(); err != nil {
				t.Fatal(err)
			}
		}
		told := &disktest.Failures{}
		l, err := Open(Options{Store: disk, CacheBytes: 1, Stall: time.Minute, Fail: told.Tell})
		if err != nil {
			t.Fatal(err)
		}
		disk.FailAt(k, fault)
		if node := raftOver(l, snaps, !again); node != nil {
			exercise(node, told)
			if err := node.Shutdown().Error(); err != nil {
				t.Fatal(err)
			}
		}
		failed = disk.Count() >= k
		if n := len(told.Told()); failed != (n == 1) || n > 1 {
			t.Fatalf("operation %d of %d: told %v", k, disk.Count(), told.Told())
		}
	})
	return failed
}

func TestAPanicOfTheStoreIsAnError(t *testing.T) {
	err := boltlog.Contain(func() error { panic("bad page") })
	if err == nil || err.Error() != "kvraft: damaged data: storage panicked: bad page" {
		t.Fatalf("got %v", err)
	}
}
