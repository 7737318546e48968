package kvraft

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
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
	callCatchUp   method = 5  // a catchUpRequest → the log index of its state, once that reaches the target or soon
	callLastIndex method = 6  // nothing → the last index of its log
	callJoin      method = 7  // a joinRequest → nothing, once the node is a member
	callNodes     method = 8  // nothing → the members; on the leader
	callAdmit     method = 9  // an admission → nothing, once it is on disk
	callRemove    method = 10 // a removeRequest → nothing, once the node is no member; on the leader
	callTransfer  method = 11 // a transferRequest → nothing, once this node leads no more; on the leader
	callFound     method = 12 // a founding → its own
	callWitness   method = 13 // an allegation → a testimony
	callClaim     method = 14 // a claim → a claimAnswer
)

// servePeer answers the calls on one connection until it ends.
func (s *Store) servePeer(conn net.Conn, h hello) {
	if h.For == forVigil {
		s.serveVigil(conn, h)
		return
	}
	c := newCallConn(conn, h.To == "", s.callBytes)
	serve := func(ctx context.Context, q call) ([]byte, error) { return s.serveCall(ctx, q, h) }
	for c.serveOne(s.ctx, serve) == nil {
	}
}

func (s *Store) serveCall(ctx context.Context, q call, h hello) ([]byte, error) {
	m, payload := q.method, q.payload
	if h.To == "" && m != callJoin && m != callAdmit && m != callFound && m != callClaim {
		return nil, fmt.Errorf("%w: call %d without naming the node that is meant", ErrInvalid, m)
	}
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
		return serveJSON(payload, func(p catchUpRequest) ([]byte, error) {
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
	case callClaim:
		return serveJSON(payload, func(c claim) ([]byte, error) {
			if mine := s.self().cluster; mine == "" || h.Cluster != mine {
				return nil, fmt.Errorf("%w: a claim of another cluster", errs.Unsent)
			}
			return marshalled(s.serveClaim(ctx, c))
		})
	}
	return nil, fmt.Errorf("%w: call %d is not known here", ErrInvalid, m)
}

// serveWrite lets nothing into the log that a state machine could not decode, or that
// no caller of this node could have written: the node that forwards may have other
// limits, or be none.
func (s *Store) serveWrite(payload []byte) ([]byte, error) {
	limits := s.opts.limits
	if len(payload) > limits.groupBytes() {
		return nil, fmt.Errorf("%w: group of %d bytes, the limit is %d", ErrTooLarge, len(payload), limits.groupBytes())
	}
	requests, err := command.Decode(payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if n := len(requests); n < 1 || n > batch.GroupRequests {
		return nil, fmt.Errorf("%w: group of %d requests, want 1 to %d", ErrInvalid, n, batch.GroupRequests)
	}
	results, taken, refused := limits.judge(requests)
	switch {
	case refused == nil:
	case len(taken) == 0:
		return nil, refused
	default:
		payload = command.Append(nil, taken)
	}
	applied, err := s.replicate(payload)
	if err != nil {
		return nil, err
	}
	for i := range results {
		if results[i].Code == command.OK {
			results[i], applied = applied[0], applied[1:]
		}
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

func decodeLevel(payload []byte) (ReadLevel, error) {
	if len(payload) == 0 || ReadLevel(payload[0]) != Linearizable && ReadLevel(payload[0]) != LeaderLocal {
		return 0, fmt.Errorf("%w: a read without a level that the leader knows", ErrInvalid)
	}
	return ReadLevel(payload[0]), nil
}

// serveConfirm answers for the quorum round of read.go. CurrentTerm is in
// memory, and raft advances it before it answers any vote: the answer waits for
// no disk.
func (s *Store) serveConfirm(payload []byte) ([]byte, error) {
	term, err := decodeUint64(payload)
	if err != nil {
		return nil, err
	}
	if !s.isPlaced() {
		return nil, errUnplaced
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

// marshalled is the answer of a call, in JSON.
func marshalled(answer any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}

// serveChange makes one attempt at a change of the membership: the node that asks
// has other members to ask, and asks again. What was forwarded is not passed on.
func (s *leadership) serveChange(ctx context.Context, forwarded bool, attempt func(context.Context, *reign) error) error {
	reign := s.reign()
	if forwarded && !reign.leads {
		return errs.NotLeader
	}
	return s.changeUnder(ctx, reign, attempt)
}

func (s *Store) serveNodes(ctx context.Context) ([]byte, error) {
	return marshalled(s.nodesAsLeader(ctx))
}

func decodeUint64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: want 8 bytes, have %d", ErrInvalid, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// forwardGet asks the leader for an entry, when it is its turn.
func (s *Store) forwardGet(ctx context.Context, leader roster.Peer, key string, l ReadLevel) (Entry, error) {
	if s.forwarded.Acquire(ctx, 1) != nil {
		return Entry{}, fmt.Errorf("%w: %w", errs.Unsent, errs.Ended(ctx))
	}
	defer s.forwarded.Release(1)
	answer, err := s.peers.callWithin(ctx, s.patience(), leader, callGet, append([]byte{byte(l)}, key...))
	if err != nil {
		return Entry{}, err
	}
	if len(answer) < 8 {
		return Entry{}, errors.New("kvraft: short answer to a read")
	}
	return Entry{Key: key, Value: answer[8:], Version: binary.BigEndian.Uint64(answer)}, nil
}

// forwardReadIndex asks the leader for a log index to read at.
func (s *Store) forwardReadIndex(ctx context.Context, leader roster.Peer, l ReadLevel) (uint64, error) {
	answer, err := s.peers.callWithin(ctx, s.patience(), leader, callReadIndex, []byte{byte(l)})
	if err != nil {
		return 0, err
	}
	return decodeUint64(answer)
}
