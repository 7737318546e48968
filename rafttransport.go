package kvraft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/loglimit"
	"github.com/kvraft/kvraft/internal/raftrpc"
	"github.com/kvraft/kvraft/internal/wire"
)

// leastRate is what the whole of a message must have come at, in bytes per second: a sender
// must not hold up whoever reads it with a byte now and then. wire.MessageTimeout is granted
// beside that.
const leastRate = 16 << 10

// messageConn bounds each message of an accepted raft connection. raft's
// transport reads without any deadline, and a snapshot that stalls half-way
// would hold raft's main goroutine for good. Between messages, after an answer
// was written, a connection may be idle for longer. It has one user at a time.
type messageConn struct {
	net.Conn
	inMessage bool
	read      int64         // bytes of the message
	waited    time.Duration // for them: not what its user did meanwhile
}

func (c *messageConn) Read(b []byte) (int, error) {
	began, limit := time.Now(), wire.IdleLimit
	if c.inMessage {
		limit = min(wire.MessageTimeout, wire.MessageTimeout+time.Duration(c.read)*time.Second/leastRate-c.waited)
	}
	if err := c.SetReadDeadline(began.Add(limit)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if c.inMessage {
		c.waited += time.Since(began)
	}
	c.inMessage = true
	c.read += int64(n)
	if errors.Is(err, net.ErrClosed) {
		err = io.EOF // cut by this node: not the error that raft would log it as
	}
	return n, err
}

func (c *messageConn) Write(b []byte) (int, error) {
	c.inMessage, c.read, c.waited = false, 0, 0
	if err := c.SetWriteDeadline(time.Now().Add(wire.MessageTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// raftStream is the port as raft's stream layer, for what raft sends. What others send
// goes to raftServer.
type raftStream struct {
	port   *wire.Port
	closed chan struct{}
}

// Accept waits until raft has closed the stream.
func (s raftStream) Accept() (net.Conn, error) {
	<-s.closed
	return nil, net.ErrClosed
}

// Close is called by raft's transport, once. The connections are the port's.
func (s raftStream) Close() error {
	close(s.closed)
	return nil
}

func (s raftStream) Addr() net.Addr { return peerAddr(s.port.Addr()) }

// Dial connects to a target as raftTransport writes it.
func (s raftStream) Dial(target raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	at := strings.LastIndexByte(string(target), '@')
	if at < 0 {
		return nil, fmt.Errorf("dial %s: no node is named", target)
	}
	ctx, cancel := context.WithTimeout(s.port.Context(), timeout)
	defer cancel()
	redial := func(ctx context.Context) (*wire.Conn, error) {
		conn, _, err := s.port.Dial(ctx, string(target[at+1:]), wire.ForRaft, raft.ServerID(target[:at]))
		return conn, err
	}
	conn, err := redial(ctx)
	if err != nil {
		return nil, err
	}
	return &patientConn{Conn: conn, owner: s.port, redial: redial}, nil
}

// patientConn is a connection that raft has made. raft sets one deadline for a
// message and its answer, however large it is, and would send a large entry over a
// slow link again and again. Here each piece of the message has that time, and the
// answer has more by what was written.
//
// raft keeps a few of them for its next messages. One that was not used for long, or
// since another to the same node got no answer, is made anew before a message is
// trusted to it: three that have gone dark would cost as many elections. It has one
// user at a time.
//
// An answer is a few numbers, an address and perhaps an error. The decoder would read
// what a length in it says, up to 4 GiB.
type patientConn struct {
	*wire.Conn
	owner    *wire.Port
	redial   func(context.Context) (*wire.Conn, error)
	patience time.Duration // 0: no deadline
	written  int           // bytes of the message, so far
	read     int           // bytes of the answer, so far
	began    time.Time     // the message
}

// SetDeadline begins a message.
func (c *patientConn) SetDeadline(t time.Time) error {
	c.patience, c.written, c.read = 0, 0, 0
	if !t.IsZero() {
		c.began = time.Now()
		c.patience = max(time.Until(t), 1)
		if err := c.renew(t); err != nil {
			return err // and raft will find the connection closed
		}
	}
	return c.Conn.SetDeadline(t)
}

func (c *patientConn) renew(deadline time.Time) error {
	if c.Reuse() {
		return nil
	}
	c.Close()
	ctx, cancel := context.WithDeadline(c.owner.Context(), deadline)
	defer cancel()
	conn, err := c.redial(ctx)
	if err == nil {
		c.Conn = conn
	}
	return err
}

// note keeps what the end of a read or a write tells of the connection.
func (c *patientConn) note(err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.Distrust(c.began)
	case err == nil:
		c.Rest()
	}
}

func (c *patientConn) deadline() (t time.Time) {
	if c.patience > 0 {
		t = time.Now().Add(c.patience + time.Duration(c.written)*wire.PerByte)
	}
	return t
}

func (c *patientConn) Write(b []byte) (n int, err error) {
	const piece = 64 << 10
	for part := range slices.Chunk(b, piece) {
		if err := c.SetWriteDeadline(c.deadline()); err != nil {
			return n, err
		}
		wrote, err := c.Conn.Write(part)
		n, c.written = n+wrote, c.written+wrote
		if err != nil {
			c.note(err)
			return n, err
		}
	}
	return n, nil
}

func (c *patientConn) Read(b []byte) (int, error) {
	const longest = 64 << 10
	if c.read >= longest {
		return 0, fmt.Errorf("an answer of more than %d bytes", longest)
	}
	if err := c.SetReadDeadline(c.deadline()); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b[:min(len(b), longest-c.read)])
	c.read += n
	c.note(err)
	return n, err
}

type peerAddr string

func (a peerAddr) Network() string { return "kvraft" }
func (a peerAddr) String() string  { return string(a) }

// raftTransport is raft's network transport with nine changes.
//
// Each message names the node that is meant, not only its address.
//
// Where raft writes the address of a node into a message it is the node's id and the
// address. raft remembers by it whom it has voted for, and repeats that vote: two nodes
// that have had the same address could both win a term.
//
// Messages are read and judged before raft sees them; see raftServer.
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
// writeBehind.
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
type raftTransport struct {
	*raft.NetworkTransport                            // for what this node asks of others
	rpcs                   chan raft.RPC              // what others ask of it, for raft
	between                chan func(context.Context) // what is done while raft gets none of those
	installs               *installs
	by                     sieve
	higher                 chan uint64 // holds one term of an answer, which raft is to go to

	incoming   *incoming
	acked      *acked
	abstention *abstention
}

// sieve is what a transport asks its node of messages before raft sees them.
type sieve struct {
	// redundant: it has all that a snapshot brings; an error is answered instead.
	redundant func(*raft.InstallSnapshotRequest) (bool, error)
	// asVoter is the id of a candidate, or if raft would refuse that for a member
	// without a vote, one that it takes for a voter's. It looks at it for that alone.
	asVoter func(candidate []byte) []byte
	// stored waits until the node's own log has the entry at index on disk, before raft
	// hears that a follower's has.
	stored func(index uint64) error
	// node is what a message is held against.
	node func() raftrpc.Node
	// term is the node's term, also before raft has started.
	term func() uint64
	// leads: the node is the leader, as far as it knows.
	leads func() bool
	// isPlaced: the node has its place; else it hears nothing.
	isPlaced func() bool
	// holdsBack: entries must not go to a node at this address.
	holdsBack func(raft.ServerID, raft.ServerAddress) bool
	// reached is told who has answered.
	reached func(raft.ServerID, raft.ServerAddress)
}

func newRaftTransport(p *wire.Port, timeout time.Duration, log hclog.Logger, by sieve) raftTransport {
	rt := raftTransport{
		rpcs: make(chan raft.RPC), between: make(chan func(context.Context)), installs: newInstalls(log), by: by, higher: make(chan uint64, 1),
		incoming: new(incoming), acked: new(acked), abstention: new(abstention),
	}
	rt.NetworkTransport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:          raftStream{p, make(chan struct{})},
		MaxPool:         3,
		MaxRPCsInFlight: 1, // no pipeline, see raftTransport
		Timeout:         timeout,
		Logger:          log,
	})
	server := &raftServer{port: p, log: log, lines: loglimit.New(time.Minute), rpcs: make(chan raft.RPC)}
	p.HandleConn(wire.ForRaft, func(conn net.Conn, _ wire.Hello) { server.serve(&messageConn{Conn: conn}) })
	p.Go(func() { rt.sift(server, by) })
	return rt
}

// Consumer is where raft gets its messages.
func (t raftTransport) Consumer() <-chan raft.RPC { return t.rpcs }

// sift passes messages on to raft, but for those that raft must not see and for
// redundant snapshots, and with candidates as voters, until the owner of the
// connections is cut. There is one order of messages, with or without it: what comes
// behind a snapshot waits until raft is done with that.
func (t raftTransport) sift(server *raftServer, by sieve) {
	owner := server.port
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
		if !by.isPlaced() { // it has lost it: who dials now is refused
			rpc.Respond(nil, wire.ErrUnplaced)
			continue
		}
		node := by.node()
		if err := raftrpc.Validate(rpc.Command, node); err != nil {
			server.refuse(rpc, err)
			if far := new(raftrpc.FarTerm); errors.As(err, &far) && !isPreVote(rpc.Command) && node.Heeds(sender(rpc)) {
				t.raiseTerm(owner, raftrpc.Reach(far.Term, far.Own))
			}
			continue
		}
		switch req := rpc.Command.(type) {
		case *raft.AppendEntriesRequest:
			raftrpc.Limit(req)
		case *raft.InstallSnapshotRequest:
			if raftrpc.Outdated(req, node) || req.Term == node.Term && by.leads() { // a term has one leader
				rpc.Respond(&raft.InstallSnapshotResponse{Term: node.Term}, nil)
				continue
			}
			if have, err := by.redundant(req); have || err != nil {
				owner.Go(func() { declineSnapshot(rpc, req, err) })
				continue
			}
			rpc.Reader = t.incoming.begin(req.Size, rpc.Reader)
		case *raft.TimeoutNowRequest:
			t.abstention.end()
		case *raft.RequestVoteRequest:
			req.ID = by.asVoter(req.ID)
		case *raft.RequestPreVoteRequest:
			req.ID = by.asVoter(req.ID)
		}
		select {
		case t.rpcs <- rpc:
		case <-owner.Context().Done():
			return
		}
	}
}

// declineSnapshot answers that the follower has what the snapshot brings, unless
// because is why it cannot tell. The connection is of use only when the snapshot
// has been read from it.
func declineSnapshot(rpc raft.RPC, req *raft.InstallSnapshotRequest, because error) {
	_, err := io.Copy(io.Discard, rpc.Reader)
	err = errors.Join(because, err)
	rpc.Respond(&raft.InstallSnapshotResponse{Term: req.Term, Success: err == nil}, err)
}

func (raftTransport) SetHeartbeatHandler(func(raft.RPC)) {}

// meant is the address that raftStream.Dial takes apart.
func meant(id raft.ServerID, addr raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(id) + "@" + addr
}

func (raftTransport) EncodePeer(id raft.ServerID, addr raft.ServerAddress) []byte {
	return []byte(meant(id, addr))
}

func (raftTransport) DecodePeer(encoded []byte) raft.ServerAddress {
	return raft.ServerAddress(encoded[bytes.LastIndexByte(encoded, '@')+1:])
}

func (t raftTransport) AppendEntriesPipeline(id raft.ServerID, addr raft.ServerAddress) (raft.AppendPipeline, error) {
	return t.NetworkTransport.AppendEntriesPipeline(id, meant(id, addr))
}

func (t raftTransport) AppendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	req.Entries = withinBytes(req.Entries, maxEntriesBytes)
	if !t.by.isPlaced() {
		return wire.ErrUnplaced
	}
	if len(req.Entries) > 0 && t.by.holdsBack(id, addr) {
		return errRelocated
	}
	err := t.NetworkTransport.AppendEntries(id, meant(id, addr), req, resp)
	if err == nil {
		err = t.heed(resp.Term)
	}
	if err != nil {
		return err
	}
	t.by.reached(id, addr)
	if len(req.Entries) == 0 { // it acknowledges nothing
		t.acked.note(req.Term, id, 0)
		return nil
	}
	last := req.Entries[len(req.Entries)-1].Index
	if resp.Success {
		t.acked.note(req.Term, id, last)
	}
	return t.by.stored(last)
}

// maxEntriesBytes is how many bytes of entries a message has, if it has more than one.
const maxEntriesBytes = 1 << 20

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

func (t raftTransport) RequestVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := t.abstention.err(); err != nil {
		return err
	}
	if err := t.NetworkTransport.RequestVote(id, meant(id, addr), req, resp); err != nil {
		return err
	}
	return t.heed(resp.Term)
}

func (t raftTransport) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := t.abstention.err(); err != nil {
		return err
	}
	if err := t.NetworkTransport.RequestPreVote(id, meant(id, addr), req, resp); err != nil {
		return err
	}
	if resp.Term == req.Term { // which is the next one, and nobody's yet
		return nil
	}
	return t.heed(resp.Term)
}

func (t raftTransport) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	t.installs.count(id)
	err := t.NetworkTransport.InstallSnapshot(id, meant(id, addr), req, resp, &outgoing{t.installs, id, data})
	if err != nil {
		return err
	}
	return t.heed(resp.Term)
}

func (t raftTransport) TimeoutNow(id raft.ServerID, addr raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.NetworkTransport.TimeoutNow(id, meant(id, addr), req, resp)
}
