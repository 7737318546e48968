package kvraft

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Errors of a call. Test for them with errors.Is: they are equal on whichever
// node the call was made, and a cause (a context's error, a disk's) stays
// wrapped beside them.
//
// For a write, every error but [ErrUnknown] means that nothing was applied.
var (
	// ErrNotFound is returned by Get for a key that is not there, and by Remove
	// and TransferLeadership for an id that no member has.
	ErrNotFound = errors.New("kvraft: not found")
	// ErrConflict is returned by a write whose condition did not hold; the
	// error is a [*ConflictError] with the version that was found.
	ErrConflict = errors.New("kvraft: version conflict")
	// ErrReused is returned by a write whose request id was used for another
	// write, of which alone it is the name.
	ErrReused = errors.New("kvraft: request id reused")
	// ErrTooLarge is returned for a key, a value or a batch over its limit
	// (see [WithLimits]).
	ErrTooLarge = errors.New("kvraft: too large")
	// ErrKeyTooLarge is the ErrTooLarge of a key.
	ErrKeyTooLarge = fmt.Errorf("%w: key", ErrTooLarge)
	// ErrInvalid is returned for an argument that can never be right, such as
	// an empty key; its text says what to do instead.
	ErrInvalid = errors.New("kvraft: invalid argument")
	// ErrNoLeader is returned when the context ended before any leader took
	// the request. It was not applied and can safely be made again.
	ErrNoLeader = errors.New("kvraft: no leader")
	// ErrUnknown is returned by a write that may or may not have been
	// applied: the context ended, or the store closed, while it was under way.
	ErrUnknown = errors.New("kvraft: outcome unknown")
	// ErrStale is returned by a read with MaxStaleness or AtLeast when this node
	// has no state that is fresh enough.
	ErrStale = errors.New("kvraft: too stale")
	// ErrCompacted ends a Watch that has missed changes, as the history of this node
	// no longer has them; the error is a [*CompactedError] with the version that
	// it goes back to.
	ErrCompacted = errors.New("kvraft: history compacted")
	// ErrClosed is returned by every call on a store that was closed or that
	// stopped by itself; in the latter case it wraps the reason.
	ErrClosed = errors.New("kvraft: store closed")
)

// Errors of Open and of membership changes.
var (
	// ErrRefused is returned by Join, Remove and TransferLeadership when the
	// leader refused, and by WaitLeader on a node that waits to be admitted when a
	// member did; its text says why.
	ErrRefused = errors.New("kvraft: refused")
	// ErrRemoved is the ErrRefused of a node that was removed from the cluster. A
	// store that finds that out about itself stops, with ErrRemoved in its Err: its
	// data directory must be emptied before it can join again, as a new node.
	ErrRemoved = fmt.Errorf("%w: removed from the cluster", ErrRefused)
	// ErrCopied is the ErrRefused of a node that runs on a copy of another's data
	// directory. A store that finds that out about itself stops, with ErrCopied in its
	// Err; the original goes on. What to do with the copy its text says.
	ErrCopied = fmt.Errorf("%w: two nodes run on copies of one data directory", ErrRefused)
	// ErrForeign is returned by Open, Recover, Examine and OpenLog for a directory that
	// holds data of another program's raft; its text says of which, if that is known.
	// Nothing in it is changed: give the node an empty one. Files that are no raft's
	// data are no hindrance.
	ErrForeign = errors.New("kvraft: another program's data")
	// ErrUnreachable is returned by Join when nobody answers at the address.
	ErrUnreachable = errors.New("kvraft: unreachable")
)

// ConflictError is the error of a write whose condition did not hold.
type ConflictError struct {
	Version uint64 // the version that the key has now; 0: it is absent
}

func (e *ConflictError) Error() string {
	if e.Version == 0 {
		return "kvraft: version conflict: the key is absent"
	}
	return fmt.Sprintf("kvraft: version conflict: the key is at version %d", e.Version)
}

// Is makes errors.Is(err, ErrConflict) hold.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// CompactedError is the error of a Watch that has missed changes.
type CompactedError struct {
	Version uint64 // the lowest that a watch on this node can begin After
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("kvraft: history compacted: it begins after version %d; what has changed up to there is seen with SnapshotFirst", e.Version)
}

// Is makes errors.Is(err, ErrCompacted) hold.
func (e *CompactedError) Is(target error) bool { return target == ErrCompacted }

// errUnsent is the error of an attempt that was definitely not applied and may be
// made again, elsewhere or later: the node is not the leader, or could not be
// reached. Callers never see it; a loop turns it into ErrNoLeader when the
// context ends.
var (
	errUnsent        = errors.New("kvraft: not applied")
	errNotLeader     = fmt.Errorf("%w: this node is not the leader", errUnsent)
	errQueueFull     = fmt.Errorf("%w: the writes before it fill this node's queue of %d MiB", errUnsent, queueBytes>>20)
	errNoLeaderKnown = fmt.Errorf("%w: no leader is known", errUnsent)
)

// wire lists the errors that cross the peer port, by their code there. Codes
// are part of the protocol: append, never reorder. Code 0 is success.
var wire = []error{
	1:  errUnsent,
	2:  ErrUnknown,
	3:  ErrNotFound,
	4:  ErrTooLarge,
	5:  ErrInvalid,
	6:  ErrRefused,
	7:  ErrUnreachable,
	8:  ErrNoLeader,
	9:  ErrRemoved,
	10: ErrCopied,
}

// encodeError gives the code and the text under which err crosses the wire. An
// error outside the table crosses as ErrUnknown, the one that promises nothing.
func encodeError(err error) (byte, string) {
	switch {
	case errors.Is(err, ErrUnknown): // it may wrap others, which promise more
		return 2, err.Error()
	case errors.Is(err, ErrRemoved): // it is an ErrRefused as well
		return 9, err.Error()
	case errors.Is(err, ErrCopied): // likewise
		return 10, err.Error()
	}
	for code, sentinel := range wire {
		if sentinel != nil && errors.Is(err, sentinel) {
			return byte(code), err.Error()
		}
	}
	return 2, err.Error()
}

func decodeError(code byte, text string) error {
	if int(code) < len(wire) && wire[code] != nil {
		return &remoteError{wire[code], text}
	}
	return &remoteError{ErrUnknown, fmt.Sprintf("error %d of a newer version: %s", code, text)}
}

// remoteError is an error that another node answered.
type remoteError struct {
	sentinel error
	text     string
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.sentinel }

// noLeader is the error of a call whose context ended before any attempt was
// applied; last is what kept it, if anything is known.
func noLeader(ctx context.Context, last error) error {
	if last == nil || errors.Is(last, ctx.Err()) {
		return fmt.Errorf("%w: %w", ErrNoLeader, ended(ctx))
	}
	return fmt.Errorf("%w: %w (%s)", ErrNoLeader, ended(ctx), attempt{last})
}

// attempt is how an attempt ended, as part of an error that tells the outcome of all of
// them, or of a reason: its text has no outcome.
type attempt struct{ error }

func (a attempt) Error() string {
	text := a.error.Error()
	for _, outcome := range []error{errUnsent, ErrUnknown, ErrNoLeader} {
		text = strings.ReplaceAll(text, outcome.Error()+": ", "")
	}
	return text
}

func (a attempt) Unwrap() error { return a.error }

// ended is why ctx has ended: its error, and its cause where that says more.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != ctx.Err() {
		return fmt.Errorf("%w: %w", ctx.Err(), cause)
	}
	return ctx.Err()
}
