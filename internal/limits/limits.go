// Package limits says what one write may be. A write is held against the limits of the node
// where the call is made, and again against those of the leader: whatever calls itself a
// node may be anybody.
//
// It is pure: it holds nothing, and starts nothing.
package limits

import (
	"errors"
	"fmt"

	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
)

// Limits are a node's own. The root package documents them.
type Limits struct {
	KeyBytes   int
	ValueBytes int
	BatchBytes int
}

// MaxOps keeps a batch of many small operations within a message.
const MaxOps = 1 << 16

// Check refuses what is over a limit. That of a key binds what sets one: a key that is
// over this node's limit may be there, by another node's or as data of hraftd's, also
// where this node has yet to learn of it.
func (l Limits) Check(ops []command.Op) error {
	if len(ops) == 0 {
		return fmt.Errorf("%w: an empty batch", errs.Invalid)
	}
	if len(ops) > MaxOps {
		return fmt.Errorf("%w: batch of %d operations, the limit is %d", errs.TooLarge, len(ops), MaxOps)
	}
	total := 0
	for _, op := range ops {
		if err := l.checkSet(op); op.Kind == command.Set && err != nil {
			return err
		}
		total += len(op.Key) + len(op.Value)
	}
	if total > l.BatchBytes {
		return fmt.Errorf("%w: batch of %d bytes, the limit is %d", errs.TooLarge, total, l.BatchBytes)
	}
	return nil
}

func (l Limits) checkSet(op command.Op) error {
	switch {
	case op.Key == "":
		return fmt.Errorf("%w: empty key", errs.Invalid)
	case len(op.Key) > l.KeyBytes:
		return fmt.Errorf("%w of %d bytes, the limit is %d", errs.KeyTooLarge, len(op.Key), l.KeyBytes)
	case len(op.Value) > l.ValueBytes:
		return fmt.Errorf("%w: value of %d bytes, the limit is %d", errs.TooLarge, len(op.Value), l.ValueBytes)
	}
	return nil
}

// GroupBytes is the size of the largest group of requests that are each within the limits.
func (l Limits) GroupBytes() int {
	return batch.GroupBytes + l.BatchBytes + (batch.GroupRequests+MaxOps)*command.EncodedOverhead
}

// Judge takes the requests that keep to the limits. Of the others the results have the
// refusal, and refused the last one; the results of what is taken are to be filled in.
func (l Limits) Judge(requests []command.Request) (results []command.Result, taken []command.Request, refused error) {
	results = make([]command.Result, len(requests))
	for i, r := range requests {
		switch err := l.judgeOne(r); {
		case err == nil:
			taken = append(taken, r)
			continue
		case errors.Is(err, errs.TooLarge):
			results[i].Code, refused = command.TooLarge, err
		default:
			results[i].Code, refused = command.Invalid, err
		}
	}
	return results, taken, refused
}

func (l Limits) judgeOne(r command.Request) error {
	if r.Origin == command.Unmarked {
		return fmt.Errorf("%w: a request that does not tell whose its id is", errs.Invalid)
	}
	for _, op := range r.Ops {
		switch op.Kind {
		case command.Set, command.Delete, command.Check:
		default: // a note: the leader alone takes those
			return fmt.Errorf("%w: operation %d of a caller", errs.Invalid, op.Kind)
		}
	}
	return l.Check(r.Ops)
}
