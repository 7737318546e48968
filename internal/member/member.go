// Package member changes who is in the cluster, as its leader: it admits nodes, brings them
// up to date and gives them their votes, removes members, and hands leadership over on
// demand. It keeps notes of members in the replicated state, see notes.go.
//
//	ms := member.New(n, tracker, places)
//	tracker.WhenLeading = []func(*lead.Tenure){ms.OpenTerm, ms.FinishChanges}
//	wire.HandleJSON(port, wire.CallJoin, ms.ServeJoin) // and CallRemove, CallTransfer, CallCatchUp
//
//	err := ms.Join(ctx, member.JoinRequest{ID: id, Addr: addr}) // on any node: it asks the leader
//	err = ms.Remove(ctx, member.RemoveRequest{ID: id})
//
// OpenTerm and FinishChanges are duties of a tenure, each in a goroutine of the tracker's.
// Each member that catches up has a goroutine of Life, which ends with the tenure. Close
// waits for all of them.
//
// LockMembership lets through one change at a time, and is held while the network and raft
// are waited for, but not while a node that is to join is looked at. learners.mu guards
// the progress of those that catch up. It is a leaf: nothing is waited for under it.
//
// That a node votes only once it has caught up is section 4.2.1 of Ongaro's thesis, and
// that one server changes at a time is its section 4.1. Tests: notes_test.go has how notes
// are read. The rest are clusters in virtual time in the root package: membership_test.go,
// remove_test.go, catchup_test.go, transfer_test.go, members_chaos_test.go.
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

// Members are those of the cluster, to one node.
type Members struct {
	*node.Node
	lead   *lead.Tracker
	places *place.Places

	learners learners
	changing chan struct{}       // holds one token while the configuration is changed
	arriving *semaphore.Weighted // a place for each of maxArrivals
}

// New returns the members of a node's cluster. Nothing is started.
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

// AsVoter is the id under which raft hears a candidate. Raft refuses one that it knows
// without a vote, although that may have got its vote since: it goes by this node's own id.
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
