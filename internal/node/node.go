// Package node is what all parts of a node that keep its cluster together stand on: its
// identity and timing, its log, its raft, its port, and whether it has its place.
//
// The root package makes one, fills it in as it opens things, and hands it to the parts,
// which embed it:
//
//	n := node.New(timing, logger)
//	n.Logs, n.Snapshots = logs, snapshots   // from the disk
//	n.Port, n.RaftNet = port, raftnet.New(port, …)
//	n.Raft, n.State = raft, state
//	n.TakePlace()                           // once it may act, see package place
//
// What is filled in stays as it is: it is read without a lock. What changes afterwards,
// the place, is an atomic.
//
// The package starts one kind of goroutine of its own: Change waits for raft in one of
// n.Life, for which Close waits. Silent and AskAll wait for theirs before they return. No
// lock is held while anything is waited for.
//
// Tests: node_test.go has what needs no raft; the rest is tested by the clusters of the
// root package, in virtual time.
package node

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/life"
	"github.com/kvraft/kvraft/internal/raftlog"
	"github.com/kvraft/kvraft/internal/raftnet"
	"github.com/kvraft/kvraft/internal/snapshots"
	"github.com/kvraft/kvraft/internal/wire"
)

// State is the replicated state, as far as those need it who keep a cluster together. A
// wait ends with an error when ctx or the store does.
type State interface {
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
	ID     string        // that its user gave it
	Server raft.ServerID // its id with its identity, as raft knows it
	Addr   string        // where others reach it
	Timing Timing
	Log    hclog.Logger

	Opened     time.Time
	OpenedTerm uint64 // raft's term at that time

	Life *life.Life
	Ctx  context.Context // of Life

	Logs      *disk.Log
	Snapshots snapshots.Store
	State     State

	Raft    *raft.Raft
	RaftLog *raftlog.Logger
	RaftNet raftnet.Transport
	Port    *wire.Port
	Futures batch.Gate // what raft has been asked and has not answered

	RequestIDs *command.IDs
	Commit     func(entry []byte) ([]command.Result, error) // has an entry committed, as the leader, and answers what the state does

	electors     electorate
	placed       atomic.Bool   // it runs where its configuration has it, see package place
	placeChanged chan struct{} // holds one signal
}

// New returns a node that has nothing but its life. The rest is filled in as it is opened.
func New(t Timing, log hclog.Logger) *Node {
	l := life.New()
	return &Node{
		Timing:       t,
		Log:          log,
		Life:         l,
		Ctx:          l.Context(),
		RaftLog:      raftlog.New(log.Named("raft"), func() bool { return l.Err() != nil }),
		RequestIDs:   command.NewIDs(),
		placeChanged: make(chan struct{}, 1),
	}
}

// Self is what the node says of itself in a handshake.
func (n *Node) Self() wire.Self {
	m := n.Stable().Record()
	return wire.Self{Cluster: m.Cluster, Server: m.ServerID()}
}

// Stable is where this node's record is.
func (n *Node) Stable() *disk.Stable { return n.Logs.Stable() }

// Index is the newest log index in this node's state.
func (n *Node) Index() uint64 { return n.State.Index() }

// Patience is how long a call on the leader may take before it is made again.
func (n *Node) Patience() time.Duration { return 3 * n.Timing.Election }

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

// StopForFault stops the node at once: it answers nobody any more, and the others elect
// a leader without it. It is called from raft's goroutines and does not wait. What is
// left is for Close to clear away.
func (n *Node) StopForFault(err error) {
	n.Life.Fail(err)
	n.Log.Error("the node stops", "error", err)
}
