package kvraft

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

// timing is kvraft.Timing.
type timing struct {
	Heartbeat, Election, Lease, Commit, Stall time.Duration
}

// node is what all parts of a node stand on.
type node struct {
	id     string
	addr   string // where others reach this node
	timing timing
	log    hclog.Logger
	server raft.ServerID

	placed       atomic.Bool   // see place.go
	placeChanged chan struct{} // holds one signal for watchRaft

	logs      *disk.Log
	snapshots snapshots.Store
	state     nodeState
	ids       *command.IDs
	commit    func(entry []byte) ([]command.Result, error) // has an entry committed, as the leader, and answers what the state does
	port      *wire.Port
	raftNet   raftnet.Transport
	raft      *raft.Raft
	opened    time.Time
	futures   batch.Gate // what raft has been asked and has not answered
	raftLog   *raftlog.Logger

	life *life.Life
	ctx  context.Context // of life
}

func newNode(t timing, log hclog.Logger) *node {
	l := life.New()
	return &node{
		timing:       t,
		log:          log,
		ids:          command.NewIDs(),
		placeChanged: make(chan struct{}, 1),
		raftLog:      raftlog.New(log.Named("raft"), l.Stopping()),
		life:         l,
		ctx:          l.Context(),
	}
}

func (s *node) configuration() raft.Configuration {
	return s.raft.GetConfiguration().Configuration() // in memory; never waits or fails
}

// roster.Lists reports whether a node is a member.
func (s *node) isMember() bool { return s.lists(s.server) }

func (s *node) lists(id raft.ServerID) bool {
	return roster.Lists(s.configuration(), id)
}

func (s *node) isPlaced() bool { return s.placed.Load() }

// lastEntry is how far this node's log reaches, or the snapshot that replaces it.
func (s *node) lastEntry() (term, index uint64) {
	_, last := s.logs.Bounds()
	var entry raft.Log
	if last > 0 && s.logs.GetLog(last, &entry) == nil {
		return entry.Term, last
	}
	if list, err := s.snapshots.List(); err == nil && len(list) > 0 {
		return list[0].Term, list[0].Index
	}
	return 0, 0
}

func (s *node) hasOtherVoter() bool {
	return slices.ContainsFunc(s.configuration().Servers, func(m raft.Server) bool {
		return m.Suffrage == raft.Voter && m.ID != s.server
	})
}

// leaderTerm is the term in which this node is the leader.
func (s *node) leaderTerm() (uint64, error) {
	term := s.raft.CurrentTerm()
	if s.raft.State() != raft.Leader || s.raft.CurrentTerm() != term || !s.isPlaced() {
		return 0, errs.NotLeader
	}
	return term, nil
}

// askRaft has this node's raft answer a message, without the network.
func (s *node) askRaft(ctx context.Context, message any) error {
	return s.raftNet.Ask(ctx, raft.RPC{Command: message})
}

// probe asks who is at an address.
func (s *node) probe(ctx context.Context, addr string) (wire.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, wire.HandshakeTimeout)
	defer cancel()
	return s.port.Ping(ctx, roster.Peer{Addr: addr})
}

// probeSoon is probe for where somebody was that is likely to be gone: several of those
// must not take all the time that there is for a call.
func (s *node) probeSoon(ctx context.Context, addr string) (wire.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.Heartbeat)
	defer cancel()
	return s.probe(ctx, addr)
}

// silent probes other nodes, all at once, and says of which there was no answer,
// and why.
func (s *node) silent(ctx context.Context, nodes []raft.Server) (which []string) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.Heartbeat)
	defer cancel()
	var mu sync.Mutex // guards which
	var probing sync.WaitGroup
	for _, m := range nodes {
		if m.ID == s.server {
			continue
		}
		probing.Go(func() {
			_, err := s.port.Ping(ctx, roster.Peer{Server: m.ID, Addr: string(m.Address)})
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

func (s *node) self() wire.Self {
	m := s.logs.Record()
	return wire.Self{Cluster: m.Cluster, Server: m.ServerID()}
}

// stopForFault stops the node at once: it answers nobody any more, and the
// others elect a leader without it. It is called from raft's goroutines and does
// not wait. What is left is for Close to clear away.
func (s *node) stopForFault(err error) {
	s.life.Fail(err)
	s.log.Error("the node stops", "error", err)
}

// lastIndexOf asks another node for the last index of its log.
func (s *node) lastIndexOf(ctx context.Context, to roster.Peer) (uint64, error) {
	answer, err := s.port.Call(ctx, to, wire.CallLastIndex, nil)
	if err != nil {
		return 0, err
	}
	return wire.DecodeUint64(answer)
}

// index is the newest log index in this node's state.
func (s *node) index() uint64 { return s.state.Index() }

// change waits for a change of the configuration to be committed. It can be
// asked for again whatever the error was.
func (s *node) change(ctx context.Context, ask func() raft.Future) error {
	if !s.futures.Enter() {
		return s.life.Err()
	}
	done := make(chan error, 1)
	if !s.life.Go(func() {
		defer s.futures.Leave()
		done <- ask().Error()
	}) {
		s.futures.Leave()
		return s.life.Err()
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

// promised returns the promise for a member, as long as it holds: until the
// configuration has it elsewhere.
func (s *node) promised(id raft.ServerID) (disk.PlacePromise, bool) {
	p, ok := s.logs.Record().Places[id]
	return p, ok && roster.AddressOf(s.configuration(), id) == p.From
}

func (s *node) addressOf(id raft.ServerID, addr string) string {
	if p, ok := s.promised(id); ok && p.From == addr {
		return p.To
	}
	return roster.DialAddr(addr)
}

// votersIn are those of the newest configuration, which is that of the leader of the
// term: this node still leads in it after it has read them. A configuration of a later
// leader may be without the voters that elected that one, down to this node alone.
func (s *node) votersIn(term uint64) ([]raft.Server, error) {
	config := s.configuration()
	now, err := s.leaderTerm()
	if err == nil && now != term {
		err = errs.NotLeader
	}
	return roster.Voters(config), err
}

func (s *node) takePlace() {
	if !s.placed.Swap(true) {
		s.tellPlace()
	}
}

// losePlace is for a node that another has turned away, because it finds it elsewhere.
func (s *node) losePlace(at string) {
	if !s.placed.Swap(false) {
		return
	}
	s.log.Warn("others find this node at another address: it has to be confirmed", "addr", s.addr, "other", at)
	s.port.KeepOnly(nil)
	s.tellPlace()
}

// tellPlace makes watchRaft look.
func (s *node) tellPlace() {
	select {
	case s.placeChanged <- struct{}{}:
	default:
	}
}

// configuredAt is the address that the configuration has for this node; empty: it is
// no member.
func (s *node) configuredAt() string {
	return roster.AddressOf(s.configuration(), s.server)
}

// patience is how long a call on the leader may take before it is made again.
func (s *node) patience() time.Duration { return 3 * s.timing.Election }

func (s *node) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = s.server
	c.HeartbeatTimeout = s.timing.Heartbeat
	c.ElectionTimeout = s.timing.Election
	c.LeaderLeaseTimeout = s.timing.Lease
	c.CommitTimeout = s.timing.Commit
	c.ShutdownOnRemove = false           // it would leave the transport open
	c.SnapshotThreshold = math.MaxUint64 // raft counts entries; takeSnapshots counts bytes
	c.SnapshotInterval = 24 * time.Hour
	c.Logger = s.raftLog
	c.NoLegacyTelemetry = true
	return c
}

func (s *node) serveLastIndex(context.Context, []byte) ([]byte, error) {
	return binary.BigEndian.AppendUint64(nil, s.raft.LastIndex()), nil
}

// emptyQuestion is answered by raft without effect, if there has been a term.
func emptyQuestion() *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
}
