package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/life"
	"github.com/kvraft/kvraft/internal/raftlog"
	"github.com/kvraft/kvraft/internal/raftnet"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/snapshots"
	"github.com/kvraft/kvraft/internal/wire"
)

// nodeState is the replicated state, as far as those need it who keep a cluster together.
type nodeState interface {
	Index() uint64 // of the newest entry in it
	AwaitIndex(ctx context.Context, index uint64) error
	AwaitTerm(ctx context.Context, term uint64) error

	Note(name string) string // empty: there is none
	Notes(each func(name, text string) bool)
	NotesLen() int
	AwaitNote(ctx context.Context, name string) error

	Busy() bool    // while raft waits for it
	Steps() uint64 // grows with what it gets done
}

// Timing is kvraft.Timing.
type Timing struct {
	Heartbeat, Election, Lease, Commit, Stall time.Duration
}

// Node is what all parts of a node stand on.
type Node struct {
	ID     string
	Addr   string // where others reach this node
	Timing Timing
	Log    hclog.Logger
	Server raft.ServerID

	Placed       atomic.Bool   // see place.go
	PlaceChanged chan struct{} // holds one signal for watchRaft

	Logs      *disk.Log
	Snapshots snapshots.Store
	State     nodeState
	Ids       *command.IDs
	Commit    func(entry []byte) ([]command.Result, error) // has an entry committed, as the leader, and answers what the state does
	Port      *wire.Port
	RaftNet   raftnet.Transport
	Raft      *raft.Raft
	Opened    time.Time
	Futures   batch.Gate // what raft has been asked and has not answered
	RaftLog   *raftlog.Logger

	Life *life.Life
	Ctx  context.Context // of life
}

func New(t Timing, log hclog.Logger) *Node {
	l := life.New()
	return &Node{
		Timing:       t,
		Log:          log,
		Ids:          command.NewIDs(),
		PlaceChanged: make(chan struct{}, 1),
		RaftLog:      raftlog.New(log.Named("raft"), l.Stopping()),
		Life:         l,
		Ctx:          l.Context(),
	}
}

func (n *Node) Configuration() raft.Configuration {
	return n.Raft.GetConfiguration().Configuration() // in memory; never waits or fails
}

// roster.Lists reports whether a node is a member.
func (n *Node) IsMember() bool { return n.Lists(n.Server) }

func (n *Node) Lists(id raft.ServerID) bool {
	return roster.Lists(n.Configuration(), id)
}

func (n *Node) IsPlaced() bool { return n.Placed.Load() }

// LastEntry is how far this node's log reaches, or the snapshot that replaces it.
func (n *Node) LastEntry() (term, index uint64) {
	_, last := n.Logs.Bounds()
	var entry raft.Log
	if last > 0 && n.Logs.GetLog(last, &entry) == nil {
		return entry.Term, last
	}
	if list, err := n.Snapshots.List(); err == nil && len(list) > 0 {
		return list[0].Term, list[0].Index
	}
	return 0, 0
}

func (n *Node) HasOtherVoter() bool {
	return slices.ContainsFunc(n.Configuration().Servers, func(m raft.Server) bool {
		return m.Suffrage == raft.Voter && m.ID != n.Server
	})
}

// LeaderTerm is the term in which this node is the leader.
func (n *Node) LeaderTerm() (uint64, error) {
	term := n.Raft.CurrentTerm()
	if n.Raft.State() != raft.Leader || n.Raft.CurrentTerm() != term || !n.IsPlaced() {
		return 0, errs.NotLeader
	}
	return term, nil
}

// AskRaft has this node's raft answer a message, without the network.
func (n *Node) AskRaft(ctx context.Context, message any) error {
	return n.RaftNet.Ask(ctx, raft.RPC{Command: message})
}

// Probe asks who is at an address.
func (n *Node) Probe(ctx context.Context, addr string) (wire.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, wire.HandshakeTimeout)
	defer cancel()
	return n.Port.Ping(ctx, roster.Peer{Addr: addr})
}

// ProbeSoon is probe for where somebody was that is likely to be gone: several of those
// must not take all the time that there is for a call.
func (n *Node) ProbeSoon(ctx context.Context, addr string) (wire.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, n.Timing.Heartbeat)
	defer cancel()
	return n.Probe(ctx, addr)
}

// Silent probes other nodes, all at once, and says of which there was no answer,
// and why.
func (n *Node) Silent(ctx context.Context, nodes []raft.Server) (which []string) {
	ctx, cancel := context.WithTimeout(ctx, n.Timing.Heartbeat)
	defer cancel()
	var mu sync.Mutex // guards which
	var probing sync.WaitGroup
	for _, m := range nodes {
		if m.ID == n.Server {
			continue
		}
		probing.Go(func() {
			_, err := n.Port.Ping(ctx, roster.Peer{Server: m.ID, Addr: string(m.Address)})
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			which = append(which, fmt.Sprintf("%s at %s (%v)", roster.UserID(m.ID), roster.DialAddr(string(m.Address)), err))
		})
	}
	probing.Wait()
	slices.Sort(which)
	return which
}

func (n *Node) Self() wire.Self {
	m := n.Logs.Record()
	return wire.Self{Cluster: m.Cluster, Server: m.ServerID()}
}

// StopForFault stops the node at once: it answers nobody any more, and the
// others elect a leader without it. It is called from raft's goroutines and does
// not wait. What is left is for Close to clear away.
func (n *Node) StopForFault(err error) {
	n.Life.Fail(err)
	n.Log.Error("the node stops", "error", err)
}

// LastIndexOf asks another node for the last index of its log.
func (n *Node) LastIndexOf(ctx context.Context, to roster.Peer) (uint64, error) {
	answer, err := n.Port.Call(ctx, to, wire.CallLastIndex, nil)
	if err != nil {
		return 0, err
	}
	return wire.DecodeUint64(answer)
}

// Index is the newest log index in this node's state.
func (n *Node) Index() uint64 { return n.State.Index() }

// Change waits for a change of the configuration to be committed. It can be
// asked for again whatever the error was.
func (n *Node) Change(ctx context.Context, ask func() raft.Future) error {
	if !n.Futures.Enter() {
		return n.Life.Err()
	}
	done := make(chan error, 1)
	if !n.Life.Go(func() {
		defer n.Futures.Leave()
		done <- ask().Error()
	}) {
		n.Futures.Leave()
		return n.Life.Err()
	}
	select {
	case err := <-done:
		if errors.Is(err, raft.ErrNotLeader) {
			return fmt.Errorf("%w: %w", errs.Unsent, err)
		}
		return err
	case <-ctx.Done():
		return errs.Ended(ctx)
	}
}

// Promised returns the promise for a member, as long as it holds: until the
// configuration has it elsewhere.
func (n *Node) Promised(id raft.ServerID) (disk.PlacePromise, bool) {
	p, ok := n.Logs.Record().Places[id]
	return p, ok && roster.AddressOf(n.Configuration(), id) == p.From
}

func (n *Node) AddressOf(id raft.ServerID, addr string) string {
	if p, ok := n.Promised(id); ok && p.From == addr {
		return p.To
	}
	return roster.DialAddr(addr)
}

// VotersIn are those of the newest configuration, which is that of the leader of the
// term: this node still leads in it after it has read them. A configuration of a later
// leader may be without the voters that elected that one, down to this node alone.
func (n *Node) VotersIn(term uint64) ([]raft.Server, error) {
	config := n.Configuration()
	now, err := n.LeaderTerm()
	if err == nil && now != term {
		err = errs.NotLeader
	}
	return roster.Voters(config), err
}

func (n *Node) TakePlace() {
	if !n.Placed.Swap(true) {
		n.tellPlace()
	}
}

// LosePlace is for a node that another has turned away, because it finds it elsewhere.
func (n *Node) LosePlace(at string) {
	if !n.Placed.Swap(false) {
		return
	}
	n.Log.Warn("others find this node at another address: it has to be confirmed", "addr", n.Addr, "other", at)
	n.Port.KeepOnly(nil)
	n.tellPlace()
}

// tellPlace makes watchRaft look.
func (n *Node) tellPlace() {
	select {
	case n.PlaceChanged <- struct{}{}:
	default:
	}
}

// ConfiguredAt is the address that the configuration has for this node; empty: it is
// no member.
func (n *Node) ConfiguredAt() string {
	return roster.AddressOf(n.Configuration(), n.Server)
}

// Patience is how long a call on the leader may take before it is made again.
func (n *Node) Patience() time.Duration { return 3 * n.Timing.Election }

func (n *Node) RaftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = n.Server
	c.HeartbeatTimeout = n.Timing.Heartbeat
	c.ElectionTimeout = n.Timing.Election
	c.LeaderLeaseTimeout = n.Timing.Lease
	c.CommitTimeout = n.Timing.Commit
	c.ShutdownOnRemove = false           // it would leave the transport open
	c.SnapshotThreshold = math.MaxUint64 // raft counts entries; takeSnapshots counts bytes
	c.SnapshotInterval = 24 * time.Hour
	c.Logger = n.RaftLog
	c.NoLegacyTelemetry = true
	return c
}

func (n *Node) ServeLastIndex(context.Context, []byte) ([]byte, error) {
	return binary.BigEndian.AppendUint64(nil, n.Raft.LastIndex()), nil
}

// EmptyQuestion is answered by raft without effect, if there has been a term.
func EmptyQuestion() *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
}
