package kvraft

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"golang.org/x/sync/semaphore"
)

type members struct {
	*node
	lead   *tracker
	places *places

	learners learners
	changing chan struct{}       // holds one token while the configuration is changed
	arriving *semaphore.Weighted // a place for each of maxArrivals
}

func newMembers(n *node, lead *tracker, p *places) *members {
	m := &members{node: n, lead: lead, places: p, changing: make(chan struct{}, 1), arriving: semaphore.NewWeighted(maxArrivals)}
	m.learners.failures.Log = n.log
	return m
}

// lockMembership lets one change at a time through. A channel, not a mutex: it
// is held while the network is waited for. A change whose time is up before its turn
// has not begun.
func (s *members) lockMembership(ctx context.Context) (unlock func(), err error) {
	select {
	case s.changing <- struct{}{}:
		return func() { <-s.changing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: another change of the membership is under way: %w", errs.Unsent, errs.Ended(ctx))
	}
}

// asVoter is for raftFilter: a candidate that this node knows without a vote goes by
// this node's own id.
func (s *members) asVoter(candidate []byte) []byte {
	id := raft.ServerID(candidate)
	config := s.configuration()
	if s.lists(id) && !roster.IsVoter(config, id) {
		return []byte(s.server)
	}
	return candidate
}

// openTerm puts an empty command into the log. When the state machine sees it,
// everything that earlier leaders committed is in the state: reads of this term
// may begin. raft's own first entry never reaches the state machine.
func (s *members) openTerm(r *tenure) {
	const pause = 10 * time.Millisecond
	for r.ctx.Err() == nil {
		_, err := s.commit(command.Append(nil, nil))
		if err == nil && s.logs.Record().IsLegacy() {
			err = s.assignClusterID(r.ctx)
		}
		if err == nil || r.ctx.Err() != nil { // another leads
			return
		}
		s.log.Warn("open the term", "term", r.term, "error", err)
		sleep.For(r.ctx, pause)
	}
}
