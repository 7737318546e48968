package kvraft

import (
	"errors"
	"fmt"

	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/command"
)

// A write is held against the limits of the node where the call is made, and again
// against those of the leader.

// maxOps keeps a batch of many small operations within a message.
const maxOps = 1 << 16

// check refuses what is over a limit. That of a key binds what sets one: a key that is
// over this node's limit may be there, by another node's or as data of hraftd's, also
// where this node has yet to learn of it.
func (l Limits) check(ops []command.Op) error {
	if len(ops) == 0 {
		return fmt.Errorf("%w: an empty batch", ErrInvalid)
	}
	if len(ops) > maxOps {
		return fmt.Errorf("%w: batch of %d operations, the limit is %d", ErrTooLarge, len(ops), maxOps)
	}
	total := 0
	for _, op := range ops {
		if err := l.checkSet(op); op.Kind == command.Set && err != nil {
			return err
		}
		total += len(op.Key) + len(op.Value)
	}
	if total > l.BatchBytes {
		return fmt.Errorf("%w: batch of %d bytes, the limit is %d", ErrTooLarge, total, l.BatchBytes)
	}
	return nil
}

func (l Limits) checkSet(op command.Op) error {
	switch {
	case op.Key == "":
		return fmt.Errorf("%w: empty key", ErrInvalid)
	case len(op.Key) > l.KeyBytes:
		return fmt.Errorf("%w of %d bytes, the limit is %d", ErrKeyTooLarge, len(op.Key), l.KeyBytes)
	case len(op.Value) > l.ValueBytes:
		return fmt.Errorf("%w: value of %d bytes, the limit is %d", ErrTooLarge, len(op.Value), l.ValueBytes)
	}
	return nil
}

// groupBytes is the largest group of requests that are each within the limits.
func (l Limits) groupBytes() int {
	return batch.GroupBytes + l.BatchBytes + (batch.GroupRequests+maxOps)*command.EncodedOverhead
}

// judge takes the requests that keep to the limits. Of the others the results have the
// refusal, and refused the last one; the results of what is taken are to be filled in.
func (l Limits) judge(requests []command.Request) (results []command.Result, taken []command.Request, refused error) {
	results = make([]command.Result, len(requests))
	for i, r := range requests {
		switch err := l.judgeOne(r); {
		case err == nil:
			taken = append(taken, r)
			continue
		case errors.Is(err, ErrTooLarge):
			results[i].Code, refused = command.TooLarge, err
		default:
			results[i].Code, refused = command.Invalid, err
		}
	}
	return results, taken, refused
}

func (l Limits) judgeOne(r command.Request) error {
	if r.Origin == command.Unmarked {
		return fmt.Errorf("%w: a request that does not tell whose its id is", ErrInvalid)
	}
	for _, op := range r.Ops {
		switch op.Kind {
		case command.Set, command.Delete, command.Check:
		default: // a note: the leader alone takes those
			return fmt.Errorf("%w: operation %d of a caller", ErrInvalid, op.Kind)
		}
	}
	return l.check(r.Ops)
}
