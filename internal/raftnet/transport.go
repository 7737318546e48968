// Package raftnet takes raft's messages from node to node, over the port of package wire.
//
//	t := raftnet.New(port, timeout, log, filter) // before port.Start
//	raft.NewRaft(config, fsm, logs, stable, snapshots, t)
//	t.Close()                                    // once raft has been shut down; then port.Close
//
// What this node sends goes by raft's own transport over stream.go; what others send is
// read by server.go, held against what the node knows by the loop of filter.go, and only
// then raft's. [Transport] tells in which ways that differs from what raft does by itself.
// It also knows what can be seen here alone: how far followers have acknowledged, how much
// of a snapshot was sent or has arrived.
//
// The goroutines are the port's: the filter loop, one for each connection that others have
// made for raft, and one that reads a snapshot to its end which is not wanted. raft's own
// transport has one that Close ends. No lock (of acked.go and installs.go) is held while
// another is taken, or while a [Filter] is asked.
//
// Tests put two transports on a network in memory, or send one node what no node sends.
package raftnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/loglimit"
	"github.com/kvraft/kvraft/internal/wire"
)

// Transport is raft's network transport with ten changes.
//
// Each message names the node that is meant, not only its address.
//
// Where raft writes the address of a node into a message it is the node's id and the
// address. raft remembers by it whom it has voted for, and repeats that vote: two nodes
// that have had the same address could both win a term.
//
// Messages are read and judged before raft sees them; see server.
//
// Heartbeats take raft's main path. On the fast path they change the term under
// the feet of the main goroutine, and a deposed leader can stamp entries with a
// term that it never won (hashicorp/raft issue 695).
//
// Entries are not pipelined, one message is on its way to a follower at a time.
// When a follower refuses an entry, raft's pipelineDecode ends, and if the sender
// then happens to pick its next entry before that news, it waits for a reader
// that is gone: the follower gets heartbeats but never again an entry, and raft
// cannot be shut down. Since a group of writes is one entry, a pipeline brought
// no speed either.
//
// A message has up to 1 MiB of entries, or one larger entry. raft counts entries,
// and as many as it takes would be 32 MiB where each is a group of writes: too much
// for the time that it gives an answer.
//
// raft hears that a follower has an entry only when this node has it on disk too; see
// Filter.AwaitStored.
//
// A snapshot that brings nothing new is not installed (section 7 of the Raft
// paper, rule 6). raft looks at its term alone: a message that was sent twice, and
// arrives for the second time when the follower has gone on, would take back the
// state and delete the log behind it, acknowledged entries among it.
//
// A voter has a vote for a candidate that it knows as a member without one. raft
// refuses it, although the candidate may have been promoted meanwhile by a leader
// that is dead now: where a majority of three was the leader and the one that it
// promoted, no other could be elected, and it would not be either. (The vote is a
// candidate's due whatever the voter's configuration says: section 4.1 of Ongaro's
// thesis.)
//
// A candidate gives no pre-vote for its own term to a node whose vote in that term it waits
// for. raft does, although it has voted for itself: the other would do so too, and of
// three nodes without their leader neither had a majority.
type Transport struct {
	*raft.NetworkTransport                            // for what this node asks of others
	rpcs                   chan raft.RPC              // what others ask of it, for raft
	between                chan func(context.Context) // what is done while raft gets none of those
	filter                 Filter
	higher                 chan uint64 // holds one term of an answer, which raft is to go to

	*acked      // how far the followers have acknowledged
	*installs   // snapshots that are sent
	*incoming   // one that arrives
	*asking     // for votes
	*abstention // from elections
}

// New makes a transport on a port that has yet to start.
func New(p *wire.Port, timeout time.Duration, log hclog.Logger, filter Filter) Transport {
	rt := Transport{
		rpcs: make(chan raft.RPC), between: make(chan func(context.Context)), filter: filter, higher: make(chan uint64, 1),
		acked: new(acked), installs: newInstalls(log), incoming: new(incoming), asking: new(asking), abstention: new(abstention),
	}
	rt.NetworkTransport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:          stream{p, make(chan struct{})},
		MaxPool:         3,
		MaxRPCsInFlight: 1, // no pipeline, see Transport
		Timeout:         timeout,
		Logger:          log,
	})
	server := &server{port: p, log: log, lines: loglimit.New(time.Minute), rpcs: make(chan raft.RPC)}
	p.HandleConn(wire.ForRaft, func(conn net.Conn, _ wire.Hello) { server.serve(&messageConn{Conn: conn}) })
	p.Go(func() { rt.filterLoop(server) })
	return rt
}

// Consumer is where raft gets its messages.
func (t Transport) Consumer() <-chan raft.RPC { return t.rpcs }

func (Transport) SetHeartbeatHandler(func(raft.RPC)) {}

func (Transport) EncodePeer(id raft.ServerID, addr raft.ServerAddress) []byte {
	return []byte(meant(id, addr))
}

func (Transport) DecodePeer(encoded []byte) raft.ServerAddress {
	return raft.ServerAddress(encoded[bytes.LastIndexByte(encoded, '@')+1:])
}

func (t Transport) AppendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	req.Entries = withinBytes(req.Entries, MaxEntriesBytes)
	if !t.filter.IsPlaced() {
		return wire.ErrUnplaced
	}
	if len(req.Entries) > 0 && t.filter.HoldsBack(id, addr) {
		return errRelocated
	}
	err := t.NetworkTransport.AppendEntries(id, meant(id, addr), req, resp)
	if err == nil {
		err = t.heed(resp.Term)
	}
	if err != nil {
		return err
	}
	t.filter.Reached(id, addr)
	if len(req.Entries) == 0 { // it acknowledges nothing
		t.acked.note(req.Term, id, 0)
		return nil
	}
	last := req.Entries[len(req.Entries)-1].Index
	if resp.Success {
		t.acked.note(req.Term, id, last)
	}
	return t.filter.AwaitStored(last)
}

// MaxEntriesBytes is how many bytes of entries a message has, if it has more than one.
const MaxEntriesBytes = 1 << 20

// withinBytes returns the first of the entries, one at least, that together have
// no more than so many bytes. raft goes on after the last one of the request.
func withinBytes(entries []*raft.Log, most int) []*raft.Log {
	bytes := 0
	for i, entry := range entries {
		if bytes += len(entry.Data); bytes > most && i > 0 {
			return entries[:i]
		}
	}
	return entries
}

func (t Transport) RequestVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if t.Abstains() {
		return errAbstains
	}
	if may, _ := t.filter.MayElect(raft.ServerID(req.ID), req.Term, req.LastLogIndex, req.LastLogTerm); !may { // in a pre-vote it may ask: so the others learn that it lacks them
		return errDoubts
	}
	t.asking.begin(id, req.Term)
	defer t.asking.end(id, req.Term)
	if err := t.NetworkTransport.RequestVote(id, meant(id, addr), req, resp); err != nil {
		return err
	}
	return t.heed(resp.Term)
}

func (t Transport) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.Abstains() {
		return errAbstains
	}
	if err := t.NetworkTransport.RequestPreVote(id, meant(id, addr), req, resp); err != nil {
		return err
	}
	if resp.Term == req.Term { // which is the next one, and nobody's yet
		return nil
	}
	return t.heed(resp.Term)
}

func (t Transport) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	t.installs.count(id)
	err := t.NetworkTransport.InstallSnapshot(id, meant(id, addr), req, resp, t.outgoing(id, data))
	if err != nil {
		return err
	}
	return t.heed(resp.Term)
}

func (t Transport) TimeoutNow(id raft.ServerID, addr raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.NetworkTransport.TimeoutNow(id, meant(id, addr), req, resp)
}

// Ask has this node's raft answer a message, without the network.
func (t Transport) Ask(ctx context.Context, rpc raft.RPC) error {
	answer, ok := ask(ctx, t.rpcs, rpc)
	if !ok {
		return errs.Ended(ctx)
	}
	return answer.Error
}

// Between does something while raft gets no messages of others: once it has answered a
// question, what it knows stays so. A write to the disk can have held it up, and messages
// with it.
func (t Transport) Between(ctx context.Context, do func(context.Context) error) error {
	done := make(chan error, 1)
	run := func(cut context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(cut, cancel)()
		done <- do(ctx)
	}
	select {
	case t.between <- run:
		return <-done
	case <-ctx.Done():
		return errs.Ended(ctx)
	}
}

var errDoubts = errors.New("the node's log may have lost entries")

var errRelocated = errors.New("the member is getting another address")
