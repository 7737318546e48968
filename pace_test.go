package kvraft

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/state"
)

// slowFile takes its time for each write and sync.
type slowFile struct {
	takes  time.Duration
	fails  error // of Sync
	synced int
	pieces []int
	n      int
}

func never() bool { return false }

func (f *slowFile) Write(p []byte) (int, error) {
	time.Sleep(f.takes)
	f.n += len(p)
	f.pieces = append(f.pieces, len(p))
	return len(p), nil
}

func (f *slowFile) Sync() error {
	time.Sleep(f.takes)
	f.synced = f.n
	return f.fails
}

func TestASnapshotIsWrittenInPiecesWithRests(t *testing.T) {
	for takes, rest := range map[time.Duration]time.Duration{
		time.Millisecond: 6 * time.Millisecond,
		time.Second:      longestRest,
	} {
		synctest.Test(t, func(t *testing.T) {
			file := &slowFile{takes: takes}
			began := time.Now()
			view := viewOf(t, 4*pieceBytes, 4*pieceBytes)
			if err := writeSnapshot(t.Context(), paced{t.Context(), file, never}, snapshotHeader{}, view); err != nil {
				t.Fatal(err)
			}
			if file.synced != file.n {
				t.Errorf("%d of %d bytes are on stable storage", file.synced, file.n)
			}
			if len(file.pieces) < 8 || slices.Max(file.pieces) > pieceBytes {
				t.Errorf("the pieces have %d bytes", file.pieces)
			}
			if took, pieces := time.Since(began), time.Duration(len(file.pieces)); took != pieces*(2*takes+rest) {
				t.Errorf("%d pieces that take %v each took %v", pieces, 2*takes, took)
			}
		})
	}
}

// viewOf returns a state with so many bytes of small values, and one large one.
func viewOf(t *testing.T, n, large int) state.View {
	const each = 1 << 10
	l := state.NewLoader(1, 0)
	if err := l.Add("", state.Item{Value: make([]byte, large), Version: 1}); err != nil {
		t.Fatal(err)
	}
	for i := range n / each {
		if err := l.Add(fmt.Sprintf("%08d", i), state.Item{Value: make([]byte, each), Version: 1}); err != nil {
			t.Fatal(err)
		}
	}
	return l.State().View()
}

func TestASnapshotIsWrittenWithoutRestsWhenTheNextIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newTestFSM(t, 1)
		f.Apply(setEntry(1, 1, "k", string(make([]byte, 4*pieceBytes))))
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
			busy := time.Duration(len(file.pieces)) * 2 * time.Millisecond
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
		f.Apply(setEntry(1, 1, "k", string(make([]byte, 4*pieceBytes))))
		snapshot, err := (&recovering{f, Recovery{Cluster: "new"}, "n1"}).Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		file := &slowFile{takes: time.Millisecond}
		began := time.Now()
		if err := snapshot.Persist(discarding{file}); err != nil {
			t.Fatal(err)
		}
		if took, writing := time.Since(began), time.Duration(len(file.pieces))*time.Millisecond; took != writing || file.n < 4*pieceBytes {
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
		began := time.Now()
		err := writeSnapshot(ctx, paced{ctx, file, never}, snapshotHeader{}, viewOf(t, 4*pieceBytes, 0))
		if !errors.Is(err, context.Canceled) || time.Since(began) != 30*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestAPieceThatCannotBeSyncedIsNoSnapshot(t *testing.T) {
	file := &slowFile{fails: errEnough}
	if err := writeSnapshot(t.Context(), paced{t.Context(), file, never}, snapshotHeader{}, viewOf(t, pieceBytes, 0)); !errors.Is(err, errEnough) {
		t.Errorf("got %v, want the error of the sync", err)
	}
}

func TestWhatIsSyncedOfASnapshotIsInItsFile(t *testing.T) {
	dir, disk := snapshotsInDir(t, 100)
	snaps, err := openTestSnapshots(t, dir, disk)
	if err != nil {
		t.Fatal(err)
	}
	_, trans := raft.NewInmemTransport("")
	sink, err := snaps.Create(1, 200, 3, raft.Configuration{}, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, pieceBytes)
	for n := 1; n <= 3; n++ {
		if _, err := sink.Write(piece); err != nil {
			t.Fatal(err)
		}
		if err := sink.(*snapshotSink).Sync(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, snapshotsDir, sink.ID()+snapshotTmp, snapshotStateFile))
		if err != nil || info.Size() != int64(n*pieceBytes) {
			t.Errorf("%d bytes, %v, after %d pieces", info.Size(), err, n)
		}
	}
	if err := sink.Cancel(); err != nil {
		t.Error(err)
	}
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
		if s.fsm.log < 0 || s.fsm.log > every*7/8 {
			t.Errorf("%d bytes before the first snapshot count as written, want at most %d", s.fsm.log, every*7/8)
		}
		phases[s.fsm.log*nodes/every] = true
	}
	if len(phases) == 1 {
		t.Error("all nodes are within an eighth of the way to a snapshot")
	}
}

// slowHash takes a virtual millisecond for each KiB.
type slowHash struct{ hash.Hash }

func (h slowHash) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * time.Millisecond >> 10)
	return h.Hash.Write(p)
}

func TestAHashTakesHalfOfTheTimeAtMost(t *testing.T) {
	for _, size := range []int{1 << 10, 300 << 10, 2 << 20} { // of each value
		synctest.Test(t, func(t *testing.T) {
			value := make([]byte, size)
			paced, plain := &pacedHash{Hash: slowHash{sha256.New()}}, sha256.New()
			began := time.Now()
			for written := 0; written < 4<<20; written += size {
				_, _ = paced.Write(value)
				_, _ = plain.Write(value)
			}
			rests := time.Since(began) - 4096*time.Millisecond
			if least := 15 * longestRest; rests < least { // after each 256 KiB, but for a few at the end
				t.Errorf("values of %d bytes: rests of %v, want %v", size, rests, least)
			}
			if !bytes.Equal(paced.Sum(nil), plain.Sum(nil)) {
				t.Error("the hash is another")
			}
		})
	}
}

func TestAHashDoesNotRestWhenTheStoreCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		close(ended)
		h := &pacedHash{Hash: slowHash{sha256.New()}, ended: ended}
		began := time.Now()
		_, _ = h.Write(make([]byte, 1<<20))
		if took := time.Since(began); took != 1024*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}
