package kvraft

import (
	"testing"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/raftrpc"
)

// A heartbeat of a later term must depose a leader on raft's main goroutine. On
// raft's fast path it changes the term beside the main goroutine, which then
// stamps the next entry with a term that this node never won (hashicorp/raft issue
// 695).
func TestADeposedLeaderStampsNothingWithATermItDidNotWin(t *testing.T) {
	s, peer := openAlone(t, "")
	defer s.Close()
	term, last := s.node.Raft.CurrentTerm(), s.node.Raft.LastIndex()
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.node.Server), Addr: []byte("127.0.0.1:1")}
	heartbeat := &raft.AppendEntriesRequest{RPCHeader: header, Term: term + 1}
	if err := peer.send(raftrpc.AppendEntries, heartbeat); err != nil {
		t.Fatal(err)
	}
	future := s.node.Raft.Apply([]byte{1, 0}, 0)
	if err := future.Error(); err != raft.ErrNotLeader {
		t.Errorf("a write after the heartbeat: %v, want ErrNotLeader", err)
	}
	for index := last + 1; index <= s.node.Raft.LastIndex(); index++ {
		var entry raft.Log
		if err := s.node.Logs.GetLog(index, &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Term == term+1 {
			t.Errorf("entry %d was written with term %d, which the other node won", entry.Index, entry.Term)
		}
	}
}
