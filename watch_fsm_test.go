package kvraft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"
	"weak"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/feed"
)

func isNotified(s *feed.Subscription) bool {
	select {
	case <-s.Changed():
		return true
	default:
		return false
	}
}

func TestTenThousandWatchersOfOtherKeysAreNotWoken(t *testing.T) {
	f, _ := newTestFSM(t, 1<<20)
	var subscriptions []*feed.Subscription
	for i := range 10_000 {
		subscriptions = append(subscriptions, f.watchers.Subscribe(feed.Scope{Prefix: fmt.Sprintf("key-%d/", i)}, 0))
	}
	f.Apply(setEntry(1, 1, "key-4711/x", "value"))
	for i, w := range subscriptions {
		if isNotified(w) != (i == 4711) {
			t.Errorf("watcher %d: woken: %v", i, isNotified(w))
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
		<-gate // holds publish up, which has woken the watchers
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
	for s.fsm.watchers.Waiting() == 0 {
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
		value := weak.Make(unsafe.StringData(item.Value))
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

func TestAKeyThatIsKeptKeepsNoValue(t *testing.T) {
	for name, read := range map[string]func(*Store) string{
		"a view": func(s *Store) (key string) {
			for e := range (&View{at: s.fsm.now.Load().view}).All() {
				key = e.Key
			}
			return key
		},
		"a watch with a snapshot": func(s *Store) string {
			for e := range s.Watch(t.Context(), "", SnapshotFirst) {
				return e.Key
			}
			return ""
		},
		"a watch": func(s *Store) string {
			for e := range s.Watch(t.Context(), "", After(0)) {
				return e.Key
			}
			return ""
		},
	} {
		s := newTestServer(t)
		s.fsm.Apply(setEntry(1, 1, "key", string(make([]byte, 1<<10))))
		item, _ := s.fsm.now.Load().view.Get("key")
		value := weak.Make(unsafe.StringData(item.Value))
		key := read(s)
		for index := uint64(2); index < 20; index++ {
			s.fsm.Apply(setEntry(index, 1, "key", string(make([]byte, 1<<17)))) // the history is 1 MiB
		}
		if runtime.GC(); value.Value() != nil || key != "key" {
			t.Errorf("%s: the key %q keeps a value that was overwritten", name, key)
		}
		runtime.KeepAlive(key)
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
	w := f.watchers.Subscribe(feed.Scope{Prefix: "quiet"}, 3)
	if err := f.Restore(io.NopCloser(bytes.NewReader(snapshot))); err != nil {
		t.Fatal(err)
	}
	f.Apply(setEntry(10, 1, "key-0", "newest"))
	h := f.now.Load().history
	if got := slices.Collect(h.Since(9)); h.Floor() != 9 || len(got) != 1 || got[0].Version != 10 {
		t.Errorf("it goes back to version %d, and then has %+v", h.Floor(), got)
	}
	if !isNotified(w) {
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
	w := s.fsm.watchers.Subscribe(feed.Scope{Prefix: ""}, 1)
	legacy(2, "2")
	s.fsm.Apply(nextEntry(3, "b"))
	if !isNotified(w) {
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
	if s.fsm.watchers.Waiting() != 0 {
		t.Error("a subscription is left")
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
			for s.fsm.watchers.Waiting() < watchers {
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
			for s.fsm.watchers.Waiting() < others+1 {
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
