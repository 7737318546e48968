package raftnet

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// acked is how far the log of each follower is known to agree with the leader's, and when
// the follower has last answered.
type acked struct {
	mu       sync.Mutex
	term     uint64                      // guarded by mu: of the leader
	index    map[raft.ServerID]uint64    // guarded by mu
	answered map[raft.ServerID]time.Time // guarded by mu
}

// note takes note of an answer; index 0: it tells nothing of the log.
func (a *acked) note(term uint64, id raft.ServerID, index uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if term < a.term { // the answer is late: this node has been elected anew
		return
	}
	if a.index == nil || a.term != term {
		a.term, a.index, a.answered = term, make(map[raft.ServerID]uint64), make(map[raft.ServerID]time.Time)
	}
	a.index[id], a.answered[id] = max(a.index[id], index), time.Now()
}

// since returns whether a follower has answered the leader of a term since then.
func (a *acked) since(term uint64, id raft.ServerID, then time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.term == term && a.answered[id].After(then)
}

func (a *acked) by(id raft.ServerID) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index[id]
}

var errAbstains = errors.New("this node abstains: as the leader it was of no use")

// abstention is the time in which a node does not ask for votes.
type abstention struct {
	mu    sync.Mutex
	until time.Time // guarded by mu
}

func (a *abstention) begin(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.until = time.Now().Add(d)
}

func (a *abstention) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.until = time.Time{}
}

// err is what asking for a vote ends with, or nil.
func (a *abstention) err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Now().Before(a.until) {
		return errAbstains
	}
	return nil
}
