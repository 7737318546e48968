package kvraft

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
	"github.com/kvraft/kvraft/internal/loglimit"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"github.com/kvraft/kvraft/internal/wire"
)

type joiner struct {
	*node
	lead    *tracker
	places  *places
	members *members

	given      []string                                // addresses of members, or names in DNS
	find       func(context.Context) ([]string, error) // looks for more; nil: there are none
	lookupHost func(context.Context, string) ([]string, error)
	expect     int  // how many nodes are to form a cluster
	replica    bool // this node is to have no vote

	founders foundingState
	founded  atomic.Bool            // by this start
	leaving  atomic.Int32           // how many calls are under way by which this node leaves the cluster
	left     atomic.Bool            // it has, and does not ask to be admitted again
	knownAs  atomic.Pointer[string] // see isSettled
}

// settle sees to this node's place in a cluster for as long as the store runs. It
// forms a cluster with others, asks to be admitted, announces a new address, and
// finds out what is wrong when there is no leader. What stands in the way is
// the reason why the node is not ready.
func (s *joiner) settle() {
	const shortest, longest, longestFounding = 50 * time.Millisecond, 5 * time.Second, time.Second
	wait, settled := shortest, false
	words := loglimit.Trouble{Log: s.log}
	for trouble := s.checkIn(); ; trouble = s.seekPlace() {
		if errors.Is(trouble, errs.Removed) {
			trouble = errRemovedNode
		}
		if errors.Is(trouble, errs.Removed) || errors.Is(trouble, errs.Copied) {
			s.log.Error("the node stops", "reason", trouble)
			s.life.Fail(trouble)
			return
		}
		if trouble != nil {
			trouble = oneLine{trouble}
		}
		s.lead.setReason(trouble)
		s.forgetStrangers()
		words.About(s.standing(), trouble)
		wasSettled := settled
		settled = trouble == nil && s.self().Cluster != "" && s.isSettled() && s.lead.tenure().leader != roster.Peer{}
		switch {
		case settled && !wasSettled:
			s.log.Info("member of the cluster", "cluster", s.self().Cluster, "id", s.id, "addr", s.addr)
			s.warnOfStrangers()
			wait = s.timing.Heartbeat
		case settled:
			wait = s.timing.Heartbeat
		case trouble == nil:
			wait = shortest
		case s.founds():
			wait = min(2*wait, longestFounding)
		default:
			wait = min(2*wait, longest)
		}
		if !sleep.For(s.ctx, wait) {
			return
		}
	}
}

// forgetStrangers lets go of what is kept for nodes that are no members any more, and of
// connections that nobody uses.
func (s *joiner) forgetStrangers() {
	members := map[raft.ServerID]bool{s.lead.tenure().leader.Server: true} // of which this node may not have heard
	for _, m := range s.configuration().Servers {
		members[m.ID] = true
	}
	s.port.KeepOnly(members)
	s.raftNet.KeepOnly(members)
}

// checkIn asks the members for its place whatever this node's own configuration
// says, which may be old: it may have been removed while it was down. That nobody
// answers yet is no trouble.
func (s *joiner) checkIn() error {
	if s.self().Cluster != "" && s.isSettled() {
		if err := s.askToJoin(); errors.Is(err, errs.Removed) || errors.Is(err, errs.Copied) {
			return err
		}
	}
	return s.seekPlace()
}

// oneLine is an error that may be several, as one sentence.
type oneLine struct{ error }

func (e oneLine) Error() string { return strings.ReplaceAll(errs.Reason(e.error).Error(), "\n", "; ") }
func (e oneLine) Unwrap() error { return e.error }

// standing is what a node that has not settled is doing, as the beginning of a sentence.
func (s *joiner) standing() string {
	switch {
	case s.founds() && !s.founders.isJoining():
		return "waiting to form a cluster"
	case s.left.Load():
		return "no member"
	case !s.isAdmitted():
		return "waiting to be admitted"
	case !s.isPlaced():
		return "waiting to be confirmed at this address"
	case s.lead.tenure().leader == roster.Peer{}:
		return "no leader"
	}
	return "waiting to be known at this address"
}

// isAdmitted reports whether this node is a member and means to be one. Of a removal by
// itself its own log may not have heard.
func (s *joiner) isAdmitted() bool { return s.isMember() && !s.left.Load() }

// founds reports whether this node is to form a cluster with others, or has
// promised to.
func (s *joiner) founds() bool { return s.self().Cluster == "" && s.expected() > 1 }

// seekPlace goes one step, and returns what kept it from reaching its aim.
func (s *joiner) seekPlace() error {
	switch {
	case s.leaving.Load() > 0:
		return nil
	case s.left.Load():
		return s.stayAway()
	case s.founds():
		return s.foundTogether()
	case s.logs.Record().LacksClusterID():
		return s.seekLeaderWithoutID()
	case !s.isPlaced() && s.self().Cluster != "":
		return s.seekConfirmation()
	case !s.isSettled():
		err := s.askToJoin()
		switch {
		case err == nil:
			at := roster.DialAddr(s.configuredAt())
			s.knownAs.Store(&at)
		case errors.Is(err, errs.Unknown) && s.isCatchingUp():
			return nil
		}
		return err
	case s.lead.isLeaderless():
		return s.findTrouble()
	}
	return nil
}

var errLeft = errors.New("it has left the cluster: start it again, or join it through a member")

// stayAway is for a node that has left. It finds out whether somebody has joined it
// again, or removed it for good.
func (s *joiner) stayAway() error {
	switch err := s.askToJoin(); {
	case err == nil:
		s.left.Store(false)
		return nil
	case errors.Is(err, errs.Removed):
		return err
	}
	return errLeft
}

// isSettled reports whether this node is what it is meant to be, a voter, or a replica
// that does not vote, under its present address or one with which the leader has
// agreed: another name of the same.
func (s *joiner) isSettled() bool {
	at, agreed := roster.DialAddr(s.configuredAt()), s.knownAs.Load()
	if at == "" || at != s.addr && (agreed == nil || at != *agreed) {
		return false
	}
	return roster.IsVoter(s.configuration(), s.server) || s.members.isReplica(s.id)
}

// isCatchingUp reports whether this node's leader brings it up to date.
func (s *joiner) isCatchingUp() bool {
	_, is := s.members.progress()[s.id]
	return is
}

// findTrouble says why a member that has no leader has none.
func (s *joiner) findTrouble() error {
	all := roster.Voters(s.configuration())
	silent := s.silent(s.ctx, all)
	switch {
	case s.lead.tenure().leader != roster.Peer{}:
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

func (s *joiner) ownJoinRequest() joinRequest {
	r := joinRequest{ID: s.id, Addr: s.addr, Itself: true, Server: s.server, Process: s.port.Process(), Away: s.leaving.Load() > 0 || s.left.Load()}
	if s.replica {
		r.Role = roleReplica
	}
	return r
}

// askToJoin goes through the members until one has seen to it. A leader that has
// moved is its own member.
func (s *joiner) askToJoin() error {
	if s.lead.tenure().leads {
		return s.members.join(s.ctx, s.ownJoinRequest())
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
		return s.nobodyToAsk()
	}
	return errors.Join(failures...)
}

// nobodyToAsk says what a node waits for that knows no other. To empty its directory
// is for one that has never been in a cluster: it may be the only copy.
func (s *joiner) nobodyToAsk() error {
	switch {
	case s.isMember() && len(s.configuration().Servers) == 1:
		return fmt.Errorf("the only member announces its new address, %s, when it leads", s.addr)
	case s.isMember() || s.self().Cluster != "":
		return errors.New("there is no other node to ask; start this one with the addresses of members")
	}
	return errors.New("there is no other node to ask; start this one with the addresses of members, or empty its directory to form a cluster")
}

// memberAddrs returns the addresses at which members may be, also with an error.
func (s *joiner) memberAddrs() ([]string, error) {
	addrs, err := s.givenAddrs()
	if s.self().Cluster == "" {
		addrs = append(addrs, s.founding().Known...)
		for _, f := range s.logs.Record().Promise {
			addrs = append(addrs, f.Addr)
		}
	}
	for _, m := range s.configuration().Servers {
		if m.ID != s.server {
			addrs = append(addrs, roster.DialAddr(string(m.Address)))
		}
	}
	addrs = append(addrs, s.port.CallerAddrs()...) // they may have moved
	slices.Sort(addrs)
	return slices.Compact(addrs), err
}

// givenAddrs are those of the options, looked up anew each time.
func (s *joiner) givenAddrs() (addrs []string, err error) {
	given := s.given
	if s.find != nil {
		found, findErr := s.find(s.ctx)
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

// dnsPrefix marks a name that stands for all the addresses it has.
const dnsPrefix = "dns://"

// resolve returns the addresses that a name in DNS has now, or addr itself.
func (s *joiner) resolve(addr string) ([]string, error) {
	name, ok := strings.CutPrefix(addr, dnsPrefix)
	if !ok {
		return []string{addr}, nil
	}
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, wire.HandshakeTimeout)
	defer cancel()
	hosts, err := s.lookupHost(ctx, host)
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
func (s *joiner) askMember(addr string) error {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	who, err := s.probe(ctx, addr)
	mine := s.self().Cluster
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", addr, err)
	case who.Node == s.server:
		return errItself
	case who.Cluster == "":
		return s.askStranded(ctx, addr)
	case mine != "" && who.Cluster != mine:
		return fmt.Errorf("%s: node %s is of cluster %s, this one of %s", addr, roster.UserID(who.Node), who.Cluster, mine)
	}
	if _, err := wire.AskJSON[wire.Raw](ctx, s.port, addr, wire.CallJoin, s.ownJoinRequest()); err != nil {
		return fmt.Errorf("%s: node %s of cluster %s: %w", addr, roster.UserID(who.Node), who.Cluster, err)
	}
	return nil
}

// askStranded says what a node waits for that belongs to no cluster either.
func (s *joiner) askStranded(ctx context.Context, addr string) error {
	other, err := wire.AskJSON[founding](ctx, s.port, addr, wire.CallFound, s.founding())
	if err != nil {
		return fmt.Errorf("%s: %w", addr, err)
	}
	return fmt.Errorf("%s: node %s%s", addr, roster.UserID(other.Server), strandedWith(other, s.self().Cluster, s.expect))
}

// strandedWith says what a node without a cluster waits for, to one that is of cluster
// mine, or of none and expects others itself.
func strandedWith(other founding, mine string, expect int) string {
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
func (s *joiner) warnOfStrangers() {
	addrs, _ := s.givenAddrs() // nobody is known to be a stranger whose address is not
	slices.Sort(addrs)
	var strange []string
	for _, addr := range slices.Compact(addrs) {
		who, err := s.probe(s.ctx, addr)
		if err == nil && who.Cluster != "" && who.Cluster != s.self().Cluster {
			strange = append(strange, fmt.Sprintf("%s at %s (cluster %s)", roster.UserID(who.Node), addr, who.Cluster))
		}
	}
	if len(strange) > 0 {
		s.log.Warn("a node to join belongs to another cluster; this node stays in its own unless its data directory is emptied",
			"cluster", s.self().Cluster, "others", strings.Join(strange, ", "))
	}
}
