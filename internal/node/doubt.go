package node

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wal"
)

// electorate knows who, by the votes they have asked for, lacks what is in doubt.
type electorate struct {
	mu      sync.Mutex // guards the following
	lacking map[raft.ServerID]bool
}

// neverCommitted takes note that a candidate of that term lacks what is in doubt, and
// reports whether too many of the voters lack it for a majority to have had it, or to get it
// from a leader that counts what this node has acknowledged: that leader's term is over for
// them. Who the voters are must not be in doubt itself.
func (e *electorate) neverCommitted(doubt wal.Doubt, candidate raft.ServerID, own uint64, voters []raft.Server) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lacking == nil {
		e.lacking = map[raft.ServerID]bool{}
	}
	if own > doubt.Term {
		e.lacking[candidate] = true
	}
	had := 0
	for _, voter := range voters {
		if !e.lacking[voter.ID] {
			had++
		}
	}
	return had < len(voters)/2+1 && !doubt.Configures
}

// MayElect reports whether this node may help to elect a candidate, which may be itself, of
// that term, whose log ends with that entry. It may not if its own log has lost entries that
// it had acknowledged, perhaps, see wal.Doubt, and the candidate lacks them too: the majority
// that had them may be this node and others that are not asked. Once too many are known to
// lack them, they were never committed. Who lacks them has never had them, unless two disks
// have damaged the end of the same write.
//
// The others have to come to a later term for that. So this node goes there: to raise, if
// that is not 0.
func (n *Node) MayElect(candidate raft.ServerID, own, index, term uint64) (may bool, raise uint64) {
	doubt := n.Logs.Doubt()
	if doubt.Reached(index, term) {
		return true, 0
	}
	if candidate == n.Server {
		candidate = "" // it may have had them
	}
	if n.electors.neverCommitted(doubt, candidate, own, roster.Voters(n.Configuration())) {
		return true, 0
	}
	n.Log.Info("no vote for a log that may lack entries which this node has lost", "candidate", candidate, "ends_at", index, "lost_up_to", doubt.Index)
	return false, doubt.Term + 2 // a candidate asks for a pre-vote in the term after its own
}
