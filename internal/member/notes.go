package member

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// The cluster takes three kinds of notes of its members, in the replicated state: of
// each id that belongs to a replica; of each identity that was removed, so that it
// does not come back; and of each that has left and may, so that it is known when it
// is to be removed after all.
//
// Of identities that are no members any more, the latest maxFormer are kept that were
// removed, and as many that have left. Which those are the notes themselves say, by the
// log index at which they were taken, and the leader strikes the others out, by entries
// as any: all nodes have the same notes.
//
// The names of the removed ones are then incomplete, of which there is a note before the
// first is struck out. From then on a node is taken for removed that has been a member,
// is none and is not noted to have left: one whose note is gone is told so when it comes
// back, as if the note were there, and one that had left likewise. That goes by what the
// node says of itself. One that never was a member, and asks for the first time, has
// nothing of the log; a node that is admitted, and whose leader dies before others have
// heard of it, may have: it has to be emptied then. That is why the names are used as
// long as they are complete.

const (
	maxFormer   = 1024
	maxStriking = 256 // notes that are struck out at once: a change of the membership waits as long
)

// The names of the notes: of the id of a replica, of an identity that was removed, and of
// one that has left and may return.
func ReplicaNote(id string) string            { return "replica/" + id }
func RemovedNote(server raft.ServerID) string { return "retired/" + string(server) }
func LeftNote(server raft.ServerID) string    { return "left/" + string(server) }

// forgottenNote is taken when the first note of an identity is to be struck out.
const forgottenNote = "forgotten"

// How an identity was removed, as the note of it says before its log index.
const (
	Tombstone        = "1"
	tombstoneByForce = "forced"
)

// IsReplica reports whether what has an id is to stay without a vote.
func (ms *Members) IsReplica(id string) bool { return ms.Note(ReplicaNote(id)) != "" }

// IsRemoved reports whether an identity was removed for good, or is to be.
func (ms *Members) IsRemoved(id raft.ServerID) bool { return ms.Note(RemovedNote(id)) != "" }

func (ms *Members) isRemovedByForce(id raft.ServerID) bool {
	how, _, _ := strings.Cut(ms.Note(RemovedNote(id)), " ")
	return how == tombstoneByForce
}

// isForgotten reports whether a node was removed, or has left, so long ago that there is
// no note of it any more.
func (ms *Members) isForgotten(who wire.Welcome) bool {
	return ms.Note(forgottenNote) != "" && who.Cluster == ms.Self().Cluster && who.Joined && !ms.Lists(who.Node) && ms.Note(LeftNote(who.Node)) == ""
}

// Note is the text of a note; empty: there is none.
func (ms *Members) Note(name string) string { return ms.State.Note(name) }

// Dated is the text of a note that is taken now.
func (ms *Members) Dated(text string) string { return fmt.Sprintf("%s %d", text, ms.Index()) }

// WriteNote takes a note, as the leader.
func (ms *Members) WriteNote(name, text string) error {
	if err := ms.WriteNotes([]command.Op{NoteOp(name, text)}); err != nil {
		return fmt.Errorf("take note of %s: %w", name, err)
	}
	return nil
}

// WriteNotes takes notes, all or none, as the leader.
func (ms *Members) WriteNotes(ops []command.Op) error {
	request := command.Request{Ops: ops}
	ms.RequestIDs.Stamp(&request, ms.Index())
	results, err := ms.Commit(command.Append(nil, []command.Request{request}))
	if err == nil && results[0].Code != command.OK {
		err = fmt.Errorf("%w: the request expired", errs.Unsent)
	}
	return err
}

// NoteOp takes a note, or with an empty text strikes it out.
func NoteOp(name, text string) command.Op {
	return command.Op{Kind: command.Note, Key: name, Value: []byte(text)}
}

// clearNote makes a note undone, if there is one.
func (ms *Members) clearNote(name string) error {
	if ms.Note(name) == "" {
		return nil
	}
	return ms.WriteNote(name, "")
}

// former is an identity that was removed or has left.
type former struct {
	server raft.ServerID
	at     uint64 // the log index of its note; 0: it has none
}

// former are the identities of one kind of notes, the oldest first.
func (ms *Members) former(note func(raft.ServerID) string) (all []former) {
	ms.State.Notes(func(name, text string) bool {
		if server, ok := strings.CutPrefix(name, note("")); ok {
			_, at, _ := strings.Cut(text, " ")
			index, _ := strconv.ParseUint(at, 10, 64)
			all = append(all, former{raft.ServerID(server), index})
		}
		return true
	})
	slices.SortStableFunc(all, func(a, b former) int { return cmp.Compare(a.at, b.at) })
	return all
}

// Formerly are the identities of one kind of notes under an id.
func (ms *Members) Formerly(id string, note func(raft.ServerID) string) (servers []raft.ServerID) {
	for _, f := range ms.former(note) {
		if roster.UserID(f.server) == id {
			servers = append(servers, f.server)
		}
	}
	return servers
}

// forgetFormer strikes out the notes that are too many, as the leader.
func (ms *Members) forgetFormer(tenure *lead.Tenure) error {
	if ms.State.NotesLen() <= maxFormer {
		return nil
	}
	for _, note := range []func(raft.ServerID) string{RemovedNote, LeftNote} {
		for len(ms.excess(note)) > 0 {
			if err := ms.forgetOldest(tenure, note); err != nil {
				return fmt.Errorf("strike out notes: %w", err)
			}
		}
	}
	return nil
}

// excess are the oldest of one kind of notes, beyond those that are kept. What is noted of
// a member, of which the removal is to be finished, does not count and stays.
func (ms *Members) excess(note func(raft.ServerID) string) []former {
	all := slices.DeleteFunc(ms.former(note), func(f former) bool { return ms.Lists(f.server) })
	return all[:max(len(all)-maxFormer, 0)]
}

// forgetOldest strikes out some notes that are too many, by one entry. Between two of
// those changes of the membership have their turn.
func (ms *Members) forgetOldest(tenure *lead.Tenure, note func(raft.ServerID) string) error {
	unlock, err := ms.LockMembership(tenure.Ctx)
	if err != nil {
		return err
	}
	defer unlock()
	oldest := ms.excess(note)
	if len(oldest) == 0 { // since a moment ago
		return nil
	}
	return ms.WriteNotes(ms.forgetting(oldest[:min(len(oldest), maxStriking)], note))
}

// forgetting is what strikes out notes of one kind, and first says so.
func (ms *Members) forgetting(oldest []former, note func(raft.ServerID) string) []command.Op {
	left := make(map[string]int) // nodes of an id
	for _, f := range ms.former(LeftNote) {
		left[roster.UserID(f.server)]++
	}
	ops := []command.Op{NoteOp(forgottenNote, "1")}
	for _, f := range oldest {
		name, id := note(f.server), roster.UserID(f.server)
		ops = append(ops, NoteOp(name, ""))
		if name != LeftNote(f.server) {
			continue
		}
		if left[id]--; left[id] == 0 && ms.IsReplica(id) && !ms.isMemberID(id) { // nobody is left that is to be one
			ops = append(ops, NoteOp(ReplicaNote(id), ""))
		}
	}
	return ops
}

// isMemberID reports whether a member is called so.
func (ms *Members) isMemberID(id string) bool {
	return slices.ContainsFunc(ms.Configuration().Servers, func(m raft.Server) bool { return roster.UserID(m.ID) == id })
}
