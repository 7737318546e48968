// Package snapshots keeps the snapshots of a node: in files, in the form that raft's file
// snapshot store gives them, or in memory. One snapshot counts, the newest that was
// completed, which the record in the node's log remembers: a start from an older state, or
// from none, is an error. What is being written is read at the same time, and is complete
// only if it could be restored.
//
// What a state looks like is its owner's to know: see [Codec].
//
// A [Store] is used by raft from any goroutine; Settle comes before that, and Close after.
// A sink has a goroutine of its own, which reads what is written to it and ends with Close
// or Cancel. The lock of a store is held while directories get other names and while the
// record is written, which has locks of its own. Tests let each operation on the disk
// fail, or be the last one of the process.
package snapshots

import (
	"io"

	"github.com/hashicorp/raft"
)

// Codec is what the owner of the states knows of them.
type Codec struct {
	// Verify reads a state to its end, and refuses what could not be restored.
	Verify func(r io.Reader) error
	// VerifyNew is Verify for a snapshot that is being written: it must also be this node's.
	VerifyNew func(meta raft.SnapshotMeta, r io.Reader) error
	// Translate makes of the state of an older form one of today's; nil: there are none such.
	Translate func(meta *raft.SnapshotMeta, state io.ReadCloser) (*raft.SnapshotMeta, io.ReadCloser, error)
}

// Store is what keeps the snapshots of a node.
type Store interface {
	raft.SnapshotStore
	// Settle makes what is kept fit what was found. It is the first to write, and comes
	// before raft starts.
	Settle() error
	// SettleLog is Settle for what the log keeps.
	SettleLog() error
	Close() error
}
