package joining

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/founding"
	"github.com/kvraft/kvraft/internal/member"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

var errItself = errors.New("kvraft: it is this node itself")

// askToJoin goes through the members until one has seen to it. A leader that has
// moved is its own member.
func (j *Joiner) askToJoin() error {
	if j.lead.Tenure().Leads {
		return j.members.Join(j.Ctx, j.ownJoinRequest())
	}
	addrs, failures := j.memberAddrs()
	for _, addr := range addrs {
		err := j.askMember(addr)
		if err == nil {
			return nil
		}
		if errors.Is(err, errItself) { // a list of members may name this node too
			continue
		}
		failures = errors.Join(failures, err)
		if errors.Is(err, errs.Refused) || errors.Is(err, errs.Unreachable) {
			break // the leader has spoken
		}
	}
	if failures == nil {
		return j.NobodyToAsk()
	}
	return failures
}

func (j *Joiner) ownJoinRequest() member.JoinRequest {
	r := member.JoinRequest{ID: j.ID, Addr: j.Addr, Itself: true, Server: j.Server, Process: j.Port.Process(), Away: j.leaving.Load() > 0 || j.left.Load()}
	if j.config.Replica {
		r.Role = member.RoleReplica
	}
	return r
}

// askMember asks one member, which brings it before its leader. The leader may be lost
// meanwhile and another know better: who is brought up for longer asks again.
func (j *Joiner) askMember(addr string) error {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(j.Ctx, patience)
	defer cancel()
	who, err := j.Probe(ctx, addr)
	mine := j.Self().Cluster
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", addr, err)
	case who.Node == j.Server:
		return errItself
	case who.Cluster == "":
		return j.askStranded(ctx, addr)
	case mine != "" && who.Cluster != mine:
		return fmt.Errorf("%s: node %s is of cluster %s, this one of %s", addr, roster.UserID(who.Node), who.Cluster, mine)
	}
	if _, err := wire.AskJSON[wire.Raw](ctx, j.Port, addr, wire.CallJoin, j.ownJoinRequest()); err != nil {
		return fmt.Errorf("%s: node %s of cluster %s: %w", addr, roster.UserID(who.Node), who.Cluster, err)
	}
	return nil
}

// askWhoAnswers asks a member for this node's place that answers at some address,
// whoever should be there.
func (j *Joiner) askWhoAnswers() error {
	addrs, _ := j.memberAddrs()
	ctx, cancel := context.WithTimeout(j.Ctx, j.Timing.Heartbeat)
	defer cancel()
	who, failures := node.AskAll(addrs, func(addr string) (wire.Welcome, error) { return j.Probe(ctx, addr) })
	err := errs.NoLeaderKnown
	for i, addr := range addrs {
		if failures[i] != nil || who[i].Node == j.Server {
			continue
		}
		if err = j.askMember(addr); err == nil || errors.Is(err, errs.Refused) {
			break
		}
	}
	return err
}

// NobodyToAsk says what a node waits for that knows no other. To empty its directory
// is for one that has never been in a cluster: it may be the only copy.
func (j *Joiner) NobodyToAsk() error {
	switch {
	case j.IsMember() && len(j.Configuration().Servers) == 1:
		return fmt.Errorf("the only member announces its new address, %s, when it leads", j.Addr)
	case j.IsMember() || j.Self().Cluster != "":
		return errors.New("there is no other node to ask; start this one with the addresses of members")
	}
	return errors.New("there is no other node to ask; start this one with the addresses of members, or empty its directory to form a cluster")
}

// askStranded says what a node waits for that belongs to no cluster either.
func (j *Joiner) askStranded(ctx context.Context, addr string) error {
	other, err := wire.AskJSON[founding.Statement](ctx, j.Port, addr, wire.CallFound, j.statement())
	if err != nil {
		return fmt.Errorf("%s: %w", addr, err)
	}
	return fmt.Errorf("%s: node %s%s", addr, roster.UserID(other.Server), strandedWith(other, j.Self().Cluster, j.config.Expect))
}

// strandedWith says what a node without a cluster waits for, to one that is of cluster
// mine, or of none and expects others itself.
func strandedWith(other founding.Statement, mine string, expect int) string {
	switch {
	case roster.HasNoIdentity(other.Server):
		return ", taken over from hraftd, has yet to hear of a leader"
	case other.Expect <= 1:
		return " waits to be admitted itself"
	case mine != "":
		return fmt.Sprintf(" is in no cluster, and waits for %d nodes to form one; the data here are of cluster %s: to be one of those nodes, this one must have an empty directory", other.Expect, mine)
	case expect == other.Expect: // it has met a member, which that one has not, yet
		return fmt.Sprintf(" is in no cluster either, and waits for %d nodes to form one", other.Expect)
	}
	return fmt.Sprintf(" waits for %d nodes to form a cluster; to be one of them, this one must expect as many", other.Expect)
}
