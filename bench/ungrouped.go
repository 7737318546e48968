package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/state"
)

// ungrouped is what kvraft would be if each write were a log entry of its own, as
// in hraftd: raft and raft-boltdb with kvraft's options, kvraft's codec and state,
// and kvraft's HTTP handler on top. It has neither checksums nor forwarding nor
// retries, which are not free, so that what it lacks but grouping is in its favour.
var ungrouped = system{"one entry per write", func(ctx context.Context, at site) (cluster, error) {
	return openUngrouped(ctx, at)
}}

type ungroupedCluster struct {
	nothing // but a handler
	nodes   []*ungroupedNode
	rest    *kvraft.Store // for what a handler wants beside writes
}

type ungroupedNode struct {
	log       *raftboltdb.BoltStore
	transport *raft.NetworkTransport
	raft      *raft.Raft
}

func openUngrouped(ctx context.Context, at site) (*ungroupedCluster, error) {
	c := &ungroupedCluster{}
	if err := c.start(ctx, at); err != nil {
		return nil, errors.Join(fmt.Errorf("open raft: %w", err), c.close())
	}
	return c, nil
}

func (c *ungroupedCluster) start(ctx context.Context, at site) (err error) {
	var members raft.Configuration
	for i, dir := range at.dirs {
		n, err := newUngroupedNode(dir, at.peers[i])
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(nodeName(i)), Address: n.transport.LocalAddr()})
	}
	for i, n := range c.nodes {
		if err := n.start(at.dirs[i], members, members.Servers[i].ID); err != nil {
			return err
		}
	}
	if c.rest, err = kvraft.Open("", kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0")); err != nil {
		return err
	}
	return eventually(ctx, "a leader of raft", func() bool { return c.leader() != nil })
}

func newUngroupedNode(dir, addr string) (*ungroupedNode, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := openBolt(dir)
	if err != nil {
		return nil, err
	}
	transport, err := raft.NewTCPTransport(addr, nil, 3, 10*time.Second, io.Discard)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return &ungroupedNode{log: log, transport: transport}, nil
}

func (n *ungroupedNode) start(dir string, members raft.Configuration, id raft.ServerID) error {
	config := raft.DefaultConfig()
	config.LocalID = id
	config.Logger = hclog.NewNullLogger()
	config.NoLegacyTelemetry = true
	config.SnapshotThreshold, config.SnapshotInterval = math.MaxUint64, 24*time.Hour
	const entries = 4096 // kvraft's cache counts bytes instead
	cached, err := raft.NewLogCache(entries, n.log)
	if err != nil {
		return err
	}
	snapshots, err := raft.NewFileSnapshotStore(dir, 1, io.Discard)
	if err != nil {
		return err
	}
	if err := raft.BootstrapCluster(config, cached, n.log, snapshots, n.transport, members); err != nil {
		return err
	}
	n.raft, err = raft.NewRaft(config, &ungroupedFSM{state: state.New()}, cached, n.log, snapshots, n.transport)
	return err
}

func (c *ungroupedCluster) leader() *raft.Raft {
	for _, n := range c.nodes {
		if n.raft.State() == raft.Leader {
			return n.raft
		}
	}
	return nil
}

func (c *ungroupedCluster) handler() http.Handler {
	store := &ungroupedStore{Store: c.rest, raft: c.leader()}
	return kvhttp.Handler(store)
}

func (c *ungroupedCluster) close() error {
	var errs []error
	for _, n := range c.nodes {
		if n.raft != nil {
			errs = append(errs, n.raft.Shutdown().Error())
		}
		errs = append(errs, n.transport.Close(), n.log.Close())
		n.transport.CloseStreams()
	}
	if c.rest != nil {
		errs = append(errs, c.rest.Close())
	}
	return errors.Join(errs...)
}

// ungroupedStore is a store for kvhttp whose Batch is one log entry.
type ungroupedStore struct {
	*kvraft.Store
	raft *raft.Raft
	ids  atomic.Uint64
}

var _ kvhttp.Store = (*ungroupedStore)(nil)

func (s *ungroupedStore) Batch(_ context.Context, ops ...kvraft.Op) (uint64, error) {
	request := command.Request{Born: s.raft.AppliedIndex()}
	id := s.ids.Add(1)
	binary.BigEndian.PutUint64(request.ID[:], id)
	for _, op := range ops {
		request.Ops = append(request.Ops, opOf(op))
	}
	future := s.raft.Apply(command.Append(nil, []command.Request{request}), 10*time.Second)
	if err := future.Error(); err != nil {
		return 0, err
	}
	if err, failed := future.Response().(error); failed {
		return 0, err
	}
	return future.Response().([]command.Result)[0].Version, nil
}

// opOf looks into an operation, which only kvraft can read otherwise. It takes a
// fraction of a microsecond.
func opOf(op kvraft.Op) command.Op {
	fields := reflect.ValueOf(op).FieldByName("op")
	return command.Op{
		Kind:  command.Set,
		Key:   fields.FieldByName("Key").String(),
		Value: fields.FieldByName("Value").Bytes(),
	}
}

// ungroupedFSM applies to kvraft's state, which nobody reads.
type ungroupedFSM struct{ state *state.State }

func (f *ungroupedFSM) Apply(entry *raft.Log) any {
	requests, err := command.Decode(entry.Data)
	if err != nil {
		return err
	}
	return f.state.Apply(entry.Index, requests)
}

// Snapshots are never due, and nobody restores one.
func (f *ungroupedFSM) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.ErrUnsupported }
func (f *ungroupedFSM) Restore(r io.ReadCloser) error       { return r.Close() }
