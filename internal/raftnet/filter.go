package raftnet

import (
	"errors"
	"io"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/raftrpc"
	"github.com/kvraft/kvraft/internal/wire"
)

// Filter is what a transport asks its node of messages, before raft sees them.
type Filter interface {
	// Node is what a message is held against.
	Node() raftrpc.Node
	// Term is the node's term, also before raft has started.
	Term() uint64
	// Leads: the node is the leader, as far as it knows.
	Leads() bool
	// IsPlaced: the node has its place; else it hears nothing.
	IsPlaced() bool
	// AlreadyHave: it has all that a snapshot brings; an error is answered instead.
	AlreadyHave(*raft.InstallSnapshotRequest) (bool, error)
	// AsVoter is the id of a candidate, or if raft would refuse that for a member
	// without a vote, one that it takes for a voter's. It looks at it for that alone.
	AsVoter(candidate []byte) []byte
	// MayElect: the node may help elect a candidate of a term of its own, whose log ends with
	// that entry; or it is to go to a higher term first, if raise is one.
	MayElect(candidate raft.ServerID, own, index, term uint64) (may bool, raise uint64)
	// AwaitStored waits until the node's own log has the entry at index on disk, before
	// raft hears that a follower's has.
	AwaitStored(index uint64) error
	// HoldsBack: entries must not go to a node at this address.
	HoldsBack(raft.ServerID, raft.ServerAddress) bool
	// Reached is told who has answered.
	Reached(raft.ServerID, raft.ServerAddress)
}

// filterLoop passes messages on to raft, but for those that raft must not see and for
// redundant snapshots, and with candidates as voters, until the owner of the
// connections is cut. There is one order of messages, with or without it: what comes
// behind a snapshot waits until raft is done with that.
func (t Transport) filterLoop(server *server) {
	owner, filter := server.port, t.filter
	for {
		var rpc raft.RPC
		select {
		case rpc = <-server.rpcs:
		case term := <-t.higher:
			t.raiseTerm(owner, term)
			continue
		case do := <-t.between:
			do(owner.Context())
			continue
		case <-owner.Context().Done():
			return
		}
		if !filter.IsPlaced() { // it has lost it: who dials now is refused
			rpc.Respond(nil, wire.ErrUnplaced)
			continue
		}
		node := filter.Node()
		if err := raftrpc.Validate(rpc.Command, node); err != nil {
			server.refuse(rpc, err)
			_, isPreVote := rpc.Command.(*raft.RequestPreVoteRequest)
			if far := new(raftrpc.FarTerm); errors.As(err, &far) && !isPreVote && node.Heeds(sender(rpc)) {
				t.raiseTerm(owner, raftrpc.Reach(far.Term, far.Own))
			}
			continue
		}
		switch req := rpc.Command.(type) {
		case *raft.AppendEntriesRequest:
			raftrpc.Limit(req)
		case *raft.InstallSnapshotRequest:
			if raftrpc.Outdated(req, node) || req.Term == node.Term && filter.Leads() { // a term has one leader
				rpc.Respond(&raft.InstallSnapshotResponse{Term: node.Term}, nil)
				continue
			}
			if have, err := filter.AlreadyHave(req); have || err != nil {
				owner.Go(func() { declineSnapshot(rpc, req, err) })
				continue
			}
			rpc.Reader = t.incoming.begin(req.Size, rpc.Reader)
		case *raft.TimeoutNowRequest:
			t.abstention.until.Store(nil)
		case *raft.RequestVoteRequest:
			if !t.mayElect(owner, node, req.ID, req.Term, req.LastLogIndex, req.LastLogTerm) {
				rpc.Respond(&raft.RequestVoteResponse{Term: node.Term}, nil)
				continue
			}
			req.ID = filter.AsVoter(req.ID)
		case *raft.RequestPreVoteRequest:
			own := max(req.Term, 1) - 1 // it has yet to go to the one that it asks for
			if t.awaitsVoteOf(raft.ServerID(req.ID), req.Term) || !t.mayElect(owner, node, req.ID, own, req.LastLogIndex, req.LastLogTerm) {
				rpc.Respond(&raft.RequestPreVoteResponse{Term: node.Term}, nil)
				continue
			}
			req.ID = filter.AsVoter(req.ID)
		}
		select {
		case t.rpcs <- rpc:
		case <-owner.Context().Done():
			return
		}
	}
}

// mayElect is Filter.MayElect. It takes raft to the term that it says, if that is higher: at
// raft's own it could give the vote of an empty log to nobody.
func (t Transport) mayElect(owner *wire.Port, node raftrpc.Node, candidate []byte, own, index, term uint64) bool {
	may, raise := t.filter.MayElect(raft.ServerID(candidate), own, index, term)
	if !may && raise > node.Term {
		t.raiseTerm(owner, raise)
	}
	return may
}

// declineSnapshot answers that the follower has what the snapshot brings, unless
// because is why it cannot tell. The connection is of use only when the snapshot
// has been read from it.
func declineSnapshot(rpc raft.RPC, req *raft.InstallSnapshotRequest, because error) {
	_, err := io.Copy(io.Discard, rpc.Reader)
	err = errors.Join(because, err)
	rpc.Respond(&raft.InstallSnapshotResponse{Term: req.Term, Success: err == nil}, err)
}
