package raftnet

import (
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// installs reports a node that is sent snapshots again and again. Its link may be
// too slow for one; or the end of its log conflicts with the leader's in a way that
// no snapshot of raft mends (hashicorp/raft issue 697).
type installs struct {
	log hclog.Logger

	mu    sync.Mutex
	sent  map[raft.ServerID][]time.Time // guarded by mu: when, within the last minutes
	bytes map[raft.ServerID]int64       // guarded by mu: of the snapshot that was sent last, so far
}

func newInstalls(log hclog.Logger) *installs {
	return &installs{log: log, sent: make(map[raft.ServerID][]time.Time), bytes: make(map[raft.ServerID]int64)}
}

// KeepOnly forgets what was counted of nodes that are no members any more.
func (i *installs) KeepOnly(members map[raft.ServerID]bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	maps.DeleteFunc(i.sent, func(id raft.ServerID, _ []time.Time) bool { return !members[id] })
	maps.DeleteFunc(i.bytes, func(id raft.ServerID, _ int64) bool { return !members[id] })
}

// SentTo is how much of its snapshot a node was sent.
func (i *installs) SentTo(id raft.ServerID) int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.bytes[id]
}

// SentToAll is how much of their snapshots all nodes were sent.
func (i *installs) SentToAll() (sum int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, bytes := range i.bytes {
		sum += bytes
	}
	return sum
}

// outgoing counts the bytes of a snapshot as they are sent.
func (i *installs) outgoing(to raft.ServerID, data io.Reader) io.Reader {
	return countedReader{data, func(n int64) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.bytes[to] += n
	}}
}

func (i *installs) count(id raft.ServerID) {
	const often, within = 3, 10 * time.Minute
	i.mu.Lock()
	defer i.mu.Unlock()
	i.bytes[id] = 0
	now := time.Now()
	recent := slices.DeleteFunc(i.sent[id], func(at time.Time) bool { return now.Sub(at) > within })
	if recent = append(recent, now); len(recent) < often {
		i.sent[id] = recent
		return
	}
	delete(i.sent, id) // count anew
	i.log.Error("a node is sent a snapshot again and again: if its link is fast enough for one, stop it, empty its data directory and start it again",
		"node", id, "times", often, "within", within)
}

// incoming is the snapshot that raft reads, or has read last.
type incoming struct {
	size  atomic.Int64 // 0: there is none
	got   atomic.Int64 // bytes that have arrived of it
	total atomic.Int64 // bytes that have ever arrived
}

// begin returns what raft is to read it from.
func (i *incoming) begin(size int64, from io.Reader) io.Reader {
	i.got.Store(0)
	i.size.Store(max(size, 1))
	return countedReader{from, func(n int64) {
		i.got.Add(n)
		i.total.Add(n)
	}}
}

// Incoming tells of the snapshot that raft reads: its size, or 0 if there is none, and how
// much of it has arrived; total is what has ever arrived of any.
func (i *incoming) Incoming() (size, got, total int64) {
	return i.size.Load(), i.got.Load(), i.total.Load()
}

// EndIncoming is for when raft is known to read none any more.
func (i *incoming) EndIncoming() { i.size.Store(0); i.got.Store(0) }

// countedReader counts what is read from it.
type countedReader struct {
	io.Reader
	count func(bytes int64)
}

func (r countedReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.count(int64(n))
	return n, err
}
