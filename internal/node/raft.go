package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

// RaftConfig is how raft is run on this node.
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

// LeaderTerm is the term in which this node is the leader, or errs.NotLeader.
func (n *Node) LeaderTerm() (uint64, error) {
	term := n.Raft.CurrentTerm()
	if n.Raft.State() != raft.Leader || n.Raft.CurrentTerm() != term || !n.IsPlaced() {
		return 0, errs.NotLeader
	}
	return term, nil
}

// Configuration is the newest that this node has. It is in memory: this never waits.
func (n *Node) Configuration() raft.Configuration {
	return n.Raft.GetConfiguration().Configuration()
}

// IsMember reports whether the newest configuration lists this node.
func (n *Node) IsMember() bool { return n.Lists(n.Server) }

// Lists reports whether the newest configuration lists a node.
func (n *Node) Lists(id raft.ServerID) bool {
	return roster.Lists(n.Configuration(), id)
}

// HasOtherVoter reports whether anybody but this node votes.
func (n *Node) HasOtherVoter() bool {
	return slices.ContainsFunc(n.Configuration().Servers, func(m raft.Server) bool {
		return m.Suffrage == raft.Voter && m.ID != n.Server
	})
}

// Change has raft change the configuration, and waits until that is committed. An error
// is errs.Unsent when nothing was changed; whatever it was, the change can be asked for
// again. ask is called in a goroutine of Life, and may outlast ctx.
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

// AskRaft has this node's raft answer a message, without the network.
func (n *Node) AskRaft(ctx context.Context, message any) error {
	return n.RaftNet.Ask(ctx, raft.RPC{Command: message})
}

// EmptyRequest is answered by raft without effect, if there has been a term.
func EmptyRequest() *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
}
