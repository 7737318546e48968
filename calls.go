package kvraft

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

// The calls that nodes make on each other, beside raft's. A connection carries
// one call at a time:
//
//	request   method (1 byte)  timeout (4, ms)  length (4)  payload
//	answer    code (1 byte)                     length (4)  payload
//
// Code 0 is success; the others are those of package errs, with a text as payload.
// A node that is not the leader never passes a call on: it says who leads.

// method is the kind of a call.
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
	callSuspicion method = 13 // a suspicion → a vote on it
	callClaim     method = 14 // a claim → a claimAnswer
)

// rules are those of the methods that are not as most: small, and only for a caller that
// names this node.
var rules = [256]struct {
	large bool // up to maxFrame, of a caller that names this node
	knock bool // the caller need not name it
}{
	callWrite: {large: true},
	callGet:   {large: true}, // a key of hraftd's may have any size
	callJoin:  {knock: true},
	callAdmit: {knock: true},
	callFound: {knock: true},
	callClaim: {knock: true},
}

// limit is how large a call may be.
func (m method) limit(knock bool) uint32 {
	if !knock && rules[m].large {
		return maxFrame
	}
	return maxSmallFrame
}

// callHandler answers calls of one method. The payload is its own.
type callHandler func(ctx context.Context, payload []byte) (answer []byte, err error)

// handle has serve called for each call of a method. It is for before start.
func (p *port) handle(m method, serve callHandler) { p.calls[m] = serve }

// raw is a message of a call that is not in JSON. The empty one is none.
type raw []byte

// handleJSON is handle for messages in JSON, or raw.
func handleJSON[Req, Resp any](p *port, m method, serve func(context.Context, Req) (Resp, error)) {
	p.handle(m, func(ctx context.Context, payload []byte) ([]byte, error) {
		req, err := decode[Req](payload)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errs.Invalid, err)
		}
		resp, err := serve(ctx, req)
		if err != nil {
			return nil, err
		}
		return encode(resp)
	})
}

// callJSON is port.call with messages in JSON, or raw.
func callJSON[Resp, Req any](ctx context.Context, p *port, to roster.Peer, m method, req Req) (resp Resp, err error) {
	payload, err := encode(req)
	if err != nil {
		return resp, err
	}
	answer, err := p.call(ctx, to, m, payload)
	if err != nil {
		return resp, err
	}
	return decode[Resp](answer)
}

// askJSON makes a call on whoever is at an address, with messages in JSON, or raw.
func askJSON[Resp, Req any](ctx context.Context, p *port, addr string, m method, req Req) (resp Resp, err error) {
	payload, err := encode(req)
	if err != nil {
		return resp, err
	}
	conn, _, err := p.dial(ctx, addr, forRPC, "")
	if err != nil {
		return resp, fmt.Errorf("%w: %w", errs.Unreachable, err)
	}
	defer conn.Close()
	answer, _, err := exchange(ctx, conn, question{m, payload, 0})
	if err != nil {
		return resp, err
	}
	return decode[Resp](answer)
}

func encode(message any) ([]byte, error) {
	if m, ok := message.(raw); ok {
		return m, nil
	}
	return json.Marshal(message)
}

func decode[T any](payload []byte) (message T, err error) {
	if m, ok := any(&message).(*raw); ok {
		*m = payload
		return message, nil
	}
	return message, json.Unmarshal(payload, &message)
}

// decodeUint64 takes apart a raw message that is a number: a term, or an index of the log.
func decodeUint64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: want 8 bytes, have %d", errs.Invalid, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

type callerKey struct{}

// callerOf is who makes the call that ctx is of.
func callerOf(ctx context.Context) hello {
	h, _ := ctx.Value(callerKey{}).(hello)
	return h
}

// serveCalls answers the calls on one connection until it ends.
func (p *port) serveCalls(conn net.Conn, h hello) {
	c := newCallConn(conn, h.To == "", p.budget)
	ctx := context.WithValue(p.ctx, callerKey{}, h)
	answer := p.answer
	for c.serveOne(ctx, answer) == nil {
	}
}

func (p *port) answer(ctx context.Context, q call) ([]byte, error) {
	serve := p.calls[q.method]
	switch {
	case q.knock && !rules[q.method].knock:
		return nil, fmt.Errorf("%w: call %d without naming the node that is meant", errs.Invalid, q.method)
	case serve == nil:
		return nil, fmt.Errorf("%w: call %d is not known here", errs.Invalid, q.method)
	}
	return serve(ctx, q.payload)
}
