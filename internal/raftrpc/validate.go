//lint:file-ignore SA1019 raft still sends the fields that it calls deprecated

package raftrpc

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
)

const (
	// MaxTerm is the last term that a node starts in. It and maxIndex are beyond what elections and writes can reach, and so
	// far from the end of the numbers that nothing wraps.
	MaxTerm  = 1 << 63
	maxIndex = 1 << 62

	// maxTermStep is how far above its own a node follows to a term at once: an election a second for 136 years. Terms cannot
	// be used up by one message then, nor by a million.
	maxTermStep = 1 << 32

	maxEntries = 1 << 10 // raft sends up to 64
	maxName    = 4 << 10 // bytes of an id or an address
)

// Node is what a request is held against.
type Node struct {
	Term      uint64 // its current term
	Committed uint64 // the last entry that it knows to be committed
	StateTerm uint64 // term of the last entry in its state
	Voter     bool   // it has a vote
	Led       bool   // it leads, or has just heard from a leader

	// Member tells who is in its configuration.
	Member func(raft.ServerID) bool
	// TermAt is the term of an entry in the log, false if the log does not hold it.
	TermAt func(index uint64) (term uint64, ok bool)
	// Checksum compares an entry with its checksum, if it has one.
	Checksum func(*raft.Log) error
}

// Validate tells why raft must not see a request, or nil. One of an old term is for raft to refuse, which reads nothing else
// of it; but see Outdated.
func Validate(req any, node Node) error {
	withHeader, ok := req.(raft.WithRPCHeader)
	if !ok {
		return fmt.Errorf("%T is no request", req)
	}
	if err := checkHeader(withHeader.GetRPCHeader()); err != nil {
		return err
	}
	switch req := req.(type) {
	case *raft.AppendEntriesRequest:
		return node.checkEntries(req)
	case *raft.InstallSnapshotRequest:
		return node.checkSnapshot(req)
	case *raft.RequestVoteRequest:
		return node.checkVote(req.Term, req.LastLogIndex, req.LastLogTerm, req.Candidate)
	case *raft.RequestPreVoteRequest:
		return node.checkVote(req.Term, req.LastLogIndex, req.LastLogTerm, nil)
	case *raft.TimeoutNowRequest:
		if !node.Voter {
			return errors.New("this node has no vote and cannot lead")
		}
		if !node.Heeds(req.ID) {
			return fmt.Errorf("it is from no member that is known here, and in term %d there is a leader", node.Term)
		}
		return nil
	}
	return fmt.Errorf("%T is no request", req)
}

// checkHeader wants a sender. raft takes a candidate without an id for one of an old version, and asks no further.
func checkHeader(h raft.RPCHeader) error {
	if len(h.ID) == 0 || len(h.Addr) == 0 {
		return errors.New("it does not say who sends it")
	}
	return checkNames(h.ID, h.Addr)
}

func checkNames(names ...[]byte) error {
	for _, name := range names {
		if len(name) > maxName {
			return fmt.Errorf("an id or address of %d bytes", len(name))
		}
	}
	return nil
}

// checkTerm is for the term of a request.
func (n Node) checkTerm(term uint64) error {
	switch {
	case term == 0:
		return errors.New("it has no term")
	case term > n.Term && term > Reach(term, n.Term):
		return &FarTerm{term, n.Term}
	}
	return nil
}

// FarTerm refuses a term that is further from the node's than elections lead to.
type FarTerm struct{ Term, Own uint64 }

func (e *FarTerm) Error() string {
	return fmt.Sprintf("the term %d is beyond what elections lead to from this node's, %d", e.Term, e.Own)
}

// Reach is the term to which a node goes that hears of another: its own, if that is higher or the other is one that no
// cluster gets to. A higher term is reached in steps. There must be no distance at which it stays refused: whatever term a
// node was made to take, from then on it and its cluster would go separate ways.
func Reach(term, own uint64) uint64 {
	if term <= own || term > MaxTerm/2 {
		return own
	}
	return min(term, own+maxTermStep)
}

// checkLeader is for the sender of entries or of a snapshot.
func (n Node) checkLeader(sender, leader []byte, term uint64) error {
	if term > n.Term && !n.Heeds(sender) {
		return fmt.Errorf("it is from no member that is known here, and in term %d there is a leader", n.Term)
	}
	if err := n.checkTerm(term); err != nil {
		return err
	}
	return checkNames(leader)
}

// Heeds tells whether the node goes to a higher term of the sender's. It can be behind with its configuration and not know
// its leader; but then it does not hear from another, or not for long. Without this a single message of whoever reaches the
// node would end the leader's term. Of votes raft asks the same.
func (n Node) Heeds(sender []byte) bool { return !n.Led || n.Member(raft.ServerID(sender)) }

func (n Node) checkVote(term, lastIndex, lastTerm uint64, candidate []byte) error {
	if err := n.checkTerm(term); err != nil {
		return err
	}
	if lastTerm > term || lastIndex > maxIndex {
		return fmt.Errorf("a log that ends at entry %d of term %d, in term %d", lastIndex, lastTerm, term)
	}
	return checkNames(candidate)
}

func (n Node) checkEntries(req *raft.AppendEntriesRequest) error {
	if err := n.checkLeader(req.ID, req.Leader, req.Term); err != nil {
		return err
	}
	if req.Term < n.Term || len(req.Entries) == 0 {
		return nil
	}
	if req.PrevLogEntry > maxIndex || len(req.Entries) > maxEntries {
		return fmt.Errorf("%d entries behind entry %d", len(req.Entries), req.PrevLogEntry)
	}
	before, term := req.PrevLogEntry, req.PrevLogTerm
	for _, entry := range req.Entries {
		if entry == nil {
			return fmt.Errorf("there is nothing in place of entry %d", before+1)
		}
		if entry.Index != before+1 {
			return fmt.Errorf("entry %d follows entry %d", entry.Index, before)
		}
		if entry.Term == 0 || entry.Term < term || entry.Term > req.Term {
			return fmt.Errorf("entry %d is of term %d, behind one of term %d, in term %d", entry.Index, entry.Term, term, req.Term)
		}
		if err := n.checkEntry(entry); err != nil {
			return fmt.Errorf("entry %d: %w", entry.Index, err)
		}
		before, term = entry.Index, entry.Term
	}
	return n.checkCommitted(req)
}

// checkEntry judges an entry by itself.
func (n Node) checkEntry(entry *raft.Log) error {
	if err := n.Checksum(entry); err != nil {
		return err
	}
	switch entry.Type {
	case raft.LogNoop, raft.LogBarrier:
		return nil
	case raft.LogCommand:
		return command.Verify(entry.Data)
	case raft.LogConfiguration:
		_, err := DecodeConfiguration(entry.Data)
		return err
	}
	return fmt.Errorf("it is of type %v, which is none of today's", entry.Type)
}

// checkCommitted wants entries that are committed to stay. No leader has others in their places: whoever sends some has
// made them up, or this node was told that something else is committed.
func (n Node) checkCommitted(req *raft.AppendEntriesRequest) error {
	for _, entry := range req.Entries {
		if entry.Index > n.Committed {
			return nil
		}
		term, ok := n.TermAt(entry.Index)
		if ok && term != entry.Term {
			return fmt.Errorf("it would replace entry %d of term %d, which is committed, by one of term %d", entry.Index, term, entry.Term)
		}
		// raft compares with the entry before, unless there is none. Then, with an empty log behind a snapshot, it would store
		// what is in the snapshot.
		if !ok && req.PrevLogEntry == 0 {
			return fmt.Errorf("entry %d is in the snapshot", entry.Index)
		}
	}
	return nil
}

// Limit lowers a request's commit index to the last entry that it says is in the leader's log (figure 2 of the Raft paper:
// "index of last new entry"). raft takes the end of the follower's log instead, with whatever is there.
func Limit(req *raft.AppendEntriesRequest) {
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, req.PrevLogEntry+uint64(len(req.Entries)))
}

// Outdated tells whether a snapshot is of an old term. raft would read all of it, on its main goroutine, to refuse it then.
func Outdated(req *raft.InstallSnapshotRequest, node Node) bool { return req.Term < node.Term }

func (n Node) checkSnapshot(req *raft.InstallSnapshotRequest) error {
	if err := n.checkLeader(req.ID, req.Leader, req.Term); err != nil {
		return err
	}
	if Outdated(req, n) {
		return nil
	}
	if req.SnapshotVersion != 1 {
		return fmt.Errorf("a snapshot of version %d", req.SnapshotVersion)
	}
	if req.LastLogIndex == 0 || req.LastLogIndex > maxIndex || req.LastLogTerm == 0 || req.LastLogTerm > req.Term || req.Size < 0 {
		return fmt.Errorf("a snapshot of %d bytes up to entry %d of term %d, in term %d", req.Size, req.LastLogIndex, req.LastLogTerm, req.Term)
	}
	if req.LastLogIndex > n.Committed && req.LastLogTerm < n.StateTerm {
		return fmt.Errorf("a snapshot up to entry %d of term %d, behind entries of term %d", req.LastLogIndex, req.LastLogTerm, n.StateTerm)
	}
	if req.ConfigurationIndex == 0 || req.ConfigurationIndex > req.LastLogIndex {
		return fmt.Errorf("a configuration of entry %d in a snapshot up to entry %d", req.ConfigurationIndex, req.LastLogIndex)
	}
	_, err := DecodeConfiguration(req.Configuration)
	return err
}
