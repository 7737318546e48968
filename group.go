package kvraft

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
)

// Requests that are made on a node at the same time are grouped. A group is one
// call on the leader and one log entry.

const (
	groupBytes    = 512 << 10 // a group ends at so many bytes, or with one larger request
	groupRequests = 4096
	groupsAtOnce  = 2 // one on its way while the next gathers and goes
)

// pending is a request that is sent with others. It is encoded: its caller may
// give it up, and use the value's bytes for something else, while it is on its
// way.
type pending struct {
	encoded []byte
	done    chan struct{}
	result  command.Result // valid after done
	err     error          // likewise
}

func (p *pending) finish(result command.Result, err error) {
	p.result, p.err = result, err
	close(p.done)
}

// enqueue sends the request with the next group. errUnsent: it was not applied.
// The queue has no buffer: a request is with its caller until a group takes it.
func (s *Store) enqueue(ctx context.Context, encoded []byte) (command.Result, error) {
	if ctx.Err() != nil { // select would toss a coin
		return command.Result{}, fmt.Errorf("%w: %w", errUnsent, ended(ctx))
	}
	p := &pending{encoded: encoded, done: make(chan struct{})}
	select {
	case s.queue <- p:
	case <-ctx.Done():
		return command.Result{}, fmt.Errorf("%w: %w", errUnsent, ended(ctx))
	case <-s.closing:
		return command.Result{}, fmt.Errorf("%w: %w", errUnsent, s.whyClosed())
	}
	select {
	case <-p.done: // Close waits for it, unless the storage hangs
		return p.result, p.err
	case <-ctx.Done():
		return command.Result{}, fmt.Errorf("%w: %w", ErrUnknown, ended(ctx))
	case <-s.ctx.Done():
	}
	select {
	case <-p.done: // at the same moment
		return p.result, p.err
	default:
		return command.Result{}, fmt.Errorf("%w: %v", ErrUnknown, s.whyClosed())
	}
}

// sendGroups gathers who waits and sends, until the store closes.
func (s *Store) sendGroups() {
	slots := make(chan struct{}, groupsAtOnce)
	for {
		select {
		case slots <- struct{}{}: // wait for a slot first: more callers come meanwhile
		case <-s.closing:
			return
		}
		select {
		case first := <-s.queue:
			if !s.groups.enter() {
				return
			}
			group := s.gather(first)
			s.work.Go(func() {
				defer s.groups.leave()
				s.sendGroup(group)
				<-slots
			})
		case <-s.closing:
			return
		}
	}
}

// gather takes first and who else waits, up to the size of a group.
func (s *Store) gather(first *pending) []*pending {
	group, size := []*pending{first}, len(first.encoded)
	for size < groupBytes && len(group) < groupRequests {
		select {
		case next := <-s.queue:
			group, size = append(group, next), size+len(next.encoded)
		default:
			return group
		}
	}
	return group
}

func (s *Store) sendGroup(group []*pending) {
	requests := make([][]byte, len(group))
	for i, p := range group {
		requests[i] = p.encoded
	}
	results, err := s.send(command.Join(nil, requests))
	if err == nil && len(results) != len(group) {
		err = fmt.Errorf("%w: %d results for %d requests", ErrUnknown, len(results), len(group))
	}
	for i, p := range group {
		if err != nil {
			p.finish(command.Result{}, err)
		} else {
			p.finish(results[i], nil)
		}
	}
}

// send brings the entry of a group to the leader, here or elsewhere.
func (s *Store) send(entry []byte) ([]command.Result, error) {
	reign := s.reign()
	switch {
	case reign.leads:
		return s.apply(entry)
	case reign.leader == peer{}:
		return nil, errNoLeaderKnown
	}
	const perByte = time.Microsecond // for a network of 1 MB/s
	ctx, cancel := context.WithTimeout(reign.ctx, s.patience()+time.Duration(len(entry))*perByte)
	defer cancel()
	answer, err := s.peers.call(ctx, reign.leader, callWrite, entry)
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
// state machine has applied it. The entry is raft's from then on. The wait ends: a leader that loses its majority steps
// down within its lease, and a store that stops drains what is under way first.
func (s *Store) apply(entry []byte) ([]command.Result, error) {
	if !s.futures.enter() {
		return nil, fmt.Errorf("%w: %w", errUnsent, s.whyClosed())
	}
	defer s.futures.leave()
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
		return fmt.Errorf("%w: %w", errUnsent, err)
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}
