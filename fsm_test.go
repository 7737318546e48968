package kvraft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/state"
)

// newTestFSM gives a state machine of cluster c1, and the faults it reported.
func newTestFSM(t testing.TB, every int64) (*fsm, *[]error) {
	var faults []error
	f := newFSM(t.Context(), every, 1<<20, func() string { return "c1" }, func(err error) { faults = append(faults, err) })
	return f, &faults
}

// setEntry is a log entry that sets one key.
func setEntry(index, term uint64, key, value string) *raft.Log {
	id := command.ID{0: 1}
	binary.BigEndian.PutUint64(id[8:], index)
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: command.Append(nil, []command.Request{{
		ID: id, Ops: []command.Op{{Kind: command.Set, Key: key, Value: []byte(value)}},
	}})}
}

func TestEachEntryOfABatchIsAnsweredInOrder(t *testing.T) {
	f, _ := newTestFSM(t, 1<<20)
	answers := f.ApplyBatch([]*raft.Log{
		setEntry(3, 1, "a", "1"),
		{Index: 4, Term: 1, Type: raft.LogConfiguration, Data: []byte("raft's own")},
		setEntry(5, 2, "b", "2"),
		{Index: 6, Term: 2, Type: raft.LogCommand, Data: command.Append(nil, nil)}, // opens a term
	})
	for i, want := range [][]command.Result{{{Code: command.Created, Version: 1}}, nil, {{Code: command.Created, Version: 2}}, {}} {
		if got, ok := answers[i].([]command.Result); !ok || !slices.Equal(got, want) {
			t.Errorf("answer %d is %v, want %v", i, answers[i], want)
		}
	}
	if now := f.now.Load(); now.index != 6 || now.term != 2 || now.view.Len() != 2 {
		t.Errorf("%d keys at index %d of term %d, want 2 at 6 of 2", now.view.Len(), now.index, now.term)
	}
}

// Reads wait for indexes that a configuration may have.
func TestAConfigurationMovesTheIndex(t *testing.T) {
	f, _ := newTestFSM(t, 1<<20)
	if answer := f.Apply(&raft.Log{Index: 9, Term: 4, Type: raft.LogConfiguration}); answer == nil {
		t.Error("no answer")
	} else if err, failed := answer.(error); failed {
		t.Error(err)
	}
	if now := f.now.Load(); now.index != 9 || now.term != 4 {
		t.Errorf("at index %d of term %d, want 9 of 4", now.index, now.term)
	}
}

func TestNothingIsAppliedPastAnEntryThatCannotBeDecoded(t *testing.T) {
	for name, damaged := range map[string][]byte{
		"nothing":           nil,
		"a future version":  {2, 0},
		"a truncated group": command.Append(nil, []command.Request{{Ops: []command.Op{{Kind: command.Delete, Key: "a"}}}})[:19],
	} {
		f, faults := newTestFSM(t, 1<<20)
		answers := f.ApplyBatch([]*raft.Log{
			setEntry(1, 1, "a", "1"),
			{Index: 2, Term: 1, Type: raft.LogCommand, Data: damaged},
			setEntry(3, 1, "a", "3"),
			{Index: 4, Term: 1, Type: raft.LogConfiguration},
		})
		answers = append(answers, f.Apply(setEntry(5, 2, "b", "5")))
		if _, ok := answers[0].([]command.Result); !ok {
			t.Errorf("%s: the entry before it was answered %v", name, answers[0])
		}
		for i, answer := range answers[1:] {
			if err, failed := answer.(error); !failed || !strings.Contains(err.Error(), "log entry 2") {
				t.Errorf("%s: entry %d was answered %v, want the fault of entry 2", name, i+2, answer)
			}
		}
		now := f.now.Load()
		item, _ := now.view.Get("a")
		if now.index != 1 || now.term != 1 || now.view.Len() != 1 || string(item.Value) != "1" {
			t.Errorf("%s: the state went on to index %d: %d keys, a is %q", name, now.index, now.view.Len(), item.Value)
		}
		if len(*faults) != 1 {
			t.Errorf("%s: the store was told %d times, want once: %v", name, len(*faults), *faults)
		}
		if snapshot, err := f.Snapshot(); err == nil {
			t.Errorf("%s: and it still makes snapshots: %v", name, snapshot)
		}
	}
}

func TestAWaiterIsWokenWhenItsStateIsThereAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newTestFSM(t, 1<<20)
		woken := make(map[string]bool)
		var mu sync.Mutex
		await := func(name string, wait func() error) {
			go func() {
				if err := wait(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				mu.Lock()
				defer mu.Unlock()
				woken[name] = true
			}()
		}
		await("index 2", func() error { return f.AwaitIndex(t.Context(), 2) })
		await("index 3", func() error { return f.AwaitIndex(t.Context(), 3) })
		await("index 4", func() error { return f.AwaitIndex(t.Context(), 4) })
		await("term 2", func() error { return f.AwaitTerm(t.Context(), 2) })
		await("version 2", func() error { return f.awaitVersion(t.Context(), 2) })
		for _, step := range []struct {
			entry *raft.Log
			want  string
		}{
			{setEntry(1, 1, "a", ""), ""},
			{setEntry(3, 1, "b", ""), "index 2, index 3, version 2"},
			{setEntry(4, 5, "c", ""), "index 2, index 3, index 4, term 2, version 2"},
		} {
			f.Apply(step.entry)
			synctest.Wait()
			mu.Lock()
			if got := strings.Join(slices.Sorted(maps.Keys(woken)), ", "); got != step.want {
				t.Errorf("at index %d woken: %s; want: %s", step.entry.Index, got, step.want)
			}
			mu.Unlock()
		}
		if len(f.waiters) != 0 {
			t.Errorf("%d waiters are left", len(f.waiters))
		}
	})
}

func TestWhoeverWaitsForWhatIsThereDoesNotWait(t *testing.T) {
	f, _ := newTestFSM(t, 1<<20)
	f.Apply(setEntry(7, 3, "a", ""))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"the index":      f.AwaitIndex(ended, 7),
		"an index below": f.AwaitIndex(ended, 0),
		"the term":       f.AwaitTerm(ended, 3),
		"the version":    f.awaitVersion(ended, 1),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAWaiterThatGivesUpLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newTestFSM(t, 1<<20)
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		var waiting sync.WaitGroup
		for i := range uint64(10) {
			waiting.Go(func() {
				if err := f.AwaitIndex(ctx, 100+i); !errors.Is(err, enough) {
					t.Errorf("got %v, want the context's cause", err)
				}
			})
		}
		waiting.Go(func() {
			if err := f.AwaitIndex(t.Context(), 5); err != nil {
				t.Errorf("who did not give up got %v", err)
			}
		})
		synctest.Wait()
		cancel(enough)
		synctest.Wait()
		if len(f.waiters) != 1 {
			t.Errorf("%d waiters are left, want the one that did not give up", len(f.waiters))
		}
		f.Apply(setEntry(5, 1, "a", ""))
		waiting.Wait()
	})
}

func TestTheEndOfTheStoreEndsAllWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		f := newFSM(ctx, 1<<20, 1<<20, nil, nil)
		time.AfterFunc(time.Second, func() { cancel(ErrClosed) })
		if err := f.AwaitIndex(t.Context(), 1); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		if len(f.waiters) != 0 {
			t.Errorf("%d waiters are left", len(f.waiters))
		}
	})
}

func TestWaitersOnManyGoroutinesAllSeeWhatTheyWaitFor(t *testing.T) {
	f, _ := newTestFSM(t, 1<<20)
	const last = 500
	var waiting sync.WaitGroup
	for i := range uint64(8) {
		waiting.Go(func() {
			for index := i; index < last; index += 1 + i {
				if err := f.AwaitIndex(t.Context(), index); err != nil {
					t.Error(err)
				}
				if now := f.now.Load(); now.index < index {
					t.Errorf("woken at index %d, waited for %d", now.index, index)
				}
			}
		})
	}
	for index := uint64(1); index <= last; index++ {
		f.Apply(setEntry(index, 1, "a", ""))
	}
	waiting.Wait()
}

func TestASnapshotIsAskedForOncePerSoManyBytesOfLog(t *testing.T) {
	entry := func(index uint64) *raft.Log { return setEntry(index, 1, "key", strings.Repeat("v", 1000)) }
	size := int64(len(entry(1).Data))
	f, _ := newTestFSM(t, 3*size) // with their overhead, three entries are enough and two are not
	asked := func() bool {
		select {
		case <-f.due:
			return true
		default:
			return false
		}
	}
	for index := uint64(1); index <= 9; index++ {
		f.Apply(entry(index))
		if got := asked(); got != (index%3 == 0) {
			t.Errorf("after %d entries asked: %v", index, got)
		}
	}
	for index := uint64(10); index <= 30; index++ {
		f.Apply(entry(index)) // nobody listens: Apply must not wait
	}
	if !asked() || asked() {
		t.Error("what was asked for meanwhile is one snapshot")
	}
}

func TestASnapshotIsOfTheMomentItWasTaken(t *testing.T) {
	f, _ := newTestFSM(t, 1<<20)
	f.Apply(setEntry(1, 1, "a", "old"))
	f.Apply(setEntry(2, 3, "b", "old"))
	want := hashOf(f.now.Load().view)
	snapshot, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	f.Apply(setEntry(3, 4, "a", "new"))

	sink := new(testSink)
	if err := snapshot.Persist(sink); err != nil {
		t.Fatal(err)
	}
	snapshot.Release()
	restored, _ := newTestFSM(t, 1<<20)
	if err := restored.Restore(io.NopCloser(sink)); err != nil {
		t.Fatal(err)
	}
	now := restored.now.Load()
	if now.index != 2 || now.term != 3 || hashOf(now.view) != want {
		t.Errorf("restored at index %d of term %d, want 2 of 3, and the state as it was", now.index, now.term)
	}
	// it goes on like the original, which remembers the requests
	original := hashOf(f.now.Load().view)
	restored.Apply(setEntry(3, 4, "a", "new"))
	if hashOf(restored.now.Load().view) != original {
		t.Error("after one more entry the states differ")
	}
	if results := restored.Apply(setEntry(2, 5, "b", "again")).([]command.Result); results[0].Version != 2 {
		t.Errorf("a repeated request was applied again: %v", results)
	}
}

// testSink is a snapshot in memory; faults fails its writes after so many bytes.
type testSink struct {
	bytes.Buffer
	closed bool
}

func (s *testSink) ID() string    { return "1-2-3" }
func (s *testSink) Close() error  { s.closed = true; return nil }
func (s *testSink) Cancel() error { return nil }

func TestRestoreWakesWhoWaitsForWhatItBrings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newTestFSM(t, 1<<20)
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if err := f.AwaitIndex(t.Context(), 10); err != nil {
				t.Error(err)
			}
		})
		waiting.Go(func() {
			if err := f.AwaitTerm(t.Context(), 3); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		snapshot := snapshotBytes(t, snapshotHeader{"c1", 10, 3}, state.New().View())
		if err := f.Restore(io.NopCloser(bytes.NewReader(snapshot))); err != nil {
			t.Fatal(err)
		}
		waiting.Wait()
	})
}

func TestARestoreThatFailsLeavesTheState(t *testing.T) {
	good := snapshotBytes(t, snapshotHeader{"c1", 10, 3}, busyState(t).View())
	damaged := bytes.Clone(good)
	damaged[len(damaged)-1] ^= 1
	for name, c := range map[string]struct {
		snapshot []byte
		says     string
	}{
		"of another cluster": {snapshotBytes(t, snapshotHeader{"c2", 10, 3}, busyState(t).View()), "cluster c2, this node belongs to c1"},
		"damaged":            {damaged, "checksum"},
		"truncated":          {good[:len(good)-1], "unexpected EOF"},
		"empty":              {nil, "unexpected EOF"},
	} {
		f, faults := newTestFSM(t, 1<<20)
		f.Apply(setEntry(1, 1, "a", "1"))
		before := f.now.Load()
		file := &closeCounter{Reader: bytes.NewReader(c.snapshot)}
		if err := f.Restore(file); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %q", name, err, c.says)
		}
		if f.now.Load() != before {
			t.Errorf("%s: the state was replaced", name)
		}
		if file.closed != 1 {
			t.Errorf("%s: the snapshot was closed %d times", name, file.closed)
		}
		if results, ok := f.Apply(setEntry(2, 1, "a", "2")).([]command.Result); !ok || results[0].Version != 2 || len(*faults) > 0 {
			t.Errorf("%s: the state does not go on as it was: %v", name, results)
		}
	}
}

type closeCounter struct {
	io.Reader
	closed int
}

func (c *closeCounter) Close() error { c.closed++; return nil }

func TestASnapshotWithoutAClusterIsTakenByAnyAndByANodeWithoutOne(t *testing.T) {
	for _, c := range []struct{ snapshot, node string }{{"", "c1"}, {"c1", ""}, {"", ""}, {"c1", "c1"}} {
		f := newFSM(t.Context(), 1<<20, 1<<20, func() string { return c.node }, nil)
		snapshot := snapshotBytes(t, snapshotHeader{c.snapshot, 10, 3}, state.New().View())
		if err := f.Restore(io.NopCloser(bytes.NewReader(snapshot))); err != nil {
			t.Errorf("a snapshot of cluster %q on a node of %q: %v", c.snapshot, c.node, err)
		}
	}
}
