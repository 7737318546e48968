package kvraft

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/feed"
	"github.com/kvraft/kvraft/internal/pace"
	"github.com/kvraft/kvraft/internal/sleep"
	"github.com/kvraft/kvraft/internal/state"
)

// applied is the state at one log index. It never changes; readers use it
// without a lock.
type applied struct {
	index, term uint64 // of the newest entry in it
	view        state.View
	history     feed.History // of the view's latest versions
}

func (a *applied) get(key string) (Entry, error) {
	item, ok := a.view.Get(key)
	if !ok {
		return Entry{}, fmt.Errorf("%w: %.100q", ErrNotFound, key)
	}
	return entry(key, item), nil
}

// entry is an item as callers get it.
func entry(key string, item state.Item) Entry {
	return Entry{Key: key, Value: []byte(item.Value), Version: item.Version}
}

// fsm is the state machine that raft drives. It decodes, applies and publishes:
// that uses no I/O, no clock, no randomness. (Asking for snapshots, below, does.)
//
// Its index, not raft's AppliedIndex, says what can be read: raft's advances
// when entries are queued for the state machine.
type fsm struct {
	ctx     context.Context // of the store: ends all waiting
	cluster func() string   // stamped on snapshots
	fail    func(error)     // stops the store

	state    *state.State // used by raft's FSM goroutine alone
	failed   error        // likewise; nothing is applied past an entry that could not be
	logBytes int64        // likewise: bytes of log since a snapshot was last asked for
	every    int64        // bytes of log after which a snapshot is due
	due      chan struct{}

	busy  atomic.Bool   // while a call of raft's lasts
	steps atomic.Uint64 // grows with what is done in it: entries, bytes of a snapshot

	history feed.History // used by raft's FSM goroutine alone
	keep    int64        // bytes of history

	now      atomic.Pointer[applied]
	watchers feed.Subscriptions

	mu      sync.Mutex
	waiters []waiter // guarded by mu
}

// waiter waits for a state; ready is closed when it is there.
type waiter struct {
	reached func(*applied) bool
	ready   chan struct{}
}

func newFSM(ctx context.Context, every, keep int64, cluster func() string, fail func(error)) *fsm {
	f := &fsm{ctx: ctx, cluster: cluster, fail: fail, every: every, keep: keep, state: state.New(), due: make(chan struct{}, 1)}
	f.now.Store(&applied{view: f.state.View()})
	return f
}

// ApplyBatch applies committed entries and answers a []command.Result, or an
// error, for each.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	defer f.work()()
	answers := make([]any, len(logs))
	last := f.now.Load()
	index, term := last.index, last.term
	for i, entry := range logs {
		results, err := f.applyEntry(entry)
		f.steps.Add(1)
		if err != nil {
			answers[i] = err
			continue
		}
		answers[i] = results
		index, term = entry.Index, entry.Term
	}
	f.publish(&applied{index: index, term: term, view: f.state.View(), history: f.history})
	return answers
}

// Apply is ApplyBatch for one entry.
func (f *fsm) Apply(entry *raft.Log) any { return f.ApplyBatch([]*raft.Log{entry})[0] }

func (f *fsm) applyEntry(entry *raft.Log) ([]command.Result, error) {
	if f.failed != nil {
		return nil, f.failed
	}
	if entry.Type != raft.LogCommand { // a configuration: only its index counts
		return nil, nil
	}
	results, err := f.applyCommand(entry)
	if err != nil {
		f.failed = fmt.Errorf("apply log entry %d: %w", entry.Index, err)
		f.fail(f.failed)
		return nil, f.failed
	}
	f.countLog(len(entry.Data))
	return results, nil
}

func (f *fsm) applyCommand(entry *raft.Log) ([]command.Result, error) {
	if command.IsLegacy(entry.Data) {
		op, err := command.DecodeLegacy(entry.Data)
		if err == nil {
			f.state.ApplyLegacy(op)
			f.recordHistory()
		}
		return nil, err
	}
	requests, err := command.Decode(entry.Data)
	if err != nil {
		return nil, err
	}
	results := f.state.Apply(entry.Index, requests)
	f.recordHistory()
	return results, nil
}

func (f *fsm) recordHistory() {
	if base := f.state.Base(); base > f.history.Floor() {
		f.history = feed.StartAt(base)
	}
	f.history.Record(f.state.Changes(), f.keep)
}

// countLog asks for a snapshot when enough log has gathered.
func (f *fsm) countLog(n int) {
	f.logBytes += int64(n + command.Overhead)
	if f.logBytes < f.every {
		return
	}
	f.logBytes = 0
	select {
	case f.due <- struct{}{}:
	default: // one is asked for already
	}
}

// publish makes a what is read, and only then wakes those who wait for it.
func (f *fsm) publish(a *applied) {
	before := f.now.Swap(a)
	f.watchers.Notify(&a.history, before.view.Revision(), a.view.Revision())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiters = slices.DeleteFunc(f.waiters, func(w waiter) bool {
		reached := w.reached(a)
		if reached {
			close(w.ready)
		}
		return reached
	})
}

// Index is the log index of the newest entry in the state.
func (f *fsm) Index() uint64 { return f.now.Load().index }

// Note is the text of a note; empty: there is none.
func (f *fsm) Note(name string) string { return f.now.Load().view.Note(name) }

// Notes goes through all notes.
func (f *fsm) Notes(each func(name, text string) bool) { f.now.Load().view.Notes(each) }

// NotesLen is how many notes there are.
func (f *fsm) NotesLen() int { return f.now.Load().view.NotesLen() }

// AwaitNote waits until there is a note.
func (f *fsm) AwaitNote(ctx context.Context, name string) error {
	return f.await(ctx, func(a *applied) bool { return a.view.Note(name) != "" })
}

// Busy reports whether raft waits for a call.
func (f *fsm) Busy() bool { return f.busy.Load() }

// Steps grows with what is done: entries, bytes of a snapshot.
func (f *fsm) Steps() uint64 { return f.steps.Load() }

// AwaitIndex waits until the state has reached a log index. It can wait for any
// index that a leader knows as committed once an entry of that leader's term
// was applied: no later entry of its term bypasses the state machine.
func (f *fsm) AwaitIndex(ctx context.Context, index uint64) error {
	return f.await(ctx, func(a *applied) bool { return a.index >= index })
}

// AwaitTerm waits until the state holds an entry of a term.
func (f *fsm) AwaitTerm(ctx context.Context, term uint64) error {
	return f.await(ctx, func(a *applied) bool { return a.term >= term })
}

// awaitVersion waits until the state has reached a version.
func (f *fsm) awaitVersion(ctx context.Context, version uint64) error {
	return f.await(ctx, func(a *applied) bool { return a.view.Revision() >= version })
}

func (f *fsm) await(ctx context.Context, reached func(*applied) bool) error {
	if reached(f.now.Load()) {
		return nil
	}
	w := waiter{reached, make(chan struct{})}
	f.mu.Lock()
	if reached(f.now.Load()) {
		f.mu.Unlock()
		return nil
	}
	f.waiters = append(f.waiters, w)
	f.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		f.forget(w)
		return errs.Ended(ctx)
	case <-f.ctx.Done():
		f.forget(w)
		return context.Cause(f.ctx)
	}
}

func (f *fsm) forget(w waiter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiters = slices.DeleteFunc(f.waiters, func(other waiter) bool { return other.ready == w.ready })
}

// work is for the beginning of a call of raft's; what it returns is for its end.
func (f *fsm) work() (end func()) {
	f.busy.Store(true)
	return func() {
		f.steps.Add(1)
		f.busy.Store(false)
	}
}

// steadyReader counts what is read.
type steadyReader struct {
	r     io.Reader
	bytes *atomic.Uint64
}

func (c steadyReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.bytes.Add(uint64(n))
	return n, err
}

// Snapshot takes the root of the state, nothing more: Apply waits for it.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	defer f.work()()
	if f.failed != nil {
		return nil, f.failed
	}
	now := f.now.Load()
	return &fsmSnapshot{f.ctx, f.due, snapshotHeader{f.cluster(), now.index, now.term}, now.view}, nil
}

// Restore replaces the state by a snapshot's, or leaves it as it is.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	defer f.work()()
	head, restored, err := readSnapshot(bufio.NewReaderSize(steadyReader{r, &f.steps}, 1<<20))
	if err != nil {
		return err
	}
	if err := checkCluster(head, f.cluster()); err != nil {
		return err
	}
	f.state = restored
	view := restored.View()
	f.history = feed.StartAt(view.Revision()) // what led here is not known
	f.publish(&applied{index: head.index, term: head.term, view: view, history: f.history})
	return nil
}

// fsmSnapshot is a state on its way to disk, beside Apply.
type fsmSnapshot struct {
	ctx  context.Context // of the store
	due  chan struct{}   // of the state machine: has something when the next snapshot is due
	head snapshotHeader
	view state.View
}

// Persist writes the snapshot, with rests until as much log has gathered again as it
// is to take the place of. raft closes or cancels the sink by the error.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	hurry := func() bool { return len(s.due) > 0 }
	return writeSnapshot(s.ctx, pace.NewWriter(s.ctx, sink, hurry), s.head, s.view)
}

func (s *fsmSnapshot) Release() {}

// takeSnapshots compacts the log whenever enough of it has gathered.
func (s *Store) takeSnapshots() {
	for {
		select {
		case <-s.fsm.due:
		case <-s.node.Ctx.Done():
			return
		}
		pause := sleep.Backoff{Next: s.opts.timing.Heartbeat, Most: time.Minute}
		for {
			err := s.takeSnapshot()
			if err == nil || errors.Is(err, raft.ErrNothingNewToSnapshot) { // the leader has sent one
				break
			}
			if !pause.Wait(s.node.Ctx) { // a change of the configuration is under way, or the disk is full
				return
			}
		}
	}
}

// takeSnapshot lets raft write a snapshot and drop the log before it, but for as
// many entries as fit into TrailingBytes.
func (s *Store) takeSnapshot() error {
	config := s.node.Raft.ReloadableConfig()
	config.TrailingLogs = max(s.node.Logs.TrailingWithin(s.opts.snapshots.TrailingBytes), 1) // or an entry that is just being appended could go
	if err := s.node.Raft.ReloadConfig(config); err != nil {
		return fmt.Errorf("take a snapshot: %w", err)
	}
	if err := s.node.Raft.Snapshot().Error(); err != nil {
		s.node.Log.Warn("take a snapshot", "error", err)
		return fmt.Errorf("take a snapshot: %w", err)
	}
	return nil
}

// firstPhase is how much of the log before a node's first snapshot counts as written
// already: at random, or all nodes would write snapshots at once, but never so much
// that the first few entries bring one.
func firstPhase(every int64) int64 { return mathrand.Int64N(every - every/8) }
