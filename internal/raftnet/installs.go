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

// keepOnly forgets nodes that are no members any more.
func (i *installs) keepOnly(members map[raft.ServerID]bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	maps.DeleteFunc(i.sent, func(id raft.ServerID, _ []time.Time) bool { return !members[id] })
	maps.DeleteFunc(i.bytes, func(id raft.ServerID, _ int64) bool { return !members[id] })
}

// sentTo is how much of its snapshot a node was sent.
func (i *installs) sentTo(id raft.ServerID) int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.bytes[id]
}

// sentToAll is how much of their snapshots all nodes were sent.
func (i *installs) sentToAll() (sum int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, bytes := range i.bytes {
		sum += bytes
	}
	return sum
}

// outgoing counts the bytes of a snapshot as they are sent.
type outgoing struct {
	installs *installs
	to       raft.ServerID
	data     io.Reader
}

func (s *outgoing) Read(b []byte) (int, error) {
	n, err := s.data.Read(b)
	s.installs.mu.Lock()
	defer s.installs.mu.Unlock()
	s.installs.bytes[s.to] += int64(n)
	return n, err
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
	return &incomingReader{i, from}
}

// end is for when raft reads it no more.
func (i *incoming) end() { i.size.Store(0); i.got.Store(0) }

type incomingReader struct {
	*incoming
	from io.Reader
}

func (r *incomingReader) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	r.got.Add(int64(n))
	r.total.Add(int64(n))
	return n, err
}
