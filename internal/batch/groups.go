// Package batch makes one piece of work of what callers ask for at the same time: one
// entry of the log for their writes ([Groups]), one question to the voters for their reads
// ([Rounds]). Beside these it has what bounds such work: [Gate], which lets those who are
// in finish while it keeps others out, [PerKey] and [Spacing].
//
// Groups and Rounds run in goroutines that they start through a function of their user's,
// who so knows what to wait for at the end. Nothing here calls its user with a mutex held,
// and none of the mutexes is taken while another is held. All of it is tested without a
// store, in virtual time.
package batch

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
)

const (
	GroupBytes    = 512 << 10 // a group ends at so many bytes, or with one larger request
	GroupRequests = 4096      // and with so many requests
	groupsAtOnce  = 2         // the second only if it is full, or the first is one large request

	// queueBytes of requests wait or are on their way, or one larger request.
	queueBytes = 64 << 20
)

// group is requests that go together. They are encoded: a caller may give its write
// up, and use the value's bytes for something else, while it is on its way.
type group struct {
	requests [][]byte // guarded by Groups.mu until sealed, and does not change then; nil: given up
	bytes    int      // guarded by Groups.mu: with those that were given up
	sealed   bool     // guarded by Groups.mu: it can be sent, and counts as sent
	ended    bool     // guarded by Groups.mu

	done    chan struct{}
	results []command.Result // valid after done: of each request
	err     error            // likewise: of all of them
}

// full needs Groups.mu.
func (g *group) full() bool { return g.bytes >= GroupBytes || len(g.requests) >= GroupRequests }

// Groups are what a node has to write. There is no queue beside them: each caller has
// one request in one group, and waits for it.
type Groups struct {
	send  Send
	spawn func(func()) bool
	onWay Gate                // groups that are sent
	room  *semaphore.Weighted // bytes of queueBytes

	mu      sync.Mutex
	waiting []*group            // guarded by mu: the last one gathers, those before it are full
	taken   map[*group]struct{} // guarded by mu: to be sent, or on their way
	senders int                 // guarded by mu: goroutines that send, at most groupsAtOnce
	refusal error               // guarded by mu: why no request is taken any more; nil: it is
}

var errQueueFull = fmt.Errorf("%w: the writes before it fill this node's queue of %d MiB", errs.Unsent, queueBytes>>20)

// Send brings a group into the log and returns a result for each of its requests. It
// calls seal when nothing but sending is left to do: until then the group was not sent.
// It sends what seal returns, unless that is nil.
type Send func(seal func() (entry []byte)) ([]command.Result, error)

// NewGroups returns Groups that use send from at most two goroutines, each of which they
// start with spawn. That returns false when it is too late to start one: Refuse has been
// called by then.
func NewGroups(send Send, spawn func(func()) bool) *Groups {
	return &Groups{send: send, spawn: spawn, room: semaphore.NewWeighted(queueBytes), taken: make(map[*group]struct{})}
}

// Reserve waits until a request fits into the queue, in the order of the callers. Its
// place is kept until release is called.
func (gs *Groups) Reserve(ctx context.Context, ops []command.Op) (release func(), err error) {
	size := int64(0)
	for _, op := range ops {
		size += int64(len(op.Key) + len(op.Value) + command.Overhead)
	}
	size = min(size, queueBytes)
	if !gs.room.TryAcquire(size) && gs.room.Acquire(ctx, size) != nil {
		return nil, errs.NoLeaderBefore(ctx, errQueueFull)
	}
	return func() { gs.room.Release(size) }, nil
}

// Do sends a request, encoded as in an entry, with the next group, or as one. It returns
// errs.Unsent when the request was not applied, errs.Unknown when nobody can tell, and
// send's error as it is.
func (gs *Groups) Do(ctx context.Context, encoded []byte, alone bool) (command.Result, error) {
	if ctx.Err() != nil { // select would toss a coin
		return command.Result{}, fmt.Errorf("%w: %w", errs.Unsent, errs.Ended(ctx))
	}
	g, i, err := gs.add(encoded, alone)
	if err != nil {
		return command.Result{}, err
	}
	select {
	case <-g.done:
	case <-ctx.Done():
		if err := gs.giveUp(g, i); err != nil {
			return command.Result{}, fmt.Errorf("%w: %w", err, errs.Ended(ctx))
		}
	}
	if g.err != nil {
		return command.Result{}, g.err
	}
	return g.results[i], nil
}

// add puts a request into the group that gathers, or makes it one.
func (gs *Groups) add(encoded []byte, alone bool) (g *group, i int, err error) {
	gs.mu.Lock()
	if gs.refusal != nil {
		defer gs.mu.Unlock()
		return nil, 0, gs.refusal
	}
	last := len(gs.waiting) - 1
	if last < 0 || alone || gs.waiting[last].full() {
		gs.waiting = append(gs.waiting, &group{done: make(chan struct{})})
		last++
	}
	g = gs.waiting[last]
	g.requests = append(g.requests, encoded)
	g.bytes += len(encoded)
	if alone {
		g.bytes = max(g.bytes, GroupBytes) // it is full
	}
	i = len(g.requests) - 1
	start := gs.senders == 0 || gs.senders < groupsAtOnce && (g.full() || len(gs.taken) > 0 && !gs.busy())
	if start {
		gs.senders++
	}
	gs.mu.Unlock()
	if start && !gs.spawn(gs.run) { // the store closes, and refuses what waits
		gs.mu.Lock()
		gs.senders--
		gs.mu.Unlock()
	}
	return g, i, nil
}

// giveUp returns errs.Unsent when the request will not be sent, errs.Unknown when it is
// on its way, and nil when its group has ended.
func (gs *Groups) giveUp(g *group, i int) error {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	switch {
	case g.ended:
		return nil
	case g.sealed:
		return errs.Unknown
	}
	g.requests[i] = nil
	return errs.Unsent
}

// run sends groups until none waits.
func (gs *Groups) run() {
	for {
		gs.letGather()
		g := gs.take()
		if g == nil {
			return
		}
		gs.sendGroup(g)
	}
}

// letGather lets those come who are about to write, since they were answered a
// moment ago, or the group would go without most of them. A lone writer does not
// notice it.
func (gs *Groups) letGather() {
	for had := -1; ; runtime.Gosched() {
		now := gs.gathered()
		if now <= had {
			return
		}
		had = now
	}
}

func (gs *Groups) gathered() int {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if len(gs.waiting) == 0 {
		return 0
	}
	return len(gs.waiting[0].requests)
}

// busy tells whether a group is on its way that others should wait for. It is not one
// large request, which takes its time. It needs mu.
func (gs *Groups) busy() bool {
	for g := range gs.taken {
		if g.bytes < 2*GroupBytes {
			return true
		}
	}
	return false
}

// take returns the group to send next. With nil its caller is no sender any more:
// while a group is on its way, one that is not full waits until that has ended, and
// grows. Two half ones would be twice the work, most of which is the same for a
// group of any size.
func (gs *Groups) take() *group {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if len(gs.waiting) == 0 || gs.busy() && !gs.waiting[0].full() || !gs.onWay.Enter() {
		gs.senders--
		return nil
	}
	g := gs.waiting[0]
	gs.waiting = gs.waiting[1:]
	gs.taken[g] = struct{}{}
	return g
}

func (gs *Groups) sendGroup(g *group) {
	defer gs.onWay.Leave()
	given := 0
	results, err := gs.send(func() (entry []byte) {
		entry, given = gs.seal(g)
		return entry
	})
	if err == nil && len(results) != given {
		err = fmt.Errorf("%w: %d results for %d requests", errs.Unknown, len(results), given)
	}
	if err == nil && given > 0 && given < len(g.requests) { // of none nobody waits for a result
		results = spread(results, g.requests)
	}
	gs.end(g, results, err)
}

// seal returns the entry of those requests that were not given up; nil if there are none.
// None of them can be given up any more.
func (gs *Groups) seal(g *group) (entry []byte, requests int) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
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

func (gs *Groups) end(g *group, results []command.Result, err error) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.finish(g, results, err)
}

// finish answers the callers of a group, once. It needs mu.
func (gs *Groups) finish(g *group, results []command.Result, err error) {
	if g.ended {
		return
	}
	g.ended = true
	g.results, g.err = results, err
	delete(gs.taken, g)
	close(g.done)
}

// Refuse makes Do take no request any more, and answers those that wait, with
// errs.Unsent and why.
func (gs *Groups) Refuse(why error) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.refusal = fmt.Errorf("%w: %w", errs.Unsent, why)
	for _, g := range gs.waiting {
		gs.finish(g, nil, gs.refusal)
	}
	gs.waiting = nil
}

// Abandon answers those that are on their way, though nothing is known of them, and those
// that are about to be sent.
func (gs *Groups) Abandon(why error) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for g := range gs.taken {
		err := fmt.Errorf("%w: %w", errs.Unsent, why)
		if g.sealed {
			err = fmt.Errorf("%w: %v", errs.Unknown, why)
		}
		gs.finish(g, nil, err)
	}
}

// Drain waits until no group is on its way any more, at most for limit. None is sent
// from then on.
func (gs *Groups) Drain(limit time.Duration) bool { return gs.onWay.Drain(limit) }
