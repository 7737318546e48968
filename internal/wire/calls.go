package wire

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

// Method is the kind of a call.
type Method byte

// The numbers are part of the protocol: a call that goes leaves its number unused.
const (
	CallWrite     Method = 1  // a group of requests → their results; on the leader
	CallGet       Method = 2  // a level and a key → its entry; on the leader
	CallReadIndex Method = 3  // a level → a log index that is enough for the reader; on the leader
	CallConfirm   Method = 4  // a term → 1 if this node has seen no later one
	CallCatchUp   Method = 5  // a catchUpRequest → the log index of its state, once that reaches the target or soon
	CallLastIndex Method = 6  // nothing → the last index of its log
	CallJoin      Method = 7  // a joinRequest → nothing, once the node is a member
	CallNodes     Method = 8  // nothing → the members; on the leader
	CallAdmit     Method = 9  // an admission → nothing, once it is on disk
	CallRemove    Method = 10 // a removeRequest → nothing, once the node is no member; on the leader
	CallTransfer  Method = 11 // a transferRequest → nothing, once this node leads no more; on the leader
	CallFound     Method = 12 // a founding → its own
	CallSuspicion Method = 13 // a suspicion → a vote on it
	CallClaim     Method = 14 // a claim → a claimAnswer
	CallStart     Method = 15 // nothing → what a voter has heard since it was opened
)

// rules are those of the methods that are not as most: small, and only for a caller that
// names this node.
var rules = [256]struct {
	large   bool // up to MaxFrame, of a caller that names this node
	unnamed bool // the caller need not name it
}{
	CallWrite: {large: true},
	CallGet:   {large: true}, // a key of hraftd's may have any size
	CallJoin:  {unnamed: true},
	CallAdmit: {unnamed: true},
	CallFound: {unnamed: true},
	CallClaim: {unnamed: true},
}

// limit is how large a call may be.
func (m Method) limit(unnamed bool) uint32 {
	if !unnamed && rules[m].large {
		return MaxFrame
	}
	return maxSmallFrame
}

// Handler answers calls of one method. The payload is its own.
type Handler func(ctx context.Context, payload []byte) (answer []byte, err error)

// Handle has serve called for each call of a method. It is for before Start.
func (p *Port) Handle(m Method, serve Handler) { p.calls[m] = serve }

// Raw is a message of a call that is not in JSON. The empty one is none.
type Raw []byte

// HandleJSON is Port.Handle for messages in JSON, or Raw.
func HandleJSON[Req, Resp any](p *Port, m Method, serve func(context.Context, Req) (Resp, error)) {
	p.Handle(m, func(ctx context.Context, payload []byte) ([]byte, error) {
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

// CallJSON is Port.Call with messages in JSON, or Raw.
func CallJSON[Resp, Req any](ctx context.Context, p *Port, to roster.Peer, m Method, req Req) (Resp, error) {
	return inJSON[Resp](req, func(payload []byte) ([]byte, error) { return p.Call(ctx, to, m, payload) })
}

// AskJSON makes a call on whoever is at an address, with messages in JSON, or Raw.
func AskJSON[Resp, Req any](ctx context.Context, p *Port, addr string, m Method, req Req) (Resp, error) {
	return inJSON[Resp](req, func(payload []byte) ([]byte, error) {
		conn, _, err := p.Dial(ctx, addr, ForRPC, "")
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errs.Unreachable, err)
		}
		defer conn.Close()
		answer, _, err := exchange(ctx, conn, question{m, payload, 0})
		return answer, err
	})
}

func inJSON[Resp any](req any, call func(payload []byte) (answer []byte, err error)) (resp Resp, err error) {
	payload, err := encode(req)
	if err != nil {
		return resp, err
	}
	answer, err := call(payload)
	if err != nil {
		return resp, err
	}
	return decode[Resp](answer)
}

func encode(message any) ([]byte, error) {
	if m, ok := message.(Raw); ok {
		return m, nil
	}
	return json.Marshal(message)
}

func decode[T any](payload []byte) (message T, err error) {
	if m, ok := any(&message).(*Raw); ok {
		*m = payload
		return message, nil
	}
	return message, json.Unmarshal(payload, &message)
}

// DecodeUint64 takes apart a raw message that is a number: a term, or an index of the log.
func DecodeUint64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: want 8 bytes, have %d", errs.Invalid, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

type callerKey struct{}

// CallerOf is who makes the call that ctx is of.
func CallerOf(ctx context.Context) Hello {
	h, _ := ctx.Value(callerKey{}).(Hello)
	return h
}

// serveCalls answers the calls on one connection until it ends.
func (p *Port) serveCalls(conn net.Conn, h Hello) {
	c := newCallConn(conn, h.To == "", p.budget)
	ctx := context.WithValue(p.ctx, callerKey{}, h)
	answer := p.answer
	for c.serveOne(ctx, answer) == nil {
	}
}

func (p *Port) answer(ctx context.Context, q call) ([]byte, error) {
	serve := p.calls[q.method]
	switch {
	case q.unnamed && !rules[q.method].unnamed:
		return nil, fmt.Errorf("%w: call %d without naming the node that is meant", errs.Invalid, q.method)
	case serve == nil:
		return nil, fmt.Errorf("%w: call %d is not known here", errs.Invalid, q.method)
	}
	return serve(ctx, q.payload)
}
