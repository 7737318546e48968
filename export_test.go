package kvraft

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/failover"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/member"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// Raced tells whether the race detector is on.
const Raced = raced

// WithSegmentSize makes the files of the log so large, to have many of them.
func WithSegmentSize(bytes int64) Option { return func(o *options) { o.segmentSize = bytes } }

// HandOver gives leadership to another voter, whatever is under way.
func (s *Store) HandOver() error { return s.lead.HandOver(context.Background(), "") }

// HandOverTo makes other stand for election, which deposes s.
func (s *Store) HandOverTo(other *Store) error {
	return s.lead.TimeoutNow(roster.Peer{Server: other.node.Server, Addr: other.opts.advertise})
}

// StandAfter has s stand for election in place of leader, which it does not hear any more.
func (s *Store) StandAfter(leader *Store) {
	s.failures.CampaignAfter(&lead.Tenure{Leader: roster.Peer{Server: leader.node.Server, Addr: leader.opts.advertise}, Term: s.node.Raft.CurrentTerm()}, "a test")
}

// VoteOn is what s says when it is asked whether a leader is lost.
func (s *Store) VoteOn(leader *Store, term uint64) (failover.SuspicionVote, error) {
	return s.failures.VoteOnSuspicion(context.Background(), failover.Suspicion{Leader: leader.node.Server, Term: term})
}

// VoteOnStart is what s says when it is asked what it has heard since it was opened.
func (s *Store) VoteOnStart() failover.StartVote {
	vote, _ := s.failures.VoteOnStart(context.Background(), failover.StartQuestion{})
	return vote
}

// ServerID is the node's id with its identity.
func (s *Store) ServerID() raft.ServerID { return s.node.Server }

// Raft is the raft instance, for tests that compare with what it would do.
func (s *Store) Raft() *raft.Raft { return s.node.Raft }

// TakeSnapshot compacts the log now.
func (s *Store) TakeSnapshot() error { return s.takeSnapshot() }

// HoldStateMachine keeps the state machine from applying anything until release.
func (s *Store) HoldStateMachine() (release func()) {
	held, gate := make(chan struct{}), make(chan struct{})
	s.fsm.cluster = func() string {
		close(held)
		<-gate
		return s.node.Self().Cluster
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.node.Raft.Snapshot().Error() // it asks the state machine, which is what holds it
	}()
	<-held
	return func() { close(gate); <-done }
}

// Transport is what raft sends through.
func (s *Store) Transport() raft.Transport { return s.node.RaftNet }

// NoteRetired takes note that other is to be removed, and does not remove it.
func (s *Store) NoteRetired(other *Store) error {
	return s.members.WriteNote(member.RemovedNote(other.node.Server), "1")
}

// NoteFormer takes note of so many identities that were removed, and of as many that have
// left, which there never were.
func (s *Store) NoteFormer(identities int) error {
	var ops []command.Op
	for n := range identities {
		server := raft.ServerID(fmt.Sprintf("x%d#%d", n%10, n))
		ops = append(ops, member.NoteOp(member.RemovedNote(server), s.members.Dated(member.Tombstone)), member.NoteOp(member.LeftNote(server+"-left"), s.members.Dated("1")))
	}
	return s.members.WriteNotes(ops)
}

// Notes counts those that this node has.
func (s *Store) Notes() int { return s.fsm.now.Load().view.NotesLen() }

// NotesOfFormer counts those of an id that was removed or has left.
func (s *Store) NotesOfFormer(id string) int {
	return len(s.members.Formerly(id, member.RemovedNote)) + len(s.members.Formerly(id, member.LeftNote))
}

// SendRemove asks leader, as that of a term, to remove a node, whether it leads then or not.
func (s *Store) SendRemove(ctx context.Context, leader *Store, id string, term uint64) error {
	payload, err := json.Marshal(member.RemoveRequest{ID: id, Forwarded: true, Term: term})
	if err != nil {
		return err
	}
	_, err = s.node.Port.Call(ctx, roster.Peer{Server: leader.node.Server, Addr: leader.opts.advertise}, wire.CallRemove, payload)
	return err
}

// HoldMembership lets no change of the membership through until release.
func (s *Store) HoldMembership() (release func()) {
	unlock, _ := s.members.LockMembership(context.Background())
	return unlock
}

// NobodyToAsk is what keeps a node from its place that knows no other.
func (s *Store) NobodyToAsk() error { return s.joiner.NobodyToAsk() }

// Promised reports whether the node has promised to form a cluster.
func (s *Store) Promised() bool { return s.node.Stable().Record().Promise != nil }

// CompactAll leaves nothing of the log: whoever lacks anything needs a snapshot.
func (s *Store) CompactAll() error {
	s.opts.snapshots.TrailingBytes = 0
	return s.takeSnapshot()
}

// Connections counts those that the store has open.
func (s *Store) Connections() int {
	return s.node.Port.Connections()
}

// AskVoters asks whether this node leads in a term, as a round of reads does.
func (s *Store) AskVoters(term uint64) error { return s.lead.AskVoters(s.node.Ctx, term) }

// HoldRaft holds raft's main goroutine up until release.
func (s *Store) HoldRaft() (release func()) {
	reading, gate := make(chan struct{}), make(chan struct{})
	go func() {
		_ = s.node.RaftNet.Ask(s.node.Ctx, raft.RPC{ // of an old term: it is read to its end, and refused
			Command: &raft.InstallSnapshotRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, SnapshotVersion: 1},
			Reader:  gatedReader{reading, gate},
		})
	}()
	<-reading
	return func() { close(gate) }
}

type gatedReader struct{ reading, gate chan struct{} }

func (r gatedReader) Read([]byte) (int, error) {
	close(r.reading)
	<-r.gate
	return 0, io.EOF
}
