package kvraft

import (
	"context"
	"net"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/wire"
)

// A heartbeat of a later term must depose a leader on raft's main goroutine. On
// raft's fast path it changes the term beside the main goroutine, which then
// stamps the next entry with a term that this node never won (hashicorp/raft issue
// 695).
func TestADeposedLeaderStampsNothingWithATermItDidNotWin(t *testing.T) {
	s, err := Open("", WithInMemory(), WithAddr("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Set(t.Context(), "key", nil); err != nil {
		t.Fatal(err)
	}
	peer := raftPeer(t, wire.Self{Cluster: s.node.self().Cluster, Server: "other#1"})
	term, last := s.node.raft.CurrentTerm(), s.node.raft.LastIndex()
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.node.server), Addr: []byte("127.0.0.1:1")}
	heartbeat := &raft.AppendEntriesRequest{RPCHeader: header, Term: term + 1}
	if err := peer.AppendEntries(s.node.server, raft.ServerAddress(s.opts.advertise), heartbeat, new(raft.AppendEntriesResponse)); err != nil {
		t.Fatal(err)
	}
	future := s.node.raft.Apply([]byte{1, 0}, 0)
	if err := future.Error(); err != raft.ErrNotLeader {
		t.Errorf("a write after the heartbeat: %v, want ErrNotLeader", err)
	}
	for index := last + 1; index <= s.node.raft.LastIndex(); index++ {
		var entry raft.Log
		if err := s.node.logs.GetLog(index, &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Term == term+1 {
			t.Errorf("entry %d was written with term %d, which the other node won", entry.Index, entry.Term)
		}
	}
}

// raftPeer is a node's side of the transport, without the node.
func raftPeer(t *testing.T, me wire.Self) raftTransport {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o, err := newOptions("", []Option{WithInMemory(), WithListener(listener), WithAdvertise(listener.Addr().String())})
	if err != nil {
		t.Fatal(err)
	}
	p := wire.New(context.Background(), wire.Config{Network: o.network, Listener: listener, Advertise: o.advertise, Log: o.logger}, otherNode{me})
	peer := newRaftTransport(p, wire.MessageTimeout, hclog.NewNullLogger(), openSieve)
	t.Cleanup(func() {
		if err := peer.Close(); err != nil {
			t.Error(err)
		}
		p.Close()
	})
	return peer
}
