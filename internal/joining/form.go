package joining

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/founding"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"github.com/kvraft/kvraft/internal/wire"
)

// foundingState is what a node knows while it forms a cluster.
type foundingState struct {
	joining atomic.Bool // there is a cluster already, which is asked for admission

	mu       sync.Mutex
	intended []roster.Peer // guarded by mu
	known    []string      // guarded by mu: the latest first
}

// expected is how many nodes are to form a cluster; 0: none that this node is
// among.
func (j *Joiner) expected() int {
	meta := j.Stable().Record()
	if n := max(j.config.Expect, len(meta.Promise)); n > 1 && !meta.IsLegacy() {
		return n
	}
	return 0
}

// statement is what this node says of itself.
func (j *Joiner) statement() founding.Statement {
	j.founders.mu.Lock()
	set, known := j.founders.intended, j.founders.known
	j.founders.mu.Unlock()
	meta := j.Stable().Record()
	if meta.Promise != nil {
		set = meta.Promise
	}
	return founding.Statement{Peer: roster.Peer{Server: j.Server, Addr: j.Addr}, Cluster: meta.Cluster, Expect: j.expected(), Set: set, Promised: meta.Promise != nil, Known: known}
}

// FoundAlone bootstraps a cluster of one, before raft starts, if that is what this
// node has promised. A formation that a crash cut off is ended, or begun again:
// nobody can have voted in it.
func (j *Joiner) FoundAlone() error {
	meta := j.Stable().Record()
	last, err := j.Logs.LastIndex()
	if err != nil {
		return err
	}
	switch {
	case meta.Cluster != "", meta.IsLegacy(), last > 0 && meta.Promise == nil:
		return nil
	case last > 0: // with others, too: the log comes before the cluster's id
		return j.recordFounding(meta.Promise)
	}
	if err := j.Stable().UpdateIf(func(m *disk.Record) bool {
		had := len(m.Raft) > 0
		m.Raft = nil
		return had
	}); err != nil {
		return fmt.Errorf("begin anew: %w", err)
	}
	if len(meta.Promise) != 1 {
		return nil
	}
	err = j.Life.Apart("bootstrap", func() error {
		return raft.BootstrapCluster(j.RaftConfig(), j.Logs, j.Stable(), j.Snapshots, j.RaftNet, founding.Configuration(meta.Promise))
	})
	if err != nil {
		return err
	}
	return j.recordFounding(meta.Promise)
}

// foundTogether goes one step towards a cluster of this node and others. An error
// says what it waits for.
func (j *Joiner) foundTogether() error {
	others, unheard, err := j.meet()
	if err != nil {
		return err
	}
	for _, other := range others {
		if other.Cluster != "" {
			return j.meetMember(other)
		}
	}
	j.founders.joining.Store(false)
	set, err := j.intend(others)
	if err != nil {
		return errors.Join(err, unheard)
	}
	if j.Stable().Record().Promise == nil {
		if err := founding.Agreed(set, j.Server, others, func(f founding.Statement) bool { return true }); err != nil {
			return errors.Join(err, unheard)
		}
		if err := j.promise(set); err != nil {
			return err
		}
		j.Log.Info("promised to form a cluster", "with", founding.Names(set))
	}
	if err := founding.Agreed(set, j.Server, others, func(f founding.Statement) bool { return f.Promised }); err != nil {
		return errors.Join(err, unheard)
	}
	return j.found(set)
}

// promise binds this node to the set, unless it was admitted to a cluster while it
// looked at others.
func (j *Joiner) promise(set []roster.Peer) error {
	admitted := ""
	err := j.Stable().UpdateIf(func(m *disk.Record) bool {
		if admitted = m.Cluster; admitted == "" {
			m.Promise = set
		}
		return admitted == ""
	})
	if err == nil && admitted != "" {
		err = fmt.Errorf("this node was admitted to cluster %s", admitted)
	}
	if err != nil {
		return fmt.Errorf("promise to form a cluster: %w", err)
	}
	return nil
}

// meet asks every address that may be a node's, at once. unheard says which did
// not answer.
func (j *Joiner) meet() (others map[raft.ServerID]founding.Statement, unheard, err error) {
	addrs, unheard := j.memberAddrs()
	me := j.statement()
	answers, failures := node.AskAll(addrs, func(addr string) (founding.Statement, error) { return j.askFounder(addr, me) })
	others = make(map[raft.ServerID]founding.Statement)
	var found, heardOf []string
	for i, answer := range answers {
		switch {
		case failures[i] != nil:
			unheard = errors.Join(unheard, fmt.Errorf("%s: %w", addrs[i], failures[i]))
		case answer.Server != j.Server:
			others[answer.Server] = answer
			found, heardOf = append(found, answer.Addr), append(heardOf, answer.Known...)
		}
		if failures[i] == nil && answer.Cluster == "" && answer.Expect > 0 && answer.Expect != me.Expect {
			err = fmt.Errorf("%w: node %s expects %d nodes, this one %d: start all with the same WithBootstrapExpect", errs.Invalid, roster.UserID(answer.Server), answer.Expect, me.Expect)
			return nil, nil, err
		}
	}
	j.noteKnown(append(found, heardOf...))
	return others, unheard, nil
}

// noteKnown remembers addresses at which nodes were found, also while they are silent.
func (j *Joiner) noteKnown(addrs []string) {
	const most = 64
	j.founders.mu.Lock()
	defer j.founders.mu.Unlock()
	var known []string
	for _, addr := range append(addrs, j.founders.known...) {
		if addr != j.Addr && len(known) < most && !slices.Contains(known, addr) {
			known = append(known, addr)
		}
	}
	j.founders.known = known
}

// ServeFound answers another node, and remembers where it is.
func (j *Joiner) ServeFound(_ context.Context, other founding.Statement) (founding.Statement, error) {
	me := j.statement()
	if j.founds() && other.Expect > 0 && roster.CheckReachable("address", other.Addr) == nil {
		j.noteKnown([]string{other.Addr})
	}
	return me, nil
}

// askFounder asks the node at addr, and makes sure that it is found where it says.
func (j *Joiner) askFounder(addr string, me founding.Statement) (founding.Statement, error) {
	ctx, cancel := context.WithTimeout(j.Ctx, wire.HandshakeTimeout)
	defer cancel()
	answer, err := wire.AskJSON[founding.Statement](ctx, j.Port, addr, wire.CallFound, me)
	if err != nil || answer.Addr == addr || answer.Server == j.Server {
		return answer, err
	}
	again, err := wire.AskJSON[founding.Statement](ctx, j.Port, answer.Addr, wire.CallFound, me)
	if err != nil {
		return answer, fmt.Errorf("node %s says that it is reached at %s: %w", roster.UserID(answer.Server), answer.Addr, err)
	}
	if again.Server != answer.Server {
		return answer, fmt.Errorf("node %s says that it is reached at %s, where node %s is", roster.UserID(answer.Server), answer.Addr, roster.UserID(again.Server))
	}
	return again, nil
}

// meetMember goes on when another node belongs to a cluster: that of this node's
// promise, or one to join.
func (j *Joiner) meetMember(other founding.Statement) error {
	promise := j.Stable().Record().Promise
	switch {
	case promise == nil:
		j.founders.joining.Store(true)
		return j.askToJoin()
	case other.Cluster == founding.ClusterID(promise): // so it has seen all the promises
		return j.found(promise)
	case !founding.Includes(promise, other.Server):
		return fmt.Errorf("this node has promised to form a cluster with %s, and found a member of cluster %s at %s", founding.Names(promise), other.Cluster, other.Addr)
	}
	j.Log.Warn("a promise to form a cluster is void, as one of its nodes belongs to another cluster", "with", founding.Names(promise), "node", other.Server, "cluster", other.Cluster)
	if err := j.Stable().Update(func(m *disk.Record) { m.Promise = nil }); err != nil {
		return fmt.Errorf("take a promise back: %w", err)
	}
	return j.askToJoin()
}

// intend chooses the set: what this node has promised; or what another one has
// promised for this one as well; or the first by identity.
func (j *Joiner) intend(others map[raft.ServerID]founding.Statement) ([]roster.Peer, error) {
	me := j.statement()
	if me.Promised {
		return me.Set, nil
	}
	set := founding.Choose(me, others)
	if set != nil {
		if err := founding.Check(set); err != nil {
			return nil, err
		}
	}
	j.founders.mu.Lock()
	j.founders.intended = set
	j.founders.mu.Unlock()
	switch {
	case set == nil:
		return nil, fmt.Errorf("found %d of %d nodes", 1+len(others), me.Expect)
	case !founding.Includes(set, j.Server):
		return nil, fmt.Errorf("%s are to form it", founding.Names(set))
	}
	return set, nil
}

// found bootstraps the cluster of a set that all its members have promised. The
// log comes first and the cluster's id second: before a node has that, no other
// reaches its raft.
func (j *Joiner) found(set []roster.Peer) error {
	const poll = time.Millisecond
	if len(j.Configuration().Servers) == 0 {
		// Its future is not waited for: it is never answered if the storage fails
		// meanwhile, which ends the goroutine that owes the answer.
		j.Raft.BootstrapCluster(founding.Configuration(set))
	}
	for len(j.Configuration().Servers) == 0 {
		if !sleep.For(j.Ctx, poll) {
			return j.Life.Err()
		}
	}
	if err := j.recordFounding(set); err != nil {
		return err
	}
	j.places.FindPlace()
	return nil
}

// recordFounding gives this node the cluster's id. Whoever has promised the set
// belongs to that cluster or to none.
func (j *Joiner) recordFounding(set []roster.Peer) error {
	other := ""
	err := j.Stable().Update(func(m *disk.Record) {
		if m.Cluster != "" && m.Cluster != founding.ClusterID(set) {
			other = m.Cluster
			return
		}
		m.Cluster, m.Promise = founding.ClusterID(set), nil
	})
	if err == nil && other != "" {
		err = fmt.Errorf("%w: this node belongs to cluster %s", errs.Refused, other)
	}
	if err != nil {
		return fmt.Errorf("form a cluster: %w", err)
	}
	j.founded.Store(true)
	j.Log.Info("formed the cluster", "cluster", founding.ClusterID(set), "with", founding.Names(set))
	return nil
}
