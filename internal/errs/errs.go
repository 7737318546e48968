// Package errs has the errors that cross the packages of a node and the wire between
// nodes. The root package gives the public ones their names and their documentation; here
// they are where every package below it can wrap them.
//
// It holds no state, and starts nothing.
package errs

//lint:file-ignore ST1012 errs.NotFound says it already

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// What the root package exports, by the same names with Err before them.
var (
	NotFound    = errors.New("kvraft: not found")
	Conflict    = errors.New("kvraft: version conflict")
	Reused      = errors.New("kvraft: request id reused")
	TooLarge    = errors.New("kvraft: too large")
	KeyTooLarge = fmt.Errorf("%w: key", TooLarge)
	Invalid     = errors.New("kvraft: invalid argument")
	NoLeader    = errors.New("kvraft: no leader")
	Unknown     = errors.New("kvraft: outcome unknown")
	Stale       = errors.New("kvraft: too stale")
	Compacted   = errors.New("kvraft: history compacted")
	Closed      = errors.New("kvraft: store closed")
	Refused     = errors.New("kvraft: refused")
	Removed     = fmt.Errorf("%w: removed from the cluster", Refused)
	Copied      = fmt.Errorf("%w: two nodes run on copies of one data directory", Refused)
	Damaged     = errors.New("kvraft: damaged data")
	Locked      = errors.New("kvraft: directory is in use")
	Foreign     = errors.New("kvraft: another program's data")
	Unreachable = errors.New("kvraft: unreachable")
)

// Unsent is the error of an attempt that was definitely not applied and may be
// made again, elsewhere or later: the node is not the leader, or could not be
// reached. Callers never see it; a loop turns it into NoLeader when the
// context ends.
var (
	Unsent        = errors.New("kvraft: not applied")
	NotLeader     = fmt.Errorf("%w: this node is not the leader", Unsent)
	NoLeaderKnown = fmt.Errorf("%w: no leader is known", Unsent)
)

// Newer is the error of data that are whole, as far as this version can tell.
var Newer = errors.New("written by a newer version of kvraft")

// Unfamiliar is what is wrong with data that may be whole, but are neither kvraft's nor
// what can be taken over from hraftd.
type Unfamiliar string

func (u Unfamiliar) Error() string { return string(u) }

// codes lists the errors that cross the peer port, by their code there. Codes
// are part of the protocol: append, never reorder. Code 0 is success.
var codes = []error{
	1:  Unsent,
	2:  Unknown,
	3:  NotFound,
	4:  TooLarge,
	5:  Invalid,
	6:  Refused,
	7:  Unreachable,
	8:  NoLeader,
	9:  Removed,
	10: Copied,
}

// Encode gives the code and the text under which err crosses the wire. An
// error outside the table crosses as Unknown, the one that promises nothing. Unknown comes
// first: it may wrap others, which promise more. Removed and Copied are Refused as well.
func Encode(err error) (byte, string) {
	for _, sentinel := range slices.Concat([]error{Unknown, Removed, Copied}, codes[1:]) {
		if errors.Is(err, sentinel) {
			return byte(slices.Index(codes, sentinel)), err.Error()
		}
	}
	return 2, err.Error()
}

// Decode is the other side of Encode.
func Decode(code byte, text string) error {
	if int(code) < len(codes) && codes[code] != nil {
		return &reworded{codes[code], text}
	}
	return &reworded{Unknown, fmt.Sprintf("error %d of a newer version: %s", code, text)}
}

// reworded is an error in other words: those of another node, or a Reason.
type reworded struct {
	err  error
	text string
}

func (e *reworded) Error() string { return e.text }
func (e *reworded) Unwrap() error { return e.err }

// NoLeaderBefore is the error of a call whose context ended before any attempt was
// applied; last is what kept it, if anything is known.
func NoLeaderBefore(ctx context.Context, last error) error {
	if last == nil || errors.Is(last, ctx.Err()) {
		return fmt.Errorf("%w: %w", NoLeader, Ended(ctx))
	}
	return fmt.Errorf("%w: %w (%s)", NoLeader, Ended(ctx), Reason(last))
}

// Reason is how an attempt ended, as part of an error that tells the outcome of all of
// them: its text names no outcome.
func Reason(err error) error {
	text := err.Error()
	for _, outcome := range []error{Unsent, Unknown, NoLeader} {
		text = strings.ReplaceAll(text, outcome.Error()+": ", "")
	}
	return &reworded{err, text}
}

// OneLine is an error that may be several, as one sentence, and a Reason.
func OneLine(err error) error {
	return &reworded{err, strings.ReplaceAll(Reason(err).Error(), "\n", "; ")}
}

// Ended is why ctx has ended: its error, and its cause where that says more.
func Ended(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != ctx.Err() {
		return fmt.Errorf("%w: %w", ctx.Err(), cause)
	}
	return ctx.Err()
}
