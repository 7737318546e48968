package raftnet

import (
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/raftrpc"
	"github.com/kvraft/kvraft/internal/wire"
)

// A node that hears of a higher term goes there: figure 2 of the Raft paper, rules for
// all servers. raft does so for requests, and for answers to a candidate. A leader only
// steps down, and is elected into the term after its own: when a member without a vote,
// which no candidate asks, has a higher term, it deposes every leader until as many
// elections have been held as there are terms between.

// heed is told the term of each answer. An error means that the answer is not to be
// believed.
func (t Transport) heed(term uint64) error {
	own := t.filter.Term()
	if term <= own {
		return nil
	}
	reach := raftrpc.Reach(term, own)
	if reach > own {
		select {
		case t.higher <- reach: // raft itself may wait for the caller
		default: // another is on its way, and there will be more answers
		}
	}
	if term > reach {
		return &raftrpc.FarTerm{Term: term, Own: own}
	}
	return nil
}

// raiseTerm takes raft to a term, if that is higher than its own. It is filterLoop's. It asks for a vote
// which raft does not give: for nobody, whose log is empty. (A vote for nobody, of a
// node whose own log is empty, would be one that nobody counts.)
func (t Transport) raiseTerm(owner *wire.Port, term uint64) {
	request := &raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, Term: term, LeadershipTransfer: true}
	select {
	case t.rpcs <- raft.RPC{Command: request, RespChan: make(chan raft.RPCResponse, 1)}:
	case <-owner.Context().Done():
	}
}
