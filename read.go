package kvraft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/state"
	"github.com/kvraft/kvraft/internal/wire"
	"golang.org/x/sync/semaphore"
)

// A linearizable read goes through these, in the order of this file:
//
//	Get                          repeats it, on whoever leads, until it has an answer
//	readAsFollower               asks the leader: one or two readers for the entry,
//	forwardGet                     which serveGet answers,
//	askLeader                    or, by a round of batch that many share, for a log index,
//	forwardReadIndex               which serveReadIndex answers
//	readAsLeader                 on the leader
//	readIndexAsLeader            joins a round that begins after the call
//	lead.Tracker.Confirm         asks a majority of the voters whether it leads still (internal/lead)
//	fsm.AwaitIndex               waits until the state has what was committed then (fsm.go)
//
// The round is ReadIndex of section 6.4 of Ongaro's thesis.

// Entry is a key with its value.
type Entry struct {
	Key     string
	Value   []byte // the caller's own copy
	Version uint64 // of the write that set it; never 0
}

// ReadOption says how fresh a read must be: a [ReadLevel], or [MaxStaleness] or
// [AtLeast]. Without one a read is linearizable. Of several levels the last one counts;
// MaxStaleness and AtLeast, which bound a read of what this node has, count together.
type ReadOption interface{ qualify(*readOptions) }

type readOptions struct {
	level   ReadLevel
	maxAge  time.Duration // Stale: 0 for any
	version uint64        // Stale: at least
}

// ReadLevel is a ReadOption: who is asked for what a read returns.
type ReadLevel byte

const (
	// Linearizable is the default: the read sees every write that had completed, on
	// any node, before it began. It costs a round trip from the leader to a majority,
	// which reads at the same time share, and no disk access.
	Linearizable ReadLevel = 0

	// LeaderLocal reads what the leader has, without a round to make sure that it
	// still is the leader: after a partition it may miss the writes of its successor
	// for as long as Timing.Lease, or longer if the node was paused.
	LeaderLocal ReadLevel = 1

	// Stale reads what this node has, without asking anybody. It may lag behind by
	// any amount, and works without a leader.
	Stale ReadLevel = 2
)

// A level that is none of these counts as the strictest. (Linearizable and LeaderLocal
// cross the peer port as their numbers.)
func (l ReadLevel) qualify(o *readOptions) {
	if l > Stale {
		l = Linearizable
	}
	o.level = l
}

// MaxStaleness reads what this node has if that is proven to lack no write that
// completed more than d ago. The proof is a quorum round; the node makes one when
// the last is too old, and fails with ErrStale when it cannot.
func MaxStaleness(d time.Duration) ReadOption { return maxStaleness(d) }

type maxStaleness time.Duration

func (d maxStaleness) qualify(o *readOptions) { o.level, o.maxAge = Stale, time.Duration(max(d, 1)) }

// AtLeast reads what this node has once that has reached a version: with the
// version that a write returned, on whichever node, the read sees the write. It
// fails with ErrStale if ctx ends before, and for the version of a write that was lost
// in a recovery.
func AtLeast(version uint64) ReadOption { return atLeast(version) }

type atLeast uint64

func (v atLeast) qualify(o *readOptions) { o.level, o.version = Stale, uint64(v) }

// Get returns the entry of a key, by default linearizable. It may be called on
// any node.
//
// Errors: ErrNotFound, ErrTooLarge for a key of more than 64 MiB, ErrClosed,
// ErrNoLeader when the context ended before a leader answered, and ErrStale with
// MaxStaleness and AtLeast.
func (s *Store) Get(ctx context.Context, key string, opts ...ReadOption) (Entry, error) {
	if len(key) > wire.MaxBatchBytes { // no node's limits allow it
		return Entry{}, fmt.Errorf("%w of %d bytes, no limit is above %d", ErrKeyTooLarge, len(key), wire.MaxBatchBytes)
	}
	o := gather[readOptions](opts)
	if o.level == Stale {
		now, err := s.reads.localState(ctx, o)
		if err != nil {
			return Entry{}, err
		}
		return now.get(key)
	}
	var entry Entry
	slow := false // the leader's answer takes too long
	err := s.lead.ReadThroughLeader(ctx, func(ctx context.Context, tenure *lead.Tenure) (err error) {
		switch {
		case tenure.Leads:
			entry, err = s.reads.readAsLeader(ctx, key, o.level)
		case slow:
			entry, err = s.reads.readHere(ctx, key, o.level)
		default:
			entry, err = s.reads.readAsFollower(ctx, tenure.Leader, key, o.level)
			slow = errors.Is(err, wire.ErrSlow)
		}
		return err
	})
	return entry, err
}

// reader serves the reads of a node.
type reader struct {
	node *node.Node
	lead *lead.Tracker
	fsm  *fsm

	asking    [2]*batch.Rounds    // of a follower, by ReadLevel: Linearizable, LeaderLocal; each a question to the leader
	waiting   atomic.Int32        // Gets that wait on this node as a follower
	forwarded *semaphore.Weighted // a place for each of maxForwardedReads
	proof     atomic.Pointer[freshness]
}

func newReader(n *node.Node, t *lead.Tracker, f *fsm) *reader {
	r := &reader{node: n, lead: t, fsm: f, forwarded: semaphore.NewWeighted(maxForwardedReads)}
	for l := range r.asking {
		r.asking[l] = batch.NewRounds(func() (uint64, error) { return r.askLeader(ReadLevel(l)) }, n.Life.Go)
	}
	return r
}

// While at most fewReaders wait on a follower, each asks the leader for its entry. Further
// readers share one question for a log index, and read this node's state once it has
// reached that index: one message for many. The follower hears of that commit within about
// twice Timing.Commit. A reader that has waited for four times Timing.Commit asks for its
// entry after all.
const fewReaders = 2

func (r *reader) readAsFollower(ctx context.Context, leader roster.Peer, key string, l ReadLevel) (Entry, error) {
	defer r.waiting.Add(-1)
	if r.waiting.Add(1) <= fewReaders {
		return r.forwardGet(ctx, leader, key, l)
	}
	index, err := r.asking[l].Join(ctx)
	if err != nil {
		return Entry{}, err
	}
	if r.node.Index() < index {
		soon, cancel := context.WithTimeout(ctx, 4*r.node.Timing.Commit)
		defer cancel()
		if r.fsm.AwaitIndex(soon, index) != nil {
			return r.forwardGet(ctx, leader, key, l)
		}
	}
	return r.fsm.now.Load().get(key)
}

// forwardGet asks the leader for an entry, when it is its turn.
func (r *reader) forwardGet(ctx context.Context, leader roster.Peer, key string, l ReadLevel) (Entry, error) {
	if r.forwarded.Acquire(ctx, 1) != nil {
		return Entry{}, fmt.Errorf("%w: %w", errs.Unsent, errs.Ended(ctx))
	}
	defer r.forwarded.Release(1)
	answer, err := r.node.Port.CallWithin(ctx, r.node.Patience(), leader, wire.CallGet, append([]byte{byte(l)}, key...))
	if err != nil {
		return Entry{}, err
	}
	if len(answer) < 8 {
		return Entry{}, errors.New("kvraft: short answer to a read")
	}
	return Entry{Key: key, Value: answer[8:], Version: binary.BigEndian.Uint64(answer)}, nil
}

func (r *reader) serveGet(ctx context.Context, payload []byte) ([]byte, error) {
	l, err := decodeLevel(payload)
	if err != nil {
		return nil, err
	}
	entry, err := r.readAsLeader(ctx, string(payload[1:]), l)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint64(nil, entry.Version), entry.Value...), nil
}

// readHere waits until this node has what the leader had, for as long as it takes: the
// entry may be too large for the link, or the link too slow.
func (r *reader) readHere(ctx context.Context, key string, l ReadLevel) (Entry, error) {
	index, err := r.asking[l].Join(ctx)
	if err != nil {
		return Entry{}, err
	}
	if err := r.fsm.AwaitIndex(ctx, index); err != nil {
		return Entry{}, err
	}
	return r.fsm.now.Load().get(key)
}

// askLeader gets a log index from the leader, for all readers of a round.
func (r *reader) askLeader(l ReadLevel) (index uint64, err error) {
	now := r.lead.Tenure()
	if now.Leads {
		return 0, errs.NoLeaderKnown // by now this node leads: each reader tries again, as the leader
	}
	err = r.lead.Under(r.node.Ctx, now, func(ctx context.Context, now *lead.Tenure) (err error) {
		index, err = r.forwardReadIndex(ctx, now.Leader, l)
		return err
	})
	return index, err
}

// forwardReadIndex asks the leader for a log index to read at.
func (r *reader) forwardReadIndex(ctx context.Context, leader roster.Peer, l ReadLevel) (uint64, error) {
	answer, err := r.node.Port.CallWithin(ctx, r.node.Patience(), leader, wire.CallReadIndex, []byte{byte(l)})
	if err != nil {
		return 0, err
	}
	return wire.DecodeUint64(answer)
}

func (r *reader) serveReadIndex(ctx context.Context, payload []byte) ([]byte, error) {
	l, err := decodeLevel(payload)
	if err != nil {
		return nil, err
	}
	index, err := r.readIndexAsLeader(ctx, l)
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, index), nil
}

func decodeLevel(payload []byte) (ReadLevel, error) {
	if len(payload) == 0 || ReadLevel(payload[0]) != Linearizable && ReadLevel(payload[0]) != LeaderLocal {
		return 0, fmt.Errorf("%w: a read without a level that the leader knows", ErrInvalid)
	}
	return ReadLevel(payload[0]), nil
}

// readAsLeader answers from this node's state.
func (r *reader) readAsLeader(ctx context.Context, key string, l ReadLevel) (Entry, error) {
	if _, err := r.readIndexAsLeader(ctx, l); err != nil {
		return Entry{}, err
	}
	return r.fsm.now.Load().get(key)
}

// readIndexAsLeader returns a log index that this node's state has reached. If
// linearizable, a quorum has confirmed that no later leader can have committed
// anything before the call, and the state holds everything committed by then.
func (r *reader) readIndexAsLeader(ctx context.Context, l ReadLevel) (uint64, error) {
	if l == LeaderLocal {
		term, err := r.node.LeaderTerm()
		if err != nil {
			return 0, err
		}
		if err := r.fsm.AwaitTerm(ctx, term); err != nil { // what its predecessors have acknowledged
			return 0, err
		}
		return r.node.Index(), nil
	}
	return r.lead.Rounds.Join(ctx)
}

// readIndex is readIndexAsLeader on whoever leads. Once this node's state has
// reached the index it serves as well as the leader's.
func (r *reader) readIndex(ctx context.Context, l ReadLevel) (index uint64, err error) {
	err = r.lead.ReadThroughLeader(ctx, func(ctx context.Context, tenure *lead.Tenure) (err error) {
		if tenure.Leads {
			index, err = r.readIndexAsLeader(ctx, l)
		} else {
			index, err = r.asking[l].Join(ctx)
		}
		return err
	})
	return index, err
}

// maxForwardedReads ask the leader for their entries; others wait for their turn.
const maxForwardedReads = 16

// localState returns this node's state when it is as fresh as asked for.
func (r *reader) localState(ctx context.Context, o readOptions) (*applied, error) {
	if err := r.node.Life.Err(); err != nil {
		return nil, err
	}
	if err := r.fsm.awaitVersion(ctx, o.version); err != nil {
		return nil, tooStale(err, "wait for version %d", o.version)
	}
	if o.version > 0 {
		if lost := lostRange(r.fsm.now.Load().view, o.version); lost != "" {
			return nil, fmt.Errorf("%w: the versions %s, with the writes that had them, were lost in a recovery", ErrStale, lost)
		}
	}
	if o.maxAge > 0 {
		if err := r.proveFresh(ctx, o.maxAge); err != nil {
			return nil, err
		}
	}
	return r.fsm.now.Load(), nil
}

// freshness is the proof that a state at or past index lacks nothing that was
// committed before at, by this node's clock. LastContact with the leader proves
// nothing: heartbeats carry no commit index.
type freshness struct {
	at    time.Time
	index uint64
}

func (r *reader) proveFresh(ctx context.Context, maxAge time.Duration) error {
	if proof := r.proof.Load(); proof != nil && time.Since(proof.at) <= maxAge && r.node.Index() >= proof.index {
		return nil
	}
	at := time.Now()
	index, err := r.readIndex(ctx, Linearizable)
	if err != nil {
		return tooStale(err, "ask the leader")
	}
	r.proof.Store(&freshness{at, index}) // an older one in its place costs a round, no more
	if err := r.fsm.AwaitIndex(ctx, index); err != nil {
		return tooStale(err, "wait for log index %d", index)
	}
	if age := time.Since(at); age > maxAge {
		return fmt.Errorf("%w: it took %v to prove a staleness of at most %v", ErrStale, age, maxAge)
	}
	return nil
}

// tooStale is the error of a node that could not become fresh enough because of
// err.
func tooStale(err error, format string, args ...any) error {
	if errors.Is(err, ErrClosed) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrStale, fmt.Sprintf(format, args...), err)
}

// View is the whole store at one version. It never changes, holds no lock, and
// costs the store nothing but the memory of what is overwritten while it is kept.
type View struct {
	at state.View // not *applied, which holds the history of its moment
}

// View returns the store at one moment, by default linearizable: not older than
// any write that had completed before the call. All waiting and failing is here;
// what is read from a View neither waits nor fails. Errors are those of Get,
// without those of the key.
func (s *Store) View(ctx context.Context, opts ...ReadOption) (*View, error) {
	o := gather[readOptions](opts)
	if o.level == Stale {
		now, err := s.reads.localState(ctx, o)
		if err != nil {
			return nil, err
		}
		return &View{now.view}, nil
	}
	if err := s.freshen(ctx, o.level); err != nil {
		return nil, err
	}
	return &View{s.fsm.now.Load().view}, nil
}

// freshen waits until this node's state is as fresh as the leader's.
func (s *Store) freshen(ctx context.Context, l ReadLevel) error {
	index, err := s.reads.readIndex(ctx, l)
	if err != nil {
		return err
	}
	err = s.fsm.AwaitIndex(ctx, index)
	if err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("%w: wait for log index %d: %w", ErrNoLeader, index, err)
	}
	return err
}

// Version returns the version of the newest write in the view.
func (v *View) Version() uint64 { return v.at.Revision() }

// Len returns how many keys there are.
func (v *View) Len() int { return v.at.Len() }

// Get returns the entry of a key, and whether it is there.
func (v *View) Get(key string) (Entry, bool) {
	item, ok := v.at.Get(key)
	if !ok {
		return Entry{}, false
	}
	return entry(key, item), true
}

// All goes through all entries in the order of their keys' bytes.
func (v *View) All() iter.Seq[Entry] { return v.Range("", "") }

// Prefix goes through the entries whose keys begin with prefix, in order.
func (v *View) Prefix(prefix string) iter.Seq[Entry] {
	return v.while(prefix, func(key string) bool { return strings.HasPrefix(key, prefix) })
}

// Range goes through the entries with from <= key < to, in order. An empty to
// means that there is no end.
func (v *View) Range(from, to string) iter.Seq[Entry] {
	return v.while(from, func(key string) bool { return to == "" || key < to })
}

func (v *View) while(from string, in func(key string) bool) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		v.at.Ascend(from, func(key string, item state.Item) bool {
			return in(key) && yield(entry(strings.Clone(key), item)) // a part of a key keeps its value in memory
		})
	}
}
