package kvraft_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// hraftd is a cluster of raft nodes that store what hraftd stores, as it does.
type hraftd struct {
	t     *testing.T
	nodes []*hraftdNode
	term  uint64 // the last one, when all are stopped
}

type hraftdNode struct {
	id   string
	addr string
	raft *raft.Raft // nil: stopped
	pipe *raft.InmemTransport
	logs kvraft.LogStore
	dir  string

	state *hraftdState
}

// startHraftd starts a cluster on seeds, at the addresses that those will have.
func startHraftd(t *testing.T, all ...*seed) *hraftd {
	t.Helper()
	h := &hraftd{t: t}
	for _, s := range all {
		h.nodes = append(h.nodes, &hraftdNode{id: s.id, addr: s.id + ":7000", logs: s.disk.Open(), dir: s.dir})
	}
	h.start()
	return h
}

func (h *hraftd) start() {
	h.t.Helper()
	var members raft.Configuration
	for _, n := range h.nodes {
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(n.id), Address: raft.ServerAddress(n.addr)})
	}
	for _, n := range h.nodes {
		_, n.pipe = raft.NewInmemTransport(raft.ServerAddress(n.addr))
		for _, other := range h.nodes {
			if other.pipe != nil && other != n {
				n.pipe.Connect(other.pipe.LocalAddr(), other.pipe)
				other.pipe.Connect(n.pipe.LocalAddr(), n.pipe)
			}
		}
		snapshots, err := raft.NewFileSnapshotStore(n.dir, 2, io.Discard)
		if err != nil {
			h.t.Fatal(err)
		}
		config := raft.DefaultConfig()
		config.LocalID = raft.ServerID(n.id)
		config.HeartbeatTimeout, config.ElectionTimeout, config.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
		config.LogOutput = io.Discard
		if err := raft.BootstrapCluster(config, n.logs, n.logs, snapshots, n.pipe, members); err != nil && err != raft.ErrCantBootstrap {
			h.t.Fatal(err)
		}
		n.state = &hraftdState{pairs: map[string]string{}}
		if n.raft, err = raft.NewRaft(config, n.state, n.logs, n.logs, snapshots, n.pipe); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *hraftd) leader() *raft.Raft {
	h.t.Helper()
	for range 10_000 {
		for _, n := range h.nodes {
			if n.raft != nil && n.raft.State() == raft.Leader {
				return n.raft
			}
		}
		time.Sleep(time.Millisecond)
	}
	h.t.Fatal("no leader of hraftd's")
	return nil
}

func (h *hraftd) set(key, value string) { h.t.Helper(); h.apply("set", key, value) }
func (h *hraftd) delete(key string)     { h.t.Helper(); h.apply("delete", key, "") }

// apply leaves out what is empty, as hraftd does.
func (h *hraftd) apply(op, key, value string) {
	h.t.Helper()
	entry, err := json.Marshal(struct {
		Op    string `json:"op,omitempty"`
		Key   string `json:"key,omitempty"`
		Value string `json:"value,omitempty"`
	}{op, key, value})
	if err == nil {
		err = h.leader().Apply(entry, time.Minute).Error()
	}
	if err != nil {
		h.t.Fatalf("%s %s: %v", op, key, err)
	}
}

// settle waits until all nodes have applied the whole log.
func (h *hraftd) settle() {
	h.t.Helper()
	last := h.leader().LastIndex()
	for _, n := range h.nodes {
		for n.raft != nil && n.raft.AppliedIndex() < last {
			time.Sleep(time.Millisecond)
		}
	}
}

// snapshot makes node i write one, and keep as many entries of the log before it.
func (h *hraftd) snapshot(i int, trailing uint64) {
	h.t.Helper()
	h.settle()
	n := h.nodes[i]
	config := n.raft.ReloadableConfig()
	config.TrailingLogs = trailing
	if err := n.raft.ReloadConfig(config); err != nil {
		h.t.Fatal(err)
	}
	if err := n.raft.Snapshot().Error(); err != nil {
		h.t.Fatal(err)
	}
}

// stop stops the given nodes, or all.
func (h *hraftd) stop(which ...int) {
	h.t.Helper()
	if len(which) == 0 {
		h.settle()
		h.term = h.leader().CurrentTerm()
		for i := range h.nodes {
			which = append(which, i)
		}
	}
	for _, i := range which {
		n := h.nodes[i]
		if n.raft == nil {
			continue
		}
		if err := n.raft.Shutdown().Error(); err != nil {
			h.t.Fatal(err)
		}
		n.raft = nil
		h.cutOff(i)
	}
}

// hraftdState is a state machine as hraftd's: it is logged as JSON, and a snapshot is
// its map in JSON.
type hraftdState struct{ pairs map[string]string }

func (s *hraftdState) Apply(entry *raft.Log) any {
	var c struct{ Op, Key, Value string }
	if err := json.Unmarshal(entry.Data, &c); err != nil {
		return err
	}
	if delete(s.pairs, c.Key); c.Op == "set" {
		s.pairs[c.Key] = c.Value
	}
	return nil
}

func (s *hraftdState) Snapshot() (raft.FSMSnapshot, error) {
	return &hraftdState{maps.Clone(s.pairs)}, nil
}

func (s *hraftdState) Restore(r io.ReadCloser) error {
	s.pairs = map[string]string{}
	return json.NewDecoder(r).Decode(&s.pairs)
}

func (s *hraftdState) Persist(sink raft.SnapshotSink) error {
	content, err := json.Marshal(s.pairs)
	if err == nil {
		_, err = sink.Write(content)
	}
	if err != nil {
		return fmt.Errorf("%w, %v", err, sink.Cancel())
	}
	return sink.Close()
}

func (s *hraftdState) Release() {}

// alone is a machine of one node, without the options of a cluster that assembles
// itself.
func alone(t *testing.T, network *kvrafttest.Network, id string) *seed {
	s := &seed{machine: newMachine(t, network), id: id}
	t.Cleanup(func() { s.stop(t) })
	return s
}

// value is what key had when node 0 was stopped.
func (h *hraftd) value(key string) (value string, ok bool) {
	value, ok = h.nodes[0].state.pairs[key]
	return value, ok
}

func (h *hraftd) leaderIndex() int {
	h.t.Helper()
	leader := h.leader()
	for i, n := range h.nodes {
		if n.raft == leader {
			return i
		}
	}
	return -1
}

// cutOff keeps the others from hearing of node i, and it from them.
func (h *hraftd) cutOff(i int) {
	h.nodes[i].pipe.DisconnectAll()
	for _, other := range h.nodes {
		other.pipe.Disconnect(h.nodes[i].pipe.LocalAddr())
	}
}
