package kvraft

import (
	"fmt"

	"github.com/kvraft/kvraft/internal/errs"
)

// Errors of a call. Test for them with errors.Is: they are equal on whichever
// node the call was made, and a cause (a context's error, a disk's) stays
// wrapped beside them.
//
// For a write, every error but [ErrUnknown] means that nothing was applied.
var (
	// ErrNotFound is returned by Get for a key that is not there, and by Remove
	// and TransferLeadership for an id that no member has.
	ErrNotFound = errs.NotFound
	// ErrConflict is returned by a write whose condition did not hold; the
	// error is a [*ConflictError] with the version that was found.
	ErrConflict = errs.Conflict
	// ErrReused is returned by a write whose request id was used for another
	// write, of which alone it is the name.
	ErrReused = errs.Reused
	// ErrTooLarge is returned for a key, a value or a batch over its limit
	// (see [WithLimits]).
	ErrTooLarge = errs.TooLarge
	// ErrKeyTooLarge is the ErrTooLarge of a key.
	ErrKeyTooLarge = errs.KeyTooLarge
	// ErrInvalid is returned for an argument that can never be right, such as
	// an empty key; its text says what to do instead.
	ErrInvalid = errs.Invalid
	// ErrNoLeader is returned when the context ended before any leader took
	// the request. It was not applied and can safely be made again.
	ErrNoLeader = errs.NoLeader
	// ErrUnknown is returned by a write that may or may not have been
	// applied: the context ended, or the store closed, while it was under way.
	ErrUnknown = errs.Unknown
	// ErrStale is returned by a read with MaxStaleness or AtLeast when this node
	// has no state that is fresh enough.
	ErrStale = errs.Stale
	// ErrCompacted ends a Watch that has missed changes, as the history of this node
	// no longer has them; the error is a [*CompactedError] with the version that
	// it goes back to.
	ErrCompacted = errs.Compacted
	// ErrClosed is returned by every call on a store that was closed or that
	// stopped by itself; in the latter case it wraps the reason.
	ErrClosed = errs.Closed
)

// Errors of Open and of membership changes.
var (
	// ErrRefused is returned by Join, Remove and TransferLeadership when the
	// leader refused, and by WaitLeader on a node that waits to be admitted when a
	// member did; its text says why.
	ErrRefused = errs.Refused
	// ErrRemoved is the ErrRefused of a node that was removed from the cluster. A
	// store that finds that out about itself stops, with ErrRemoved in its Err: its
	// data directory must be emptied before it can join again, as a new node.
	ErrRemoved = errs.Removed
	// ErrCopied is the ErrRefused of a node that runs on a copy of another's data
	// directory. A store that finds that out about itself stops, with ErrCopied in its
	// Err; the original goes on. What to do with the copy its text says.
	ErrCopied = errs.Copied
	// ErrDamaged is returned by Open for a data directory whose files are damaged,
	// incomplete or older than the node remembers, and is the reason wrapped in
	// [ErrClosed] when a running node finds that out. Such a node does not start,
	// and does not vote. To bring it back, remove its directory and let it join
	// again, empty. (What another program has written is [ErrForeign].)
	ErrDamaged = errs.Damaged
	// ErrLocked is returned by Open for a data directory that a node has open, in
	// this process or another one.
	ErrLocked = errs.Locked
	// ErrForeign is returned by Open, Recover, Examine and OpenLog for a directory that
	// holds data of another program's raft; its text says of which, if that is known.
	// Nothing in it is changed: give the node an empty one. Files that are no raft's
	// data are no hindrance.
	ErrForeign = errs.Foreign
	// ErrUnreachable is returned by Join when nobody answers at the address.
	ErrUnreachable = errs.Unreachable
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
