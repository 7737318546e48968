package disk

import (
	"math"

	"github.com/hashicorp/raft"
)

// A leader and its followers write an entry to their disks at the same time (section
// 10.2.1 of Ongaro's thesis). raft sends an entry only when StoreLogs has returned, so
// that on a leader it returns while the disk still writes.
//
// raft then counts the leader among those that have the entry. That is not true yet,
// but nothing comes of it: raft hears no follower's acknowledgement of an entry before
// the leader has it on disk too (raftnet.Transport.AppendEntries), and without one nothing
// is committed, but where the leader is a majority by itself. There it waits.
//
// The same section lets an entry commit that a majority has on disk without the leader. An
// acknowledgement could be let through then: raft would count the leader in too early, and
// be right without it. The voters cannot be others by the time raft counts, as a change of
// the configuration is stored before it counts, and all entries before it. It would gain
// little: the next write waits for this one, in the goroutine of raft's that commits. So a
// leader with a slow disk would be ahead of it by one write, and no more without a queue of
// writes, over which all that waits for what is stored would have to be thought through.
type writeBehind struct {
	from  uint64        // index of the first entry that is being written
	ended chan struct{} // closed when all of them are stored, or the store has failed
}

// maySend tells whether the entries may be sent before they are stored. A change of the
// configuration may not: it can be what makes a leader a majority by itself. What does
// not fit into memory may not either, as it is sent from there.
func (l *Log) maySend(entries []*raft.Log) bool {
	if hooks := l.hooks.Load(); hooks == nil || !hooks.NeedsOthers() {
		return false
	}
	var bytes int64
	for _, entry := range entries {
		if entry.Type == raft.LogConfiguration {
			return false
		}
		bytes += int64(entrySize(entry))
	}
	return bytes <= l.limit
}

// storeBehind stores the entries while its caller goes on. One such write is under way
// at a time, and whatever else changes the end of the log waits for it. The record does
// not, and does not count on these entries.
func (l *Log) storeBehind(sealed []*raft.Log) {
	w := &writeBehind{from: sealed[0].Index, ended: make(chan struct{})}
	l.behind.Store(w) // before anyone sees the entries
	l.append(sealed...)
	go func() {
		defer close(w.ended)
		_ = l.store(sealed) // an error has stopped the node
	}()
}

// AwaitStored waits until the entry at index is stored, and all before it. Its error is
// what stopped the store.
func (l *Log) AwaitStored(index uint64) error {
	if w := l.behind.Load(); w != nil && w.from <= index {
		select {
		case <-w.ended:
		case <-l.failed:
		}
	}
	return l.Err()
}

// awaitAll is awaitStored for all entries.
func (l *Log) awaitAll() error { return l.AwaitStored(math.MaxUint64) }

// stored is how far the log reaches on the disk.
func (l *Log) stored() uint64 {
	_, last := l.Bounds()
	w := l.behind.Load()
	if w == nil {
		return last
	}
	select {
	case <-w.ended:
		return last
	default:
		return min(last, w.from-1)
	}
}
