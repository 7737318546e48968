package kvraft

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/state"
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
