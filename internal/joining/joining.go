// Package joining sees to a node's place in a cluster, for as long as the store runs: it
// forms a cluster with others, asks to be admitted to one, announces a new address, and
// finds out what is wrong when there is no leader.
//
//	j := joining.New(n, tracker, places, members, joining.Config{Given: addrs, Expect: 3})
//	wire.HandleJSON(port, wire.CallFound, j.ServeFound)
//	wire.HandleJSON(port, wire.CallAdmit, j.AcceptAdmission)
//	err := j.FoundAlone() // before raft starts
//	n.Life.Go(j.Settle)
//	n.Life.Go(j.AdoptClusterID)
//	status := j.Standing()
//
// Settle is one goroutine: a loop that goes one step, tells the tracker what is in the
// way, and sleeps. It asks several nodes at once with goroutines for which it waits. It
// ends with the store, or ends the store when the cluster has removed this node for good.
//
// Of a formation there is one lock, foundingState.mu, and what is kept on disk is in the
// node's record, of which package disk guards the writing. Neither is held while anybody
// is asked. Why two sets of nodes never both form a cluster, package founding says.
//
// Tests: joining_test.go has the promises, and what nodes say that have no cluster. The
// rest are clusters in virtual time in the root package: found_test.go, settle_test.go,
// place_test.go, membership_test.go.
package joining

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/loglimit"
	"github.com/kvraft/kvraft/internal/member"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/place"
	"github.com/kvraft/kvraft/internal/roster"
)

// Config is what a node was told of its cluster.
type Config struct {
	Given      []string                                // addresses of members, or names in DNS
	Find       func(context.Context) ([]string, error) // looks for more; nil: there are none
	LookupHost func(context.Context, string) ([]string, error)
	Expect     int  // how many nodes are to form a cluster
	Replica    bool // this node is to have no vote
}

// Joiner sees to one node's place.
type Joiner struct {
	*node.Node
	lead    *lead.Tracker
	places  *place.Places
	members *member.Members
	config  Config

	founders foundingState
	founded  atomic.Bool            // by this start
	leaving  atomic.Int32           // how many calls are under way by which this node leaves the cluster
	left     atomic.Bool            // it has, and does not ask to be admitted again
	knownAs  atomic.Pointer[string] // see IsSettled
}

// New returns a joiner, which does nothing before Settle.
func New(n *node.Node, t *lead.Tracker, p *place.Places, ms *member.Members, c Config) *Joiner {
	return &Joiner{Node: n, lead: t, places: p, members: ms, config: c}
}

// Settle goes one step after another until the store stops. What stands in the way of one is
// the reason why the node is not ready.
func (j *Joiner) Settle() {
	const shortest, longest, longestFounding = 50 * time.Millisecond, 5 * time.Second, time.Second
	wait, settled, seen := shortest, false, j.lead.Tenure()
	words := loglimit.Trouble{Log: j.Log}
	for trouble := j.checkIn(); ; trouble = j.seekPlace() {
		if errors.Is(trouble, errs.Removed) {
			trouble = member.ErrRemovedNode
		}
		if errors.Is(trouble, errs.Removed) || errors.Is(trouble, errs.Copied) {
			j.Log.Error("the node stops", "reason", trouble)
			j.Life.Fail(trouble)
			return
		}
		if trouble != nil {
			trouble = errs.OneLine(trouble)
		}
		j.lead.SetReason(trouble)
		j.forgetStrangers()
		words.About(j.Standing(), trouble)
		wasSettled := settled
		settled = trouble == nil && j.Self().Cluster != "" && j.IsSettled() && j.lead.Tenure().Leader != roster.Peer{}
		switch {
		case settled && !wasSettled:
			j.Log.Info("member of the cluster", "cluster", j.Self().Cluster, "id", j.ID, "addr", j.Addr)
			j.warnOfStrangers()
			wait = j.Timing.Heartbeat
		case settled:
			wait = j.Timing.Heartbeat
		case trouble == nil:
			wait = shortest
		case j.founds():
			wait = min(2*wait, longestFounding)
		default:
			wait = min(2*wait, longest)
		}
		now, changed, _ := j.lead.Now()
		switch {
		case settled:
			changed = nil
		case now != seen: // there is a leader, say
			wait = shortest
		}
		seen = now
		select {
		case <-time.After(wait):
		case <-changed:
		case <-j.Ctx.Done():
			return
		}
	}
}

// checkIn asks the members for its place whatever this node's own configuration
// says, which may be old: it may have been removed while it was down. That nobody
// answers yet is no trouble.
func (j *Joiner) checkIn() error {
	if j.Self().Cluster != "" && j.IsSettled() {
		if err := j.askToJoin(); errors.Is(err, errs.Removed) || errors.Is(err, errs.Copied) {
			return err
		}
	}
	return j.seekPlace()
}

// seekPlace goes one step, and returns what kept it from reaching its aim.
func (j *Joiner) seekPlace() error {
	switch {
	case j.leaving.Load() > 0:
		return nil
	case j.left.Load():
		return j.stayAway()
	case j.founds():
		return j.foundTogether()
	case j.Stable().Record().LacksClusterID():
		return j.seekLeaderWithoutID()
	case !j.IsPlaced() && j.Self().Cluster != "":
		return j.seekConfirmation()
	case !j.IsSettled():
		err := j.askToJoin()
		_, catchesUp := j.members.Progress()[j.ID]
		switch {
		case err == nil:
			at := roster.DialAddr(j.ConfiguredAt())
			j.knownAs.Store(&at)
		case errors.Is(err, errs.Unknown) && catchesUp:
			return nil
		}
		return err
	case j.lead.IsLeaderless():
		return j.findTrouble()
	}
	return nil
}

// seekConfirmation goes one step towards this node's place.
func (j *Joiner) seekConfirmation() error {
	viaLeader, err := j.places.Seek(func() []string {
		addrs, _ := j.memberAddrs() // an address that is not known cannot be asked
		return addrs
	})
	if viaLeader {
		return j.askToJoin()
	}
	return err
}

// findTrouble says why a member that has no leader has none.
func (j *Joiner) findTrouble() error {
	all := roster.Voters(j.Configuration())
	silent := j.Silent(j.Ctx, all)
	switch {
	case j.lead.Tenure().Leader != roster.Peer{}:
		return nil
	case len(silent) > (len(all)-1)/2:
		trouble := fmt.Errorf("%d of %d voters do not answer: %s", len(silent), len(all), strings.Join(silent, ", "))
		err := j.askWhoAnswers() // they may have moved
		if err == nil || errors.Is(err, errs.Refused) {
			return err
		}
		return trouble
	}
	// They can elect one. If they have, it knows why this node does not hear it.
	err := j.askToJoin()
	if errors.Is(err, errs.Refused) || errors.Is(err, errs.Unreachable) {
		return err
	}
	return nil
}

// forgetStrangers lets go of what is kept for nodes that are no members any more, and of
// connections that nobody uses.
func (j *Joiner) forgetStrangers() {
	members := map[raft.ServerID]bool{j.lead.Tenure().Leader.Server: true} // of which this node may not have heard
	for _, m := range j.Configuration().Servers {
		members[m.ID] = true
	}
	j.Port.KeepOnly(members)
	j.RaftNet.KeepOnly(members)
}

// warnOfStrangers says that addresses to join at, of no more use to a node that has
// its place, lead to another cluster.
func (j *Joiner) warnOfStrangers() {
	addrs, _ := j.givenAddrs() // nobody is known to be a stranger whose address is not
	slices.Sort(addrs)
	var strange []string
	for _, addr := range slices.Compact(addrs) {
		who, err := j.Probe(j.Ctx, addr)
		if err == nil && who.Cluster != "" && who.Cluster != j.Self().Cluster {
			strange = append(strange, fmt.Sprintf("%s at %s (cluster %s)", roster.UserID(who.Node), addr, who.Cluster))
		}
	}
	if len(strange) > 0 {
		j.Log.Warn("a node to join belongs to another cluster; this node stays in its own unless its data directory is emptied",
			"cluster", j.Self().Cluster, "others", strings.Join(strange, ", "))
	}
}
