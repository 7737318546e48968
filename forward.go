package kvraft

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
)

// The calls that nodes make on each other, beside raft's. A connection carries
// one call at a time:
//
//	request   method (1 byte)  timeout (4, ms)  length (4)  payload
//	answer    code (1 byte)                     length (4)  payload
//
// Code 0 is success; the others are those of errors.go, with a text as payload.
// A node that is not the leader never passes a call on: it says who leads.

type method byte

// The numbers are part of the protocol: a call that goes leaves its number unused.
const (
	callWrite     method = 1  // a group of requests → their results; on the leader
	callGet       method = 2  // a level and a key → its entry; on the leader
	callReadIndex method = 3  // a level → a log index that is enough for the reader; on the leader
	callConfirm   method = 4  // a term → 1 if this node has seen no later one
	callCatchUp   method = 5  // a pace → the log index of its state, once that reaches the target or soon
	callLastIndex method = 6  // nothing → the last index of its log
	callJoin      method = 7  // a joinRequest → nothing, once the node is a member
	callNodes     method = 8  // nothing → the members; on the leader
	callAdmit     method = 9  // an admission → nothing, once it is on disk
	callRemove    method = 10 // a removeRequest → nothing, once the node is no member; on the leader
	callTransfer  method = 11 // a transferRequest → nothing, once this node leads no more; on the leader
	callFound     method = 12 // a founding → its own
	callWitness   method = 13 // an allegation → a testimony
)

const (
	maxBatchBytes = 64 << 20           // of keys and values in one request
	maxFrame      = maxBatchBytes << 1 // of payload
	maxKnock      = 64 << 10           // of payload, from a caller that names no node
	maxIdle       = 16                 // connections kept open to one node
	maxCall       = 10 * time.Minute   // for a call whose caller gives no limit
)

// peer is a node as others call it.
type peer struct {
	server raft.ServerID
	addr   string
}

func (p peer) node() Node { return Node{ID: userID(p.server), Addr: p.addr} }

// peers makes calls on other nodes.
type peers struct {
	transport *transport

	mu   sync.Mutex
	idle map[peer][]net.Conn // guarded by mu; the last one was used last
}

// call asks to and waits for its answer. An errUnsent means that the question
// never left.
func (p *peers) call(ctx context.Context, to peer, m method, payload []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", errUnsent, ended(ctx))
	}
	conn := p.takeIdle(to)
	if conn == nil {
		fresh, _, err := p.transport.dial(ctx, to.addr, forRPC, to.server)
		if err != nil {
			return nil, fmt.Errorf("%w: node %s: %w", errUnsent, userID(to.server), err)
		}
		conn = fresh
	}
	answer, alive, err := exchange(ctx, conn, m, payload)
	if !alive {
		conn.Close()
		if ctx.Err() == nil {
			p.dropIdle(to) // they are likely to be as dead as this one
		}
		return nil, fmt.Errorf("%w: node %s: %w", ErrUnknown, userID(to.server), err)
	}
	p.giveIdle(to, conn)
	return answer, err
}

func (p *peers) takeIdle(to peer) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	conns := p.idle[to]
	if len(conns) == 0 {
		return nil
	}
	last := len(conns) - 1
	p.idle[to] = conns[:last]
	return conns[last]
}

func (p *peers) giveIdle(to peer, conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle[to]) >= maxIdle {
		conn.Close()
		return
	}
	p.idle[to] = append(p.idle[to], conn)
}

// keepOnly drops the connections to nodes that are no members any more.
func (p *peers) keepOnly(members map[raft.ServerID]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for to, conns := range p.idle {
		if members[to.server] {
			continue
		}
		for _, conn := range conns {
			conn.Close()
		}
		delete(p.idle, to)
	}
}

func (p *peers) dropIdle(to peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.idle[to] {
		conn.Close()
	}
	delete(p.idle, to)
}

// exchange makes one call on conn. Unless alive, the connection cannot be used
// again, and err says why.
func exchange(ctx context.Context, conn net.Conn, m method, payload []byte) (answer []byte, alive bool, err error) {
	limit := maxCall
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	frame := make([]byte, 9, 9+len(payload))
	frame[0] = byte(m)
	binary.BigEndian.PutUint32(frame[1:], uint32(max(limit.Milliseconds(), 1)))
	binary.BigEndian.PutUint32(frame[5:], uint32(len(payload)))

	release := interruptible(ctx, conn)
	code, answer, err := func() (byte, []byte, error) {
		if _, err := conn.Write(append(frame, payload...)); err != nil {
			return 0, nil, err
		}
		var head [5]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return 0, nil, err
		}
		answer, err := readFrame(conn, binary.BigEndian.Uint32(head[1:]), maxFrame)
		return head[0], answer, err
	}()
	if err := release(err); err != nil {
		return nil, false, err
	}
	if code != 0 {
		return nil, true, decodeError(code, string(answer))
	}
	return answer, true, nil
}

// readFrame allocates no more than has arrived, but for a step.
func readFrame(r io.Reader, n, limit uint32) ([]byte, error) {
	const step = 1 << 20
	if n > limit {
		return nil, fmt.Errorf("a message of %d bytes, the limit is %d", n, limit)
	}
	payload := make([]byte, 0, min(n, step))
	for uint32(len(payload)) < n {
		had := len(payload)
		payload = append(payload, make([]byte, min(n-uint32(had), step))...)
		if _, err := io.ReadFull(r, payload[had:]); err != nil {
			return nil, err
		}
	}
	return payload, nil
}

// servePeer answers the calls on one connection until it ends.
func (s *Store) servePeer(conn net.Conn, h hello) {
	if h.For == forVigil {
		s.serveVigil(conn, h)
		return
	}
	limit := uint32(maxFrame)
	if h.To == "" {
		limit = maxKnock
	}
	for {
		m, timeout, payload, err := readCall(conn, limit)
		if err != nil {
			return // the caller went away, or the store closes
		}
		answer, err := s.serveCall(m, timeout, payload, h)
		var code byte
		if err != nil {
			var text string
			code, text = encodeError(err)
			answer = []byte(text)
		}
		frame := make([]byte, 5, 5+len(answer))
		frame[0] = code
		binary.BigEndian.PutUint32(frame[1:], uint32(len(answer)))
		if err := conn.SetWriteDeadline(time.Now().Add(messageTimeout)); err != nil {
			return
		}
		if _, err := conn.Write(append(frame, answer...)); err != nil {
			return
		}
	}
}

// readCall waits as long as it takes for a call to begin, but not within it.
func readCall(conn net.Conn, limit uint32) (method, time.Duration, []byte, error) {
	var head [9]byte
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return 0, 0, nil, err
	}
	if _, err := io.ReadFull(conn, head[:1]); err != nil {
		return 0, 0, nil, err
	}
	rest := progressing{conn}
	if _, err := io.ReadFull(rest, head[1:]); err != nil {
		return 0, 0, nil, err
	}
	payload, err := readFrame(rest, binary.BigEndian.Uint32(head[5:]), limit)
	timeout := time.Duration(binary.BigEndian.Uint32(head[1:])) * time.Millisecond
	return method(head[0]), min(timeout, maxCall), payload, err
}

// progressing reads from a connection as long as something arrives.
type progressing struct{ conn net.Conn }

func (p progressing) Read(b []byte) (int, error) {
	if err := p.conn.SetReadDeadline(time.Now().Add(messageTimeout)); err != nil {
		return 0, err
	}
	return p.conn.Read(b)
}

func (s *Store) serveCall(m method, timeout time.Duration, payload []byte, h hello) ([]byte, error) {
	if h.To == "" && m != callJoin && m != callAdmit && m != callFound {
		return nil, fmt.Errorf("%w: call %d without naming the node that is meant", ErrInvalid, m)
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	switch m {
	case callWrite:
		return s.serveWrite(payload)
	case callGet:
		return s.serveGet(ctx, payload)
	case callReadIndex:
		return s.serveReadIndex(ctx, payload)
	case callConfirm:
		return s.serveConfirm(payload)
	case callCatchUp:
		return serveJSON(payload, func(p pace) ([]byte, error) {
			index, err := s.serveCatchUp(ctx, p)
			return binary.BigEndian.AppendUint64(nil, index), err
		})
	case callLastIndex:
		return binary.BigEndian.AppendUint64(nil, s.raft.LastIndex()), nil
	case callJoin:
		return serveJSON(payload, func(req joinRequest) ([]byte, error) {
			return nil, s.serveChange(ctx, req.Forwarded, func(ctx context.Context, r *reign) error { return s.joinThrough(ctx, r, req) })
		})
	case callRemove:
		return serveJSON(payload, func(req removeRequest) ([]byte, error) {
			return nil, s.serveChange(ctx, req.Forwarded, func(ctx context.Context, r *reign) error { return s.removeThrough(ctx, r, req) })
		})
	case callTransfer:
		return serveJSON(payload, func(req transferRequest) ([]byte, error) {
			return nil, s.serveChange(ctx, req.Forwarded, func(ctx context.Context, r *reign) error { return s.transferThrough(ctx, r, req) })
		})
	case callNodes:
		return s.serveNodes(ctx)
	case callAdmit:
		return serveJSON(payload, func(a admission) ([]byte, error) { return nil, s.acceptAdmission(a) })
	case callFound:
		return serveJSON(payload, func(f founding) ([]byte, error) { return json.Marshal(s.serveFound(f)) })
	case callWitness:
		return serveJSON(payload, func(a allegation) ([]byte, error) { return json.Marshal(s.testify(a)) })
	}
	return nil, fmt.Errorf("%w: call %d is not known here", ErrInvalid, m)
}

// serveWrite lets nothing into the log that a state machine could not decode.
func (s *Store) serveWrite(payload []byte) ([]byte, error) {
	if _, err := command.Decode(payload); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	results, err := s.apply(payload)
	if err != nil {
		return nil, err
	}
	return command.AppendResults(nil, results), nil
}

func (s *Store) serveGet(ctx context.Context, payload []byte) ([]byte, error) {
	l, err := decodeLevel(payload)
	if err != nil {
		return nil, err
	}
	entry, err := s.readAsLeader(ctx, string(payload[1:]), l)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint64(nil, entry.Version), entry.Value...), nil
}

func (s *Store) serveReadIndex(ctx context.Context, payload []byte) ([]byte, error) {
	l, err := decodeLevel(payload)
	if err != nil {
		return nil, err
	}
	index, err := s.readIndexAsLeader(ctx, l)
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, index), nil
}

func decodeLevel(payload []byte) (level, error) {
	if len(payload) == 0 || level(payload[0]) != linearizable && level(payload[0]) != leaderLocal {
		return 0, fmt.Errorf("%w: a read without a level that the leader knows", ErrInvalid)
	}
	return level(payload[0]), nil
}

// serveConfirm answers for the quorum round of read.go. CurrentTerm is in
// memory, and raft advances it before it answers any vote: the answer waits for
// no disk.
func (s *Store) serveConfirm(payload []byte) ([]byte, error) {
	term, err := decodeUint64(payload)
	if err != nil {
		return nil, err
	}
	if s.raft.CurrentTerm() <= term {
		return []byte{1}, nil
	}
	return []byte{0}, nil
}

// serveJSON takes the message of a call apart.
func serveJSON[T any](payload []byte, serve func(T) ([]byte, error)) ([]byte, error) {
	var message T
	if err := json.Unmarshal(payload, &message); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return serve(message)
}

// serveChange makes one attempt at a change of the membership: the node that asks
// has other members to ask, and asks again. What was forwarded is not passed on.
func (s *Store) serveChange(ctx context.Context, forwarded bool, attempt func(context.Context, *reign) error) error {
	reign := s.reign()
	if forwarded && !reign.leads {
		return errNotLeader
	}
	return s.changeUnder(ctx, reign, attempt)
}

func (s *Store) serveNodes(ctx context.Context) ([]byte, error) {
	nodes, err := s.nodesAsLeader(ctx)
	if err != nil {
		return nil, err
	}
	return json.Marshal(nodes)
}

func decodeUint64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: want 8 bytes, have %d", ErrInvalid, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// lastIndexOf asks another node for the last index of its log.
func (s *Store) lastIndexOf(ctx context.Context, to peer) (uint64, error) {
	answer, err := s.peers.call(ctx, to, callLastIndex, nil)
	if err != nil {
		return 0, err
	}
	return decodeUint64(answer)
}

// ask makes one call, with messages in JSON, on whoever is at addr.
func (s *Store) ask(ctx context.Context, addr string, m method, message, answer any) error {
	payload, err := json.Marshal(message)
	if err != nil {
		return err
	}
	conn, _, err := s.transport.dial(ctx, addr, forRPC, "")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer conn.Close()
	encoded, _, err := exchange(ctx, conn, m, payload)
	if err != nil || answer == nil {
		return err
	}
	return json.Unmarshal(encoded, answer)
}

// forwardGet asks the leader for an entry.
func (s *Store) forwardGet(ctx context.Context, leader peer, key string, l level) (Entry, error) {
	answer, err := s.peers.call(ctx, leader, callGet, append([]byte{byte(l)}, key...))
	if err != nil {
		return Entry{}, err
	}
	if len(answer) < 8 {
		return Entry{}, errors.New("kvraft: short answer to a read")
	}
	return Entry{Key: key, Value: answer[8:], Version: binary.BigEndian.Uint64(answer)}, nil
}

// forwardReadIndex asks the leader for a log index to read at.
func (s *Store) forwardReadIndex(ctx context.Context, leader peer, l level) (uint64, error) {
	answer, err := s.peers.call(ctx, leader, callReadIndex, []byte{byte(l)})
	if err != nil {
		return 0, err
	}
	return decodeUint64(answer)
}
