package kvraft

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/state"
	"github.com/kvraft/kvraft/internal/wire"
)

// hraftd has members whose ServerID is the bare id, and they keep it, in a cluster
// without an id. The first of them that leads takes a note of one, see nameCluster.
// Until a node has applied that it is nameless, and knows the others by its
// configuration alone; see judge.

// whose tells which member a directory of hraftd's is. It does not say so itself:
// hraftd was told its id by each command line, or took the address of its peers for
// it.
func (o *options) whose(config raft.Configuration) (string, error) {
	var ids []string
	for _, m := range config.Servers {
		if err := checkID(string(m.ID)); err != nil {
			return "", fmt.Errorf("%w: a cluster with such a member cannot be taken over; set its keys in a new one", err)
		}
		ids = append(ids, string(m.ID))
	}
	if len(ids) == 0 {
		return "", fmt.Errorf("%w: it has no configuration, as a node has that never joined or whose raft is older than protocol version 3; empty the directory and let the node join", errs.Invalid)
	}
	if o.id != "" && !slices.Contains(ids, o.id) {
		return "", fmt.Errorf("%w: no member has the id %q; its members are %s", errs.Invalid, o.id, strings.Join(ids, ", "))
	}
	for _, id := range []string{o.id, o.advertise, o.addr} {
		if slices.Contains(ids, id) {
			return id, nil
		}
	}
	if len(ids) > 1 {
		return "", fmt.Errorf("%w: it does not say which of the members it is, %s: name its id, as hraftd was told it (WithID, kvd -id)", errs.Invalid, strings.Join(ids, ", "))
	}
	return ids[0], nil
}

// verifyOldSnapshot is verifySnapshot for one that may be hraftd's.
func verifyOldSnapshot(r io.Reader) error {
	in := bufio.NewReader(r)
	if !disk.IsHraftdSnapshot(in) {
		return verifySnapshot(in)
	}
	_, err := disk.ReadHraftdSnapshot(in)
	return err
}

// translated makes a snapshot of hraftd's one of kvraft's, for this node and for any
// that is sent it.
func translated(meta *raft.SnapshotMeta, content io.ReadCloser) (*raft.SnapshotMeta, io.ReadCloser, error) {
	in := bufio.NewReader(content)
	if !disk.IsHraftdSnapshot(in) {
		return meta, struct {
			io.Reader
			io.Closer
		}{in, content}, nil
	}
	defer content.Close()
	pairs, err := disk.ReadHraftdSnapshot(in)
	if err != nil {
		return nil, nil, err
	}
	var out bytes.Buffer
	head := snapshotHeader{index: meta.Index, term: meta.Term}
	if err := writeSnapshot(context.Background(), &out, head, state.NewLegacy(pairs).View()); err != nil {
		return nil, nil, err
	}
	meta.Size = int64(out.Len())
	return meta, io.NopCloser(&out), nil
}

// vouchWithoutClusterID tells what speaks against a dialer that is nameless, or that dials
// this node which is. Its id must be a member's, as far as this node knows. Members
// of another cluster may have the same ids, if that was hraftd's too: they have other
// entries in their logs.
func (s *members) vouchWithoutClusterID(o wire.Opening) error {
	if !s.lists(o.From) {
		return fmt.Errorf("node %s, taken over from hraftd, has no member %s in its cluster", s.server, o.From)
	}
	for _, theirs := range o.Log {
		var entry raft.Log
		if first, _ := s.logs.Bounds(); theirs.Index < first || s.logs.GetLog(theirs.Index, &entry) != nil {
			continue
		}
		if entry.Term == theirs.Term && wire.Sample(disk.SampleOf(&entry)) != theirs {
			return fmt.Errorf("the log of node %s has another entry %d than that of node %s: they are of two clusters of hraftd's with the same ids", o.From, theirs.Index, s.server)
		}
	}
	return nil
}

// clusterIDNote is the note of the id of a cluster that was hraftd's.
const clusterIDNote = "cluster"

// assignClusterID takes a note of the cluster's id, as the leader, unless there is one.
// It is taken once: when an entry of this leader's term is in its state, so is all
// that was committed before, and what another leader may have written and this one
// does not see never will be. Nor does it begin again before it knows what became of
// its own.
func (s *members) assignClusterID(ctx context.Context) error {
	unlock, err := s.lockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.lead.awaitOwnTerm(ctx); err != nil {
		return err
	}
	if s.note(clusterIDNote) != "" {
		return nil
	}
	return s.writeNote(clusterIDNote, cmp.Or(s.self().Cluster, roster.NewIdentity()))
}

// adoptClusterID gives a nameless node the id of its cluster, when its state has it.
func (s *joiner) adoptClusterID() {
	if !s.logs.Record().LacksClusterID() {
		return
	}
	if err := s.state.AwaitNote(s.ctx, clusterIDNote); err != nil {
		return // the store stops
	}
	cluster := s.members.note(clusterIDNote)
	if err := s.logs.Update(func(m *disk.Record) { m.Cluster = cluster }); err != nil {
		return // likewise
	}
	s.log.Info("the cluster that was taken over from hraftd has an id", "cluster", cluster)
}

// seekLeaderWithoutID is for a nameless node, which is a member already. It asks to join all
// the same when it hears of no leader: it may have been removed.
func (s *joiner) seekLeaderWithoutID() error {
	if !s.lead.isLeaderless() {
		return nil
	}
	if err := s.askToJoin(); errors.Is(err, errs.Refused) {
		return err
	}
	return s.findTrouble()
}
