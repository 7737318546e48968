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
func (s *Joiner) Settle() {
	const shortest, longest, longestFounding = 50 * time.Millisecond, 5 * time.Second, time.Second
	wait, settled := shortest, false
	words := loglimit.Trouble{Log: s.Log}
	for trouble := s.checkIn(); ; trouble = s.seekPlace() {
		if errors.Is(trouble, errs.Removed) {
			trouble = member.ErrRemovedNode
		}
		if errors.Is(trouble, errs.Removed) || errors.Is(trouble, errs.Copied) {
			s.Log.Error("the node stops", "reason", trouble)
			s.Life.Fail(trouble)
			return
		}
		if trouble != nil {
			trouble = errs.OneLine(trouble)
		}
		s.Lead.SetReason(trouble)
		s.forgetStrangers()
		words.About(s.Standing(), trouble)
		wasSettled := settled
		settled = trouble == nil && s.Self().Cluster != "" && s.IsSettled() && s.Lead.Tenure().Leader != roster.Peer{}
		switch {
		case settled && !wasSettled:
			s.Log.Info("member of the cluster", "cluster", s.Self().Cluster, "id", s.ID, "addr", s.Addr)
			s.warnOfStrangers()
			wait = s.Timing.Heartbeat
		case settled:
			wait = s.Timing.Heartbeat
		case trouble == nil:
			wait = shortest
		case s.founds():
			wait = min(2*wait, longestFounding)
		default:
			wait = min(2*wait, longest)
		}
		if !sleep.For(s.Ctx, wait) {
			return
		}
	}
}

// forgetStrangers lets go of what is kept for nodes that are no members any more, and of
// connections that nobody uses.
func (s *Joiner) forgetStrangers() {
	members := map[raft.ServerID]bool{s.Lead.Tenure().Leader.Server: true} // of which this node may not have heard
	for _, m := range s.Configuration().Servers {
		members[m.ID] = true
	}
	s.Port.KeepOnly(members)
	s.RaftNet.KeepOnly(members)
}

// checkIn asks the members for its place whatever this node's own configuration
// says, which may be old: it may have been removed while it was down. That nobody
// answers yet is no trouble.
func (s *Joiner) checkIn() error {
	if s.Self().Cluster != "" && s.IsSettled() {
		if err := s.askToJoin(); errors.Is(err, errs.Removed) || errors.Is(err, errs.Copied) {
			return err
		}
	}
	return s.seekPlace()
}

// Standing is what a node that has not settled is doing, as the beginning of a sentence.
func (s *Joiner) Standing() string {
	switch {
	case s.founds() && !s.founders.isJoining():
		return "waiting to form a cluster"
	case s.Left.Load():
		return "no member"
	case !s.IsAdmitted():
		return "waiting to be admitted"
	case !s.IsPlaced():
		return "waiting to be confirmed at this address"
	case s.Lead.Tenure().Leader == roster.Peer{}:
		return "no leader"
	}
	return "waiting to be known at this address"
}

// IsAdmitted reports whether this node is a member and means to be one. Of a removal by
// itself its own log may not have heard.
func (s *Joiner) IsAdmitted() bool { return s.IsMember() && !s.Left.Load() }

// founds reports whether this node is to form a cluster with others, or has
// promised to.
func (s *Joiner) founds() bool { return s.Self().Cluster == "" && s.expected() > 1 }

// seekPlace goes one step, and returns what kept it from reaching its aim.
func (s *Joiner) seekPlace() error {
	switch {
	case s.leaving.Load() > 0:
		return nil
	case s.Left.Load():
		return s.stayAway()
	case s.founds():
		return s.foundTogether()
	case s.Logs.Record().LacksClusterID():
		return s.seekLeaderWithoutID()
	case !s.IsPlaced() && s.Self().Cluster != "":
		return s.seekConfirmation()
	case !s.IsSettled():
		err := s.askToJoin()
		switch {
		case err == nil:
			at := roster.DialAddr(s.ConfiguredAt())
			s.knownAs.Store(&at)
		case errors.Is(err, errs.Unknown) && s.isCatchingUp():
			return nil
		}
		return err
	case s.Lead.IsLeaderless():
		return s.findTrouble()
	}
	return nil
}

var ErrLeft = errors.New("it has left the cluster: start it again, or join it through a member")

// stayAway is for a node that has left. It finds out whether somebody has joined it
// again, or removed it for good.
func (s *Joiner) stayAway() error {
	switch err := s.askToJoin(); {
	case err == nil:
		s.Left.Store(false)
		return nil
	case errors.Is(err, errs.Removed):
		return err
	}
	return ErrLeft
}

// IsSettled reports whether this node is what it is meant to be, a voter, or a replica
// that does not vote, under its present address or one with which the leader has
// agreed: another name of the same.
func (s *Joiner) IsSettled() bool {
	at, agreed := roster.DialAddr(s.ConfiguredAt()), s.knownAs.Load()
	if at == "" || at != s.Addr && (agreed == nil || at != *agreed) {
		return false
	}
	return roster.IsVoter(s.Configuration(), s.Server) || s.Members.IsReplica(s.ID)
}

// isCatchingUp reports whether this node's leader brings it up to date.
func (s *Joiner) isCatchingUp() bool {
	_, is := s.Members.Progress()[s.ID]
	return is
}

// findTrouble says why a member that has no leader has none.
func (s *Joiner) findTrouble() error {
	all := roster.Voters(s.Configuration())
	silent := s.Silent(s.Ctx, all)
	switch {
	case s.Lead.Tenure().Leader != roster.Peer{}:
		return nil
	case len(silent) > (len(all)-1)/2:
		trouble := fmt.Errorf("%d of %d voters do not answer: %s", len(silent), len(all), strings.Join(silent, ", "))
		err := s.askWhoAnswers() // they may have moved
		if err == nil || errors.Is(err, errs.Refused) {
			return err
		}
		return trouble
	}
	// They can elect one. If they have, it knows why this node does not hear it.
	err := s.askToJoin()
	if errors.Is(err, errs.Refused) || errors.Is(err, errs.Unreachable) {
		return err
	}
	return nil
}

func (s *Joiner) ownJoinRequest() member.JoinRequest {
	r := member.JoinRequest{ID: s.ID, Addr: s.Addr, Itself: true, Server: s.Server, Process: s.Port.Process(), Away: s.leaving.Load() > 0 || s.Left.Load()}
	if s.Replica {
		r.Role = member.RoleReplica
	}
	return r
}

// askToJoin goes through the members until one has seen to it. A leader that has
// moved is its own member.
func (s *Joiner) askToJoin() error {
	if s.Lead.Tenure().Leads {
		return s.Members.Join(s.Ctx, s.ownJoinRequest())
	}
	addrs, err := s.memberAddrs()
	var failures []error
	if err != nil {
		failures = append(failures, err)
	}
	for _, addr := range addrs {
		err := s.askMember(addr)
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
		return s.NobodyToAsk()
	}
	return errors.Join(failures...)
}

// NobodyToAsk says what a node waits for that knows no other. To empty its directory
// is for one that has never been in a cluster: it may be the only copy.
func (s *Joiner) NobodyToAsk() error {
	switch {
	case s.IsMember() && len(s.Configuration().Servers) == 1:
		return fmt.Errorf("the only member announces its new address, %s, when it leads", s.Addr)
	case s.IsMember() || s.Self().Cluster != "":
		return errors.New("there is no other node to ask; start this one with the addresses of members")
	}
	return errors.New("there is no other node to ask; start this one with the addresses of members, or empty its directory to form a cluster")
}

// memberAddrs returns the addresses at which members may be, also with an error.
func (s *Joiner) memberAddrs() ([]string, error) {
	addrs, err := s.givenAddrs()
	if s.Self().Cluster == "" {
		addrs = append(addrs, s.Founding().Known...)
		for _, f := range s.Logs.Record().Promise {
			addrs = append(addrs, f.Addr)
		}
	}
	for _, m := range s.Configuration().Servers {
		if m.ID != s.Server {
			addrs = append(addrs, roster.DialAddr(string(m.Address)))
		}
	}
	addrs = append(addrs, s.Port.CallerAddrs()...) // they may have moved
	slices.Sort(addrs)
	return slices.Compact(addrs), err
}

// givenAddrs are those of the options, looked up anew each time.
func (s *Joiner) givenAddrs() (addrs []string, err error) {
	given := s.Given
	if s.Find != nil {
		found, findErr := s.Find(s.Ctx)
		if findErr != nil {
			err = fmt.Errorf("look for members: %w", findErr)
		}
		given = append(slices.Clone(given), found...)
	}
	for _, addr := range given {
		resolved, resolveErr := s.resolve(addr)
		err = errors.Join(err, resolveErr)
		addrs = append(addrs, resolved...)
	}
	return addrs, err
}

// DnsPrefix marks a name that stands for all the addresses it has.
const DnsPrefix = "dns://"

// resolve returns the addresses that a name in DNS has now, or addr itself.
func (s *Joiner) resolve(addr string) ([]string, error) {
	name, ok := strings.CutPrefix(addr, DnsPrefix)
	if !ok {
		return []string{addr}, nil
	}
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.Ctx, wire.HandshakeTimeout)
	defer cancel()
	hosts, err := s.LookupHost(ctx, host)
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
func (s *Joiner) askMember(addr string) error {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(s.Ctx, patience)
	defer cancel()
	who, err := s.Probe(ctx, addr)
	mine := s.Self().Cluster
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", addr, err)
	case who.Node == s.Server:
		return errItself
	case who.Cluster == "":
		return s.askStranded(ctx, addr)
	case mine != "" && who.Cluster != mine:
		return fmt.Errorf("%s: node %s is of cluster %s, this one of %s", addr, roster.UserID(who.Node), who.Cluster, mine)
	}
	if _, err := wire.AskJSON[wire.Raw](ctx, s.Port, addr, wire.CallJoin, s.ownJoinRequest()); err != nil {
		return fmt.Errorf("%s: node %s of cluster %s: %w", addr, roster.UserID(who.Node), who.Cluster, err)
	}
	return nil
}

// askStranded says what a node waits for that belongs to no cluster either.
func (s *Joiner) askStranded(ctx context.Context, addr string) error {
	other, err := wire.AskJSON[founding.Statement](ctx, s.Port, addr, wire.CallFound, s.Founding())
	if err != nil {
		return fmt.Errorf("%s: %w", addr, err)
	}
	return fmt.Errorf("%s: node %s%s", addr, roster.UserID(other.Server), StrandedWith(other, s.Self().Cluster, s.Expect))
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
func (s *Joiner) warnOfStrangers() {
	addrs, _ := s.givenAddrs() // nobody is known to be a stranger whose address is not
	slices.Sort(addrs)
	var strange []string
	for _, addr := range slices.Compact(addrs) {
		who, err := s.Probe(s.Ctx, addr)
		if err == nil && who.Cluster != "" && who.Cluster != s.Self().Cluster {
			strange = append(strange, fmt.Sprintf("%s at %s (cluster %s)", roster.UserID(who.Node), addr, who.Cluster))
		}
	}
	if len(strange) > 0 {
		s.Log.Warn("a node to join belongs to another cluster; this node stays in its own unless its data directory is emptied",
			"cluster", s.Self().Cluster, "others", strings.Join(strange, ", "))
	}
}
