package raftnet

import (
	"errors"
	"sync"
	"sync/atomic"
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

// AnsweredSince returns whether a follower has answered the leader of a term since then.
func (a *acked) AnsweredSince(term uint64, id raft.ServerID, then time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.term == term && a.answered[id].After(then)
}

// Acked is how far a follower's log is known to agree with this leader's.
func (a *acked) Acked(id raft.ServerID) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index[id]
}

var errAbstains = errors.New("this node abstains: as the leader it was of no use")

// abstention is the time in which a node does not ask for votes.
type abstention struct {
	until atomic.Pointer[time.Time] // nil: it asks
}

// Abstain has this node ask nobody for a vote for a while, unless a leader makes it stand.
func (a *abstention) Abstain(d time.Duration) {
	until := time.Now().Add(d)
	a.until.Store(&until)
}

// Abstains reports whether it does.
func (a *abstention) Abstains() bool {
	until := a.until.Load()
	return until != nil && time.Now().Before(*until)
}

// asking is whose votes this node waits for, and in which term.
type asking struct {
	mu    sync.Mutex
	terms map[raft.ServerID]uint64 // guarded by mu
}

func (a *asking) begin(id raft.ServerID, term uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.terms == nil {
		a.terms = make(map[raft.ServerID]uint64)
	}
	a.terms[id] = term
}

func (a *asking) end(id raft.ServerID, term uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.terms[id] == term { // else it is asked in a later one
		delete(a.terms, id)
	}
}

// awaitsVoteOf reports whether this node waits for the vote of another in a term.
func (a *asking) awaitsVoteOf(id raft.ServerID, term uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.terms[id] == term
}
