package kvraft

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

// Requests that are made on a node at the same time are grouped. A group is one
// call on the leader and one log entry.

const (
	groupBytes    = 512 << 10 // a group ends at so many bytes, or with one larger request
	groupRequests = 4096
	groupsAtOnce  = 2 // the second only if it is full, or the first is one large request

	// queueBytes of requests wait or are on their way, or one larger request.
	queueBytes = 64 << 20
)

// group is requests that go together. They are encoded: a caller may give its write
// up, and use the value's bytes for something else, while it is on its way.
type group struct {
	requests [][]byte // guarded by writes.mu until sealed, and does not change then; nil: given up
	bytes    int      // guarded by writes.mu: with those that were given up
	sealed   bool     // guarded by writes.mu: it can be sent, and counts as sent
	ended    bool     // guarded by writes.mu

	done    chan struct{}
	results []command.Result // valid after done: of each request
	err     error            // likewise: of all of them
}

// full needs writes.mu.
func (g *group) full() bool { return g.bytes >= groupBytes || len(g.requests) >= groupRequests }

// writes are the groups of a node. There is no queue beside them: each caller has
// one request in one of them, and waits for it.
type writes struct {
	// send calls seal when nothing but sending is left to do: until then the group was
	// not sent. It sends what that returns, unless it is nil.
	send  func(seal func() (entry []byte)) ([]command.Result, error)
	spawn func(func()) bool   // starts a goroutine that Close waits for; false: too late
	onWay *inflight           // groups that are sent
	room  *semaphore.Weighted // bytes of queueBytes

	mu      sync.Mutex
	waiting []*group            // guarded by mu: the last one gathers, those before it are full
	taken   map[*group]struct{} // guarded by mu: to be sent, or on their way
	senders int                 // guarded by mu: goroutines that send, at most groupsAtOnce
	refusal error               // guarded by mu: why no request is taken any more; nil: it is
}

var errQueueFull = fmt.Errorf("%w: the writes before it fill this node's queue of %d MiB", errs.Unsent, queueBytes>>20)

func newWrites(send func(func() []byte) ([]command.Result, error), spawn func(func()) bool) writes {
	return writes{send: send, spawn: spawn, onWay: newInflight(), room: semaphore.NewWeighted(queueBytes), taken: make(map[*group]struct{})}
}

// makeRoom waits until a request fits into the queue, in the order of the callers.
func (w *writes) makeRoom(ctx context.Context, ops []command.Op) (release func(), err error) {
	const overhead = 64 // of an operation, about
	size := int64(0)
	for _, op := range ops {
		size += int64(len(op.Key) + len(op.Value) + overhead)
	}
	size = min(size, queueBytes)
	if !w.room.TryAcquire(size) && w.room.Acquire(ctx, size) != nil {
		return nil, errs.NoLeaderBefore(ctx, errQueueFull)
	}
	return func() { w.room.Release(size) }, nil
}

// enqueue sends the request with the next group, or as one. errs.Unsent: it was not
// applied.
func (s *Store) enqueue(ctx context.Context, encoded []byte, alone bool) (command.Result, error) {
	if ctx.Err() != nil { // select would toss a coin
		return command.Result{}, fmt.Errorf("%w: %w", errs.Unsent, errs.Ended(ctx))
	}
	g, i, err := s.writes.add(encoded, alone)
	if err != nil {
		return command.Result{}, err
	}
	select {
	case <-g.done:
	case <-ctx.Done():
		if err := s.writes.giveUp(g, i); err != nil {
			return command.Result{}, fmt.Errorf("%w: %w", err, errs.Ended(ctx))
		}
	}
	if g.err != nil {
		return command.Result{}, g.err
	}
	return g.results[i], nil
}

// add puts a request into the group that gathers, or makes it one.
func (w *writes) add(encoded []byte, alone bool) (g *group, i int, err error) {
	w.mu.Lock()
	if w.refusal != nil {
		defer w.mu.Unlock()
		return nil, 0, w.refusal
	}
	last := len(w.waiting) - 1
	if last < 0 || alone || w.waiting[last].full() {
		w.waiting = append(w.waiting, &group{done: make(chan struct{})})
		last++
	}
	g = w.waiting[last]
	g.requests = append(g.requests, encoded)
	g.bytes += len(encoded)
	if alone {
		g.bytes = max(g.bytes, groupBytes) // it is full
	}
	i = len(g.requests) - 1
	start := w.senders == 0 || w.senders < groupsAtOnce && (g.full() || len(w.taken) > 0 && !w.busy())
	if start {
		w.senders++
	}
	w.mu.Unlock()
	if start && !w.spawn(w.run) { // the store closes, and refuses what waits
		w.mu.Lock()
		w.senders--
		w.mu.Unlock()
	}
	return g, i, nil
}

// giveUp returns errs.Unsent when the request will not be sent, ErrUnknown when it is
// on its way, and nil when its group has ended.
func (w *writes) giveUp(g *group, i int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case g.ended:
		return nil
	case g.sealed:
		return ErrUnknown
	}
	g.requests[i] = nil
	return errs.Unsent
}

// run sends groups until none waits.
func (w *writes) run() {
	for {
		w.letGather()
		g := w.take()
		if g == nil {
			return
		}
		w.sendGroup(g)
	}
}

// letGather lets those come who are about to write, since they were answered a
// moment ago, or the group would go without most of them. A lone writer does not
// notice it.
func (w *writes) letGather() {
	for had := -1; ; runtime.Gosched() {
		now := w.gathered()
		if now <= had {
			return
		}
		had = now
	}
}

func (w *writes) gathered() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 {
		return 0
	}
	return len(w.waiting[0].requests)
}

// busy tells whether a group is on its way that others should wait for. It is not one
// large request, which takes its time. It needs mu.
func (w *writes) busy() bool {
	for g := range w.taken {
		if g.bytes < 2*groupBytes {
			return true
		}
	}
	return false
}

// take returns the group to send next. With nil its caller is no sender any more:
// while a group is on its way, one that is not full waits until that has ended, and
// grows. Two half ones would be twice the work, most of which is the same for a
// group of any size.
func (w *writes) take() *group {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 || w.busy() && !w.waiting[0].full() || !w.onWay.enter() {
		w.senders--
		return nil
	}
	g := w.waiting[0]
	w.waiting = w.waiting[1:]
	w.taken[g] = struct{}{}
	return g
}

func (w *writes) sendGroup(g *group) {
	defer w.onWay.leave()
	given := 0
	results, err := w.send(func() (entry []byte) {
		entry, given = w.seal(g)
		return entry
	})
	if err == nil && len(results) != given {
		err = fmt.Errorf("%w: %d results for %d requests", ErrUnknown, len(results), given)
	}
	if err == nil && given > 0 && given < len(g.requests) { // of none nobody waits for a result
		results = spread(results, g.requests)
	}
	w.end(g, results, err)
}

// seal returns the entry of those requests that were not given up; nil if there are none.
// None of them can be given up any more.
func (w *writes) seal(g *group) (entry []byte, requests int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g.sealed = true
	given := slices.DeleteFunc(slices.Clone(g.requests), func(r []byte) bool { return r == nil })
	if g.ended || len(given) == 0 {
		return nil, 0
	}
	return command.Join(nil, given), len(given)
}

// spread gives each request the place of its own result; those that were given up
// have none.
func spread(results []command.Result, requests [][]byte) []command.Result {
	all := make([]command.Result, len(requests))
	for i, r := range requests {
		if r != nil {
			all[i], results = results[0], results[1:]
		}
	}
	return all
}

func (w *writes) end(g *group, results []command.Result, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finish(g, results, err)
}

// finish answers the callers of a group, once. It needs mu.
func (w *writes) finish(g *group, results []command.Result, err error) {
	if g.ended {
		return
	}
	g.ended = true
	g.results, g.err = results, err
	delete(w.taken, g)
	close(g.done)
}

// refuse takes no request any more, and answers those that wait.
func (w *writes) refuse(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refusal = fmt.Errorf("%w: %w", errs.Unsent, why)
	for _, g := range w.waiting {
		w.finish(g, nil, w.refusal)
	}
	w.waiting = nil
}

// abandon answers those that are on their way, though nothing is known of them, and those
// that are about to be sent.
func (w *writes) abandon(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for g := range w.taken {
		err := fmt.Errorf("%w: %w", errs.Unsent, why)
		if g.sealed {
			err = fmt.Errorf("%w: %v", ErrUnknown, why)
		}
		w.finish(g, nil, err)
	}
}

// send brings a group to the leader, here or elsewhere.
func (s *Store) send(seal func() []byte) ([]command.Result, error) {
	reign := s.reign()
	switch {
	case reign.leads:
		return s.applySealed(seal)
	case reign.leader == roster.Peer{}:
		return nil, errs.NoLeaderKnown
	}
	return s.forwardWrite(reign, seal)
}

func (s *Store) applySealed(seal func() []byte) ([]command.Result, error) {
	entry := seal()
	if entry == nil {
		return nil, nil
	}
	return s.apply(entry)
}

// forwardWrite sends a group over a connection. A leader to which none can be made has
// been sent nothing, however long that takes.
func (s *Store) forwardWrite(r *reign, seal func() []byte) ([]command.Result, error) {
	conn, err := s.peers.connectWithin(r.ctx, s.patience(), r.leader)
	if err != nil {
		return nil, err
	}
	entry := seal()
	if entry == nil {
		s.peers.giveIdle(r.leader, conn)
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, s.patience()+time.Duration(len(entry))*perByte)
	defer cancel()
	answer, err := s.peers.ask(ctx, r.leader, conn, question{callWrite, entry, 0})
	if err != nil {
		return nil, err
	}
	results, err := command.DecodeResults(answer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return results, nil
}

// patience is how long a call on the leader may take before it is made again.
func (s *Store) patience() time.Duration { return 3 * s.opts.timing.Election }

// apply puts the entry of a group into the log as its leader, and waits until the
// state machine has applied it. The entry is raft's from then on. The wait ends: a
// leader that loses its majority steps down within its lease, and a store that
// stops drains what is under way first.
func (s *Store) apply(entry []byte) ([]command.Result, error) {
	if !s.futures.enter() {
		return nil, fmt.Errorf("%w: %w", errs.Unsent, s.whyClosed())
	}
	defer s.futures.leave()
	if !s.isPlaced() {
		return nil, errUnplaced
	}
	future := s.raft.Apply(entry, s.opts.timing.Election)
	if err := future.Error(); err != nil {
		return nil, applyError(err, future.Index())
	}
	switch answer := future.Response().(type) {
	case []command.Result:
		return answer, nil
	case error:
		return nil, fmt.Errorf("%w: %w", ErrUnknown, answer)
	default:
		return nil, fmt.Errorf("%w: the state machine answered %T", ErrUnknown, answer)
	}
}

// applyError tells not applied from unknown: an entry without an index never
// reached the log. With one it may be on other nodes' disks, whatever the error
// says; ErrRaftShutdown, for one, is also the answer to entries that were
// committed.
func applyError(err error, index uint64) error {
	if index == 0 || errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		return fmt.Errorf("%w: %w", errs.Unsent, err)
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}
