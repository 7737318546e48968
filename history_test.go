package kvraft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"
	"weak"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/state"
)

// change is one to a key, with a value of so many bytes.
func change(version uint64, key string, size int) state.Change {
	return state.Change{Key: key, Item: state.Item{Version: version, Value: make([]byte, size)}}
}

func sinceIn(h *history, version uint64) (list []state.Change) {
	for c := range h.since(version) {
		list = append(list, *c)
	}
	return list
}

func TestAHistoryIsTheLatestChangesWithinItsBytes(t *testing.T) {
	for _, limit := range []int64{0, 1, 1 << 10, 10 << 10, 1 << 30} {
		random := rand.New(rand.NewPCG(1, uint64(limit)))
		var h history
		var all []state.Change // that were ever recorded
		type copied struct {
			history
			all []state.Change
		}
		var copies []copied
		check := func(h *history, all []state.Change) {
			t.Helper()
			for version := h.floor; version <= h.floor+70 || version < h.floor+3; version += 1 + random.Uint64N(9) {
				from := slices.IndexFunc(all, func(c state.Change) bool { return c.Version > version })
				want := all[len(all):]
				if from >= 0 {
					want = all[from:]
				}
				if got := sinceIn(h, version); !slices.EqualFunc(got, want, func(a, b state.Change) bool { return reflect.DeepEqual(a, b) }) {
					t.Fatalf("limit %d, floor %d: %d changes since version %d, want %d", limit, h.floor, len(got), version, len(want))
				}
			}
		}
		version, largest := uint64(0), int64(0)
		for range 300 {
			var entry []state.Change
			size := int64(0)
			for range random.IntN(4) { // requests
				version += 1 + random.Uint64N(2) // not each has left a change
				for range 1 + random.IntN(3) {
					entry = append(entry, change(version, fmt.Sprint("key-", random.IntN(100)), random.IntN(200)))
					size += 64 + 6 + 200
				}
			}
			h.record(entry, limit)
			all = append(all, entry...)
			largest = max(largest, size)
			if kept := h.bytes + h.last.bytes; kept > limit+limit/segments+2*largest {
				t.Fatalf("limit %d: %d bytes are kept", limit, kept)
			}
			check(&h, all)
			if random.IntN(10) == 0 {
				copies = append(copies, copied{h, all[:len(all):len(all)]})
			}
		}
		for _, c := range copies {
			check(&c.history, c.all)
		}
		if forgets := limit < 1<<20; (h.floor > 0) != forgets {
			t.Errorf("limit %d: it goes back to version %d of %d", limit, h.floor, version)
		}
	}
}

func isRung(b *bell) bool {
	select {
	case <-b.rung:
		return true
	default:
		return false
	}
}

func TestABellIsRungByTheKeysWithItsPrefixAlone(t *testing.T) {
	var b bells
	var h history
	b.ring(&h, 0, 10)
	hung := map[string]*bell{}
	for _, prefix := range []string{"", "a", "a/", "a/b", "ab", "b", "a/b/c/d", "\xff"} {
		hung[prefix] = b.hang(scope{prefix: prefix}, 10)
	}
	h.record([]state.Change{change(11, "c", 0), change(12, "a/b/c", 0), change(13, "a/b", 0)}, 1<<20)
	b.ring(&h, 10, 13)
	before := map[string]uint64{"": 10, "a": 11, "a/": 11, "a/b": 11}
	for prefix, w := range hung {
		version, want := before[prefix]
		if isRung(w) != want {
			t.Errorf("%q: rung: %v, want %v", prefix, isRung(w), want)
		}
		if !want {
			version = 13
		}
		if quiet := b.leave(w); quiet != version {
			t.Errorf("%q: nothing has changed up to version %d, want %d", prefix, quiet, version)
		}
	}
	if len(b.hung) != 0 || slices.Max(b.lengths) != 0 {
		t.Errorf("left behind: %d bells, lengths %d", len(b.hung), b.lengths)
	}
}

func TestTheBellOfAKeyIsNotRungByThoseThatBeginWithIt(t *testing.T) {
	var b bells
	var h history
	b.ring(&h, 0, 10)
	exact, all := b.hang(scope{"a", true}, 10), b.hang(scope{prefix: "a"}, 10)
	h.record([]state.Change{change(11, "ab", 0), change(12, "", 0)}, 1<<20)
	b.ring(&h, 10, 12)
	if isRung(exact) || !isRung(all) {
		t.Errorf("rung: %v for the key, %v for the prefix", isRung(exact), isRung(all))
	}
	h.record([]state.Change{change(13, "a", 0)}, 1<<20)
	b.ring(&h, 12, 13)
	if quiet := b.leave(exact); !isRung(exact) || quiet != 12 {
		t.Errorf("rung: %v, nothing has changed up to version %d, want 12", isRung(exact), quiet)
	}
}

func TestABellHangsWhileSomebodyWaits(t *testing.T) {
	var b bells
	first, second := b.hang(scope{prefix: "a"}, 0), b.hang(scope{prefix: "a"}, 0)
	if first != second {
		t.Error("two bells for one prefix")
	}
	b.leave(first)
	var h history
	h.record([]state.Change{change(1, "a", 0)}, 1<<20)
	b.ring(&h, 0, 1)
	if !isRung(second) {
		t.Error("the second has not been woken")
	}
	b.leave(second)
}

// Between a look at the state and the wait a change may come.
func TestNobodyBeginsToWaitForWhatHasHappened(t *testing.T) {
	var b bells
	var h history
	h.record([]state.Change{change(1, "a", 0)}, 1<<20)
	b.ring(&h, 0, 1)
	if b.hang(scope{prefix: "a"}, 0) != nil {
		t.Error("a bell for what was rung for already")
	}
	w := b.hang(scope{prefix: "a"}, 1)
	if w == nil {
		t.Fatal("no bell for what comes")
	}
	ahead := b.hang(scope{prefix: "a"}, 5) // who has seen a state before it is rung for
	if ahead == nil || b.leave(ahead) > 5 {
		t.Error("who is ahead does not wait")
	}
	b.leave(w)
}

func TestEveryBellIsRungWhenTheHistoryLacksSomething(t *testing.T) {
	var b bells
	b.ring(&history{}, 0, 5)
	w := b.hang(scope{prefix: "quiet"}, 5)
	b.ring(&history{floor: 5}, 5, 5) // a snapshot of what was there
	if isRung(w) {
		t.Error("rung for nothing")
	}
	b.ring(&history{floor: 9}, 5, 9)
	if !isRung(w) || b.leave(w) != 5 {
		t.Error("not rung, though the key may have changed")
	}
}

func TestTenThousandWatchersOfOtherKeysAreNotWoken(t *testing.T) {
	f, _ := newTestFSM(t, 1<<20)
	var hung []*bell
	for i := range 10_000 {
		hung = append(hung, f.bells.hang(scope{prefix: fmt.Sprintf("key-%d/", i)}, 0))
	}
	f.Apply(setEntry(1, 1, "key-4711/x", "value"))
	for i, w := range hung {
		if isRung(w) != (i == 4711) {
			t.Errorf("watcher %d: woken: %v", i, isRung(w))
		}
	}
}

// Whoever is woken finds what it is woken for.
func TestTheStateIsPublishedBeforeAnybodyIsWoken(t *testing.T) {
	s := newTestServer(t)
	gate := make(chan struct{})
	s.fsm.waiters = append(s.fsm.waiters, waiter{func(a *applied) bool {
		if s.fsm.now.Load() != a {
			t.Error("who waits for a state is asked before that is published")
		}
		<-gate // holds publish up, which has rung the bells
		return true
	}, make(chan struct{})})
	seen := make(chan Event, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(seen)
		for e := range s.Watch(ctx, "a", After(0)) {
			seen <- e
			return
		}
	}()
	for s.fsm.bells.waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	applied := make(chan struct{})
	go func() {
		defer close(applied)
		s.fsm.Apply(setEntry(1, 1, "a", "1"))
	}()
	select {
	case e := <-seen:
		if e.Version != 1 {
			t.Errorf("woken for %+v", e)
		}
	case <-time.After(10 * time.Second):
		t.Error("the watcher was woken for a state that it cannot see")
	}
	close(gate)
	<-applied
	cancel()
	for range seen { // until it is closed
	}
}

// A view is kept for as long as its owner likes, and so is the snapshot of a watcher
// that is slow: they must not keep what was overwritten before.
func TestAViewKeepsNoHistory(t *testing.T) {
	for name, keep := range map[string]func(s *Store, meanwhile func()){
		"a view": func(s *Store, meanwhile func()) {
			view, err := s.View(t.Context(), Stale)
			meanwhile()
			if entry, _ := view.Get("key"); err != nil || len(entry.Value) != 1 {
				t.Errorf("it has %v, %v", entry, err)
			}
		},
		"a watch": func(s *Store, meanwhile func()) {
			for range s.Watch(t.Context(), "", SnapshotFirst) {
				meanwhile()
				break
			}
		},
	} {
		s := newTestServer(t)
		s.fsm.Apply(setEntry(1, 1, "key", string(make([]byte, 1<<10))))
		item, _ := s.fsm.now.Load().view.Get("key")
		value := weak.Make(&item.Value[0])
		s.fsm.Apply(setEntry(2, 1, "key", "v"))
		keep(s, func() {
			if runtime.GC(); value.Value() == nil {
				t.Errorf("%s: the history has not kept it: the test shows nothing", name)
			}
			for index := uint64(3); index < 20; index++ {
				s.fsm.Apply(setEntry(index, 1, "key", string(make([]byte, 1<<17)))) // the history is 1 MiB
			}
			if runtime.GC(); value.Value() != nil {
				t.Errorf("%s keeps a value that was overwritten before", name)
			}
		})
	}
}

func TestASnapshotThatIsRestoredBeginsANewHistory(t *testing.T) {
	source, _ := newTestFSM(t, 1<<20)
	for i := range uint64(9) {
		source.Apply(setEntry(i+1, 1, fmt.Sprint("key-", i), "new"))
	}
	snapshot := snapshotBytes(t, snapshotHeader{"c1", 9, 1}, source.now.Load().view)
	f, _ := newTestFSM(t, 1<<20)
	for i := range uint64(3) {
		f.Apply(setEntry(i+1, 1, fmt.Sprint("key-", i), "old"))
	}
	w := f.bells.hang(scope{prefix: "quiet"}, 3)
	if err := f.Restore(io.NopCloser(bytes.NewReader(snapshot))); err != nil {
		t.Fatal(err)
	}
	f.Apply(setEntry(10, 1, "key-0", "newest"))
	h := f.now.Load().history
	if got := sinceIn(&h, 9); h.floor != 9 || len(got) != 1 || got[0].Version != 10 {
		t.Errorf("it goes back to version %d, and then has %+v", h.floor, got)
	}
	if !isRung(w) {
		t.Error("who waits has not been told")
	}
}

// What hraftd has written has one version, however much it is, and its end gives every
// key another.
func TestTheHistoryBeginsWhereHraftdsLogEnds(t *testing.T) {
	s := newTestServer(t)
	legacy := func(index uint64, value string) {
		s.fsm.Apply(&raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: []byte(`{"op":"set","key":"a","value":"` + value + `"}`)})
	}
	legacy(1, "1")
	w := s.fsm.bells.hang(scope{prefix: ""}, 1)
	legacy(2, "2")
	s.fsm.Apply(nextEntry(3, "b"))
	if !isRung(w) {
		t.Error("who has seen hraftd's keys is not told that their versions are others")
	}
	for after, want := range map[uint64]string{0: "compacted", 1: "compacted", 2: "b@3"} {
		for e, err := range s.Watch(t.Context(), "", After(after)) {
			got := fmt.Sprintf("%s@%d", e.Key, e.Version)
			var compacted *CompactedError
			if errors.As(err, &compacted) && compacted.Version == 2 {
				got = "compacted"
			}
			if got != want {
				t.Errorf("after version %d: %s, %v, want %s", after, got, err, want)
			}
			break
		}
	}
}

// batchEntry is a log entry of one request that sets keys.
func batchEntry(index uint64, keys ...string) *raft.Log {
	r := command.Request{ID: command.ID{0: 2, 1: byte(index)}}
	for _, key := range keys {
		r.Ops = append(r.Ops, command.Op{Kind: command.Set, Key: key, Value: []byte("v")})
	}
	return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: command.Append(nil, []command.Request{r})}
}

func TestABreakInABatchLeavesNothingBehind(t *testing.T) {
	s := newTestServer(t)
	s.fsm.Apply(batchEntry(1, "a", "b", "c"))
	for e, err := range s.Watch(t.Context(), "", After(0)) {
		if err != nil || !e.More {
			t.Fatalf("%+v, %v", e, err)
		}
		break
	}
	if len(s.fsm.bells.hung) != 0 {
		t.Error("a bell is left")
	}
}

// nextEntry sets a key to 100 bytes, however many came before it.
func nextEntry(index uint64, key string) *raft.Log {
	id := command.ID{0: 3}
	binary.BigEndian.PutUint64(id[8:], index)
	return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: command.Append(nil, []command.Request{{
		ID: id, Born: index - 1, Ops: []command.Op{{Kind: command.Set, Key: key, Value: make([]byte, 100)}},
	}})}
}

// The state as it is applied: what watching costs it.
func BenchmarkApply(b *testing.B) {
	for name, prefix := range map[string]func(i int) string{
		"nobody watches":                     nil,
		"10,000 watch other keys":            func(i int) string { return fmt.Sprintf("other-%d/", i) },
		"10,000 watch, one of them this key": func(i int) string { return fmt.Sprintf("key-%d", i) },
	} {
		b.Run(name, func(b *testing.B) {
			s := newTestServer(b)
			ctx, cancel := context.WithCancel(b.Context())
			ended := make(chan struct{})
			watchers := 0
			if prefix != nil {
				watchers = 10_000
			}
			for i := range watchers {
				go func() {
					for range s.Watch(ctx, prefix(i)) {
					}
					ended <- struct{}{}
				}()
			}
			for s.fsm.bells.waiting() < watchers {
				time.Sleep(time.Millisecond)
			}
			b.ReportAllocs()
			for i := uint64(1); b.Loop(); i++ {
				s.fsm.Apply(nextEntry(i, "key-7"))
			}
			b.StopTimer()
			cancel()
			for range watchers {
				<-ended
			}
		})
	}
}

// From a write to the event, with 10,000 who watch other keys.
func BenchmarkWatch(b *testing.B) {
	for _, others := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("%d others", others), func(b *testing.B) {
			s := newTestServer(b)
			ctx, cancel := context.WithCancel(b.Context())
			ended, seen := make(chan struct{}), make(chan uint64)
			for i := range others {
				go func() {
					for range s.Watch(ctx, fmt.Sprintf("other-%d/", i)) {
					}
					ended <- struct{}{}
				}()
			}
			go func() {
				for e, err := range s.Watch(ctx, "key", After(0)) {
					if err == nil {
						seen <- e.Version
					}
				}
				ended <- struct{}{}
			}()
			for s.fsm.bells.waiting() < others+1 {
				time.Sleep(time.Millisecond)
			}
			b.ReportAllocs()
			for i := uint64(1); b.Loop(); i++ {
				s.fsm.Apply(nextEntry(i, "key"))
				<-seen
			}
			b.StopTimer()
			cancel()
			for range others + 1 {
				<-ended
			}
		})
	}
}

// waiting counts those who wait.
func (b *bells) waiting() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.hung {
		n += w.waiting
	}
	return n
}
