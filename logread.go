package kvraft

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/raftnet"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/snapshots"
)

// Log is what a stopped node has on disk; see [OpenLog].
type Log struct {
	Node      LogNode       // the node's record; zero if it has none yet, or none that can be read
	Snapshots []LogSnapshot // from the oldest to the newest, also one that the node remembers and that is gone
	Err       error         // what is wrong with raft.db, or with the record in it; nil: nothing

	reader *disk.Reader
}

// LogNode is what a node keeps of itself. Without an ID it is hraftd's, and not taken
// over yet, or has never been started.
type LogNode struct {
	ID        string // the id that its user gave it
	Identity  string // minted with its directory
	Cluster   string // empty: it belongs to none
	Term      uint64 // the newest that it has heard of
	VotedTerm uint64 // the newest that it has voted in; 0: none
	VotedFor  string // the address of the one that it voted for then
}

// LogSnapshot is the header of a snapshot. If Err is not nil, it has what could be
// read of it.
type LogSnapshot struct {
	ID          string
	Index, Term uint64 // of the newest entry in it
	Size        int64  // bytes of state
	Cluster     string
	Version     uint64 // of its state
	Keys        uint64
	Requests    uint64      // that are remembered
	Members     []LogMember // of the cluster
	Err         error       // what is wrong with it: that it is damaged or missing; nil: nothing
}

// LogEntry is one entry of a log.
type LogEntry struct {
	Index, Term uint64
	Type        string // "command", "noop", "configuration", "barrier"
	Size        int    // bytes of data, before they were decoded
	Checksummed bool   // false: it has none, as what was written before a take-over
	Checksum    uint32 // CRC-32C of index, term, type and data, as stored

	Requests []LogRequest // of a command
	Members  []LogMember  // of a configuration
	// Unknown says why the data of an entry, whatever its checksum, is in no format that
	// this version knows.
	Unknown error
}

// LogRequest is one request of an entry: its operations take effect together, or
// not at all.
type LogRequest struct {
	ID     [16]byte // by which the state knows it, however often it is in the log; zero in an entry of hraftd's
	Caller bool     // the ID is a caller's, see WithRequestID; false in entries that do not tell
	Born   uint64   // a log index from before its first attempt
	Ops    []LogOp
}

// LogOp is one operation.
type LogOp struct {
	Kind    string // "set", "delete", "check", or "note", which the cluster takes of its members
	Key     string
	Value   []byte // of a set or a note; the caller's
	Version uint64 // of a check; 0: the key must be absent
}

// LogMember is a member in a configuration.
type LogMember struct {
	ID, Identity, Addr string
	Voter              bool
}

// OpenLog opens the log of the stopped node in dir, to look at it. Open refuses at
// the first damage; here each is an error in its place, which wraps [ErrDamaged], and
// all that can be read is. What a newer version of kvraft has written is an error too, and
// no damage. OpenLog itself reads the node's record and all snapshots to
// their end, Entries the log. Nothing in dir is changed, and until Close no node can
// open it.
//
// Errors: ErrLocked when a node has the directory open, ErrInvalid when there is no
// node's data, ErrForeign when the data are another program's.
func OpenLog(dir string) (*Log, error) {
	reader, err := disk.OpenReader(dir)
	if err != nil {
		return nil, fmt.Errorf("open the log in %s: %w", dir, err)
	}
	l := &Log{reader: reader, Err: reader.Err}
	if m := reader.Record; m.Raft != nil {
		voted, candidate := m.Vote()
		l.Node = LogNode{m.ID, m.Identity, m.Cluster, m.Term(), voted, string(raftnet.Transport{}.DecodePeer(candidate))}
	}
	if err := l.readSnapshots(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open the log in %s: %w", dir, err), l.Close())
	}
	return l, nil
}

// Close lets go of the directory. No Entries may be under way.
func (l *Log) Close() error { return l.reader.Close() }

func (l *Log) readSnapshots(dir string) error {
	states := map[string]LogSnapshot{}
	found, err := snapshots.Inspect(dir, l.reader.Record.Snapshot, func(id string, r io.Reader) (err error) {
		states[id], err = readState(r)
		return err
	})
	for _, f := range found {
		s := states[f.ID]
		s.ID, s.Index, s.Term, s.Size, s.Members, s.Err = f.ID, f.Index, f.Term, f.Size, logMembers(f.Configuration), f.Err
		l.Snapshots = append(l.Snapshots, s)
	}
	if l.Err == nil && l.Node == (LogNode{}) && len(found) > 0 {
		l.Err = fmt.Errorf("%w: there is snapshot %s, but %s is empty", ErrDamaged, found[0].ID, boltlog.Name)
	}
	return err
}

// readState reads a state to its end, and tells what can be read of it.
func readState(r io.Reader) (s LogSnapshot, err error) {
	in := bufio.NewReader(r)
	if disk.IsHraftdSnapshot(in) {
		pairs, err := disk.ReadHraftdSnapshot(in)
		return LogSnapshot{Keys: uint64(len(pairs))}, err
	}
	head, counts, err := scanSnapshot(in)
	return LogSnapshot{Cluster: head.cluster, Version: counts.revision, Keys: counts.keys, Requests: counts.requests + counts.callers}, err
}

// snapshotEnd is the index at which the newest snapshot ends that there is or was.
func (l *Log) snapshotEnd() uint64 {
	end := l.reader.Record.Snapshot.Index
	for _, s := range l.Snapshots {
		end = max(end, s.Index)
	}
	return end
}

// Entries reads the log from index from to index to, both included, and verifies
// what it reads. An error, as [OpenLog] has them, says what is wrong: with the entry
// beside it, which then has what can be read, or with a place where entries should be,
// and then that has the first index and no Type. The log goes on behind it. Memory is
// used for about one entry.
func (l *Log) Entries(from, to uint64) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		l.reader.Entries(from, to, l.snapshotEnd(), func(e disk.Entry, err error) bool {
			if e.Log == nil {
				return yield(LogEntry{Index: e.Index, Size: e.Size}, err)
			}
			return yield(logEntry(e.Index, e.Log), err)
		})
	}
}

func logEntry(index uint64, entry *raft.Log) LogEntry {
	e := LogEntry{
		Index: index,
		Term:  entry.Term,
		Type:  strings.ToLower(strings.TrimPrefix(entry.Type.String(), "Log")),
		Size:  len(entry.Data),
	}
	e.Checksum, e.Checksummed = disk.Checksum(entry)
	switch entry.Type {
	case raft.LogCommand:
		e.Requests, e.Unknown = logRequests(entry.Data)
	case raft.LogConfiguration:
		config, err := disk.DecodeConfiguration(entry.Data)
		if err != nil {
			e.Unknown = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		e.Members = logMembers(config)
	}
	return e
}

// kinds are the names of the operations.
var kinds = [...]string{command.Set: "set", command.Delete: "delete", command.Check: "check", command.Note: "note"}

func logRequests(data []byte) ([]LogRequest, error) {
	if command.IsLegacy(data) {
		op, err := command.DecodeLegacy(data)
		return []LogRequest{{Ops: []LogOp{logOp(op)}}}, err
	}
	decoded, err := command.Decode(data)
	requests := make([]LogRequest, len(decoded))
	for i, r := range decoded {
		requests[i] = LogRequest{ID: r.ID, Caller: r.Origin == command.Caller, Born: r.Born, Ops: make([]LogOp, len(r.Ops))}
		for j, op := range r.Ops {
			requests[i].Ops[j] = logOp(op)
		}
	}
	return requests, err
}

func logOp(op command.Op) LogOp {
	return LogOp{kinds[op.Kind], strings.Clone(op.Key), bytes.Clone(op.Value), op.Version}
}

func logMembers(c raft.Configuration) (members []LogMember) {
	for _, m := range c.Servers {
		id, identity, _ := strings.Cut(string(m.ID), "#")
		members = append(members, LogMember{id, identity, roster.DialAddr(string(m.Address)), m.Suffrage == raft.Voter})
	}
	return members
}
