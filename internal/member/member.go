package member

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/place"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"golang.org/x/sync/semaphore"
)

type Members struct {
	*node.Node
	lead   *lead.Tracker
	places *place.Places

	learners learners
	changing chan struct{}       // holds one token while the configuration is changed
	arriving *semaphore.Weighted // a place for each of maxArrivals
}

func New(n *node.Node, lead *lead.Tracker, p *place.Places) *Members {
	m := &Members{Node: n, lead: lead, places: p, changing: make(chan struct{}, 1), arriving: semaphore.NewWeighted(maxArrivals)}
	m.learners.failures.Log = n.Log
	return m
}

// LockMembership lets one change at a time through. A channel, not a mutex: it
// is held while the network is waited for. A change whose time is up before its turn
// has not begun.
func (ms *Members) LockMembership(ctx context.Context) (unlock func(), err error) {
	select {
	case ms.changing <- struct{}{}:
		return func() { <-ms.changing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: another change of the membership is under way: %w", errs.Unsent, errs.Ended(ctx))
	}
}

// AsVoter is for raftFilter: a candidate that this node knows without a vote goes by
// this node's own id.
func (ms *Members) AsVoter(candidate []byte) []byte {
	id := raft.ServerID(candidate)
	config := ms.Configuration()
	if ms.Lists(id) && !roster.IsVoter(config, id) {
		return []byte(ms.Server)
	}
	return candidate
}

// OpenTerm puts an empty command into the log. When the state machine sees it,
// everything that earlier leaders committed is in the state: reads of this term
// may begin. raft's own first entry never reaches the state machine.
func (ms *Members) OpenTerm(r *lead.Tenure) {
	const pause = 10 * time.Millisecond
	for r.Ctx.Err() == nil {
		_, err := ms.Commit(command.Append(nil, nil))
		if err == nil && ms.Stable().Record().IsLegacy() {
			err = ms.assignClusterID(r.Ctx)
		}
		if err == nil || r.Ctx.Err() != nil { // another leads
			return
		}
		ms.Log.Warn("open the term", "term", r.Term, "error", err)
		sleep.For(r.Ctx, pause)
	}
}
