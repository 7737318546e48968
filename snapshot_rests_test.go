package kvraft

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/internal/pace"
)

// slowFile takes its time for each write and sync.
type slowFile struct {
	takes time.Duration
	n     int
	calls time.Duration
}

func (f *slowFile) Write(p []byte) (int, error) {
	f.n += len(p)
	return len(p), f.Sync()
}

func (f *slowFile) Sync() error {
	f.calls++
	time.Sleep(f.takes)
	return nil
}

func TestASnapshotIsWrittenWithoutRestsWhenTheNextIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newTestFSM(t, 1)
		f.Apply(setEntry(1, 1, "k", string(make([]byte, 4*pace.PieceBytes))))
		snapshot, err := f.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		<-f.due // for that one
		for _, dues := range []bool{false, true} {
			if dues {
				f.Apply(setEntry(2, 1, "k", "v"))
			}
			file := &slowFile{takes: time.Millisecond}
			began := time.Now()
			if err := snapshot.Persist(discarding{file}); err != nil {
				t.Fatal(err)
			}
			busy := file.calls * time.Millisecond
			if rested := time.Since(began) - busy; (rested == 0) != dues {
				t.Errorf("the next is due: %v, and it rested for %v", dues, rested)
			}
		}
	})
}

// Nobody else uses its disk.
func TestTheSnapshotOfARecoveryIsWrittenWithoutRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newTestFSM(t, 1)
		f.Apply(setEntry(1, 1, "k", string(make([]byte, 4*pace.PieceBytes))))
		snapshot, err := (&recovering{f, Recovery{Cluster: "new"}, "n1"}).Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		file := &slowFile{takes: time.Millisecond}
		began := time.Now()
		if err := snapshot.Persist(discarding{file}); err != nil {
			t.Fatal(err)
		}
		if took, writing := time.Since(began), file.calls*time.Millisecond; took != writing || file.n < 4*pace.PieceBytes {
			t.Errorf("%d bytes took %v, of which writing them %v", file.n, took, writing)
		}
	})
}

// discarding is a sink of nothing but a file.
type discarding struct{ *slowFile }

func (discarding) ID() string    { return "" }
func (discarding) Cancel() error { return nil }
func (discarding) Close() error  { return nil }

func TestTheRestsOfASnapshotEndWithTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		file := &slowFile{takes: 10 * time.Millisecond}
		time.AfterFunc(30*time.Millisecond, cancel) // in the first rest
		f, _ := newTestFSM(t, 1)
		f.ctx = ctx
		for i := range uint64(4) {
			f.Apply(setEntry(i+1, 1, fmt.Sprint(i), string(make([]byte, pace.PieceBytes))))
		}
		snapshot, err := f.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		<-f.due
		began := time.Now()
		err = snapshot.Persist(discarding{file})
		if !errors.Is(err, context.Canceled) || time.Since(began) != 30*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestNodesThatStartTogetherTakeTheirSnapshotsApart(t *testing.T) {
	const nodes, every = 8, 1 << 30
	phases := map[int64]bool{}
	for range nodes {
		s, err := Open(t.TempDir(), WithID("n"), WithAddr("127.0.0.1:0"), WithSnapshots(Snapshots{EveryBytes: every}))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s.fsm.logBytes < 0 || s.fsm.logBytes > every*7/8 {
			t.Errorf("%d bytes before the first snapshot count as written, want at most %d", s.fsm.logBytes, every*7/8)
		}
		phases[s.fsm.logBytes*nodes/every] = true
	}
	if len(phases) == 1 {
		t.Error("all nodes are within an eighth of the way to a snapshot")
	}
}
