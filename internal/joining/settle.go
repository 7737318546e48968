package joining

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/founding"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/loglimit"
	"github.com/kvraft/kvraft/internal/member"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/place"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"github.com/kvraft/kvraft/internal/wire"
)

type Joiner struct {
	*node.Node
	Lead    *lead.Tracker
	Places  *place.Places
	Members *member.Members

	Given      []string                                // addresses of members, or names in DNS
	Find       func(context.Context) ([]string, error) // looks for more; nil: there are none
	LookupHost func(context.Context, string) ([]string, error)
	Expect     int  // how many nodes are to form a cluster
	Replica    bool // this node is to have no vote

	founders foundingState
	Founded  atomic.Bool            // by this start
	leaving  atomic.Int32           // how many calls are under way by which this node leaves the cluster
	Left     atomic.Bool            // it has, and does not ask to be admitted again
	knownAs  atomic.Pointer[string] // see isSettled
}

// Settle sees to this node's place in a cluster for as long as the store runs. It
// forms a cluster with others, asks to be admitted, announces a new address, and
// finds out what is wrong when there is no leader. What stands in the way is
// the reason why the node is not ready.
func (j *Joiner) Settle() {
	const shortest, longest, longestFounding = 50 * time.Millisecond, 5 * time.Second, time.Second
	wait, settled := shortest, false
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
		j.Lead.SetReason(trouble)
		j.forgetStrangers()
		words.About(j.Standing(), trouble)
		wasSettled := settled
		settled = trouble == nil && j.Self().Cluster != "" && j.IsSettled() && j.Lead.Tenure().Leader != roster.Peer{}
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
		if !sleep.For(j.Ctx, wait) {
			return
		}
	}
}

// forgetStrangers lets go of what is kept for nodes that are no members any more, and of
// connections that nobody uses.
func (j *Joiner) forgetStrangers() {
	members := map[raft.ServerID]bool{j.Lead.Tenure().Leader.Server: true} // of which this node may not have heard
	for _, m := range j.Configuration().Servers {
		members[m.ID] = true
	}
	j.Port.KeepOnly(members)
	j.RaftNet.KeepOnly(members)
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

// Standing is what a node that has not settled is doing, as the beginning of a sentence.
func (j *Joiner) Standing() string {
	switch {
	case j.founds() && !j.founders.isJoining():
		return "waiting to form a cluster"
	case j.Left.Load():
		return "no member"
	case !j.IsAdmitted():
		return "waiting to be admitted"
	case !j.IsPlaced():
		return "waiting to be confirmed at this address"
	case j.Lead.Tenure().Leader == roster.Peer{}:
		return "no leader"
	}
	return "waiting to be known at this address"
}

// IsAdmitted reports whether this node is a member and means to be one. Of a removal by
// itself its own log may not have heard.
func (j *Joiner) IsAdmitted() bool { return j.IsMember() && !j.Left.Load() }

// founds reports whether this node is to form a cluster with others, or has
// promised to.
func (j *Joiner) founds() bool { return j.Self().Cluster == "" && j.expected() > 1 }

// seekPlace goes one step, and returns what kept it from reaching its aim.
func (j *Joiner) seekPlace() error {
	switch {
	case j.leaving.Load() > 0:
		return nil
	case j.Left.Load():
		return j.stayAway()
	case j.founds():
		return j.foundTogether()
	case j.Stable().Record().LacksClusterID():
		return j.seekLeaderWithoutID()
	case !j.IsPlaced() && j.Self().Cluster != "":
		return j.seekConfirmation()
	case !j.IsSettled():
		err := j.askToJoin()
		switch {
		case err == nil:
			at := roster.DialAddr(j.ConfiguredAt())
			j.knownAs.Store(&at)
		case errors.Is(err, errs.Unknown) && j.isCatchingUp():
			return nil
		}
		return err
	case j.Lead.IsLeaderless():
		return j.findTrouble()
	}
	return nil
}

var ErrLeft = errors.New("it has left the cluster: start it again, or join it through a member")

// stayAway is for a node that has left. It finds out whether somebody has joined it
// again, or removed it for good.
func (j *Joiner) stayAway() error {
	switch err := j.askToJoin(); {
	case err == nil:
		j.Left.Store(false)
		return nil
	case errors.Is(err, errs.Removed):
		return err
	}
	return ErrLeft
}

// IsSettled reports whether this node is what it is meant to be, a voter, or a replica
// that does not vote, under its present address or one with which the leader has
// agreed: another name of the same.
func (j *Joiner) IsSettled() bool {
	at, agreed := roster.DialAddr(j.ConfiguredAt()), j.knownAs.Load()
	if at == "" || at != j.Addr && (agreed == nil || at != *agreed) {
		return false
	}
	return roster.IsVoter(j.Configuration(), j.Server) || j.Members.IsReplica(j.ID)
}

// isCatchingUp reports whether this node's leader brings it up to date.
func (j *Joiner) isCatchingUp() bool {
	_, is := j.Members.Progress()[j.ID]
	return is
}

// findTrouble says why a member that has no leader has none.
func (j *Joiner) findTrouble() error {
	all := roster.Voters(j.Configuration())
	silent := j.Silent(j.Ctx, all)
	switch {
	case j.Lead.Tenure().Leader != roster.Peer{}:
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

func (j *Joiner) ownJoinRequest() member.JoinRequest {
	r := member.JoinRequest{ID: j.ID, Addr: j.Addr, Itself: true, Server: j.Server, Process: j.Port.Process(), Away: j.leaving.Load() > 0 || j.Left.Load()}
	if j.Replica {
		r.Role = member.RoleReplica
	}
	return r
}

// askToJoin goes through the members until one has seen to it. A leader that has
// moved is its own member.
func (j *Joiner) askToJoin() error {
	if j.Lead.Tenure().Leads {
		return j.Members.Join(j.Ctx, j.ownJoinRequest())
	}
	addrs, err := j.memberAddrs()
	var failures []error
	if err != nil {
		failures = append(failures, err)
	}
	for _, addr := range addrs {
		err := j.askMember(addr)
		if err == nil {
			return nil
		}
		if errors.Is(err, errItself) { // a list of members may name this node too
			continue
		}
		failures = append(failures, err)
		if errors.Is(err, errs.Refused) || errors.Is(err, errs.Unreachable) {
			break // the leader has spoken
		}
	}
	if len(failures) == 0 {
		return j.NobodyToAsk()
	}
	return errors.Join(failures...)
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

// memberAddrs returns the addresses at which members may be, also with an error.
func (j *Joiner) memberAddrs() ([]string, error) {
	addrs, err := j.givenAddrs()
	if j.Self().Cluster == "" {
		addrs = append(addrs, j.Founding().Known...)
		for _, f := range j.Stable().Record().Promise {
			addrs = append(addrs, f.Addr)
		}
	}
	for _, m := range j.Configuration().Servers {
		if m.ID != j.Server {
			addrs = append(addrs, roster.DialAddr(string(m.Address)))
		}
	}
	addrs = append(addrs, j.Port.CallerAddrs()...) // they may have moved
	slices.Sort(addrs)
	return slices.Compact(addrs), err
}

// givenAddrs are those of the options, looked up anew each time.
func (j *Joiner) givenAddrs() (addrs []string, err error) {
	given := j.Given
	if j.Find != nil {
		found, findErr := j.Find(j.Ctx)
		if findErr != nil {
			err = fmt.Errorf("look for members: %w", findErr)
		}
		given = append(slices.Clone(given), found...)
	}
	for _, addr := range given {
		resolved, resolveErr := j.resolve(addr)
		err = errors.Join(err, resolveErr)
		addrs = append(addrs, resolved...)
	}
	return addrs, err
}

// DnsPrefix marks a name that stands for all the addresses it has.
const DnsPrefix = "dns://"

// resolve returns the addresses that a name in DNS has now, or addr itself.
func (j *Joiner) resolve(addr string) ([]string, error) {
	name, ok := strings.CutPrefix(addr, DnsPrefix)
	if !ok {
		return []string{addr}, nil
	}
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(j.Ctx, wire.HandshakeTimeout)
	defer cancel()
	hosts, err := j.LookupHost(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("look %s up: %w", host, err)
	}
	for i, h := range hosts {
		hosts[i] = net.JoinHostPort(h, port)
	}
	return hosts, nil
}

var errItself = errors.New("kvraft: it is this node itself")

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

// askStranded says what a node waits for that belongs to no cluster either.
func (j *Joiner) askStranded(ctx context.Context, addr string) error {
	other, err := wire.AskJSON[founding.Statement](ctx, j.Port, addr, wire.CallFound, j.Founding())
	if err != nil {
		return fmt.Errorf("%s: %w", addr, err)
	}
	return fmt.Errorf("%s: node %s%s", addr, roster.UserID(other.Server), StrandedWith(other, j.Self().Cluster, j.Expect))
}

// StrandedWith says what a node without a cluster waits for, to one that is of cluster
// mine, or of none and expects others itself.
func StrandedWith(other founding.Statement, mine string, expect int) string {
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
