package kvraft

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/roster"
)

// Log is what a stopped node has on disk; see [OpenLog].
type Log struct {
	Node      LogNode       // the node's record; zero if it has none yet, or none that can be read
	Snapshots []LogSnapshot // from the oldest to the newest, also one that the node remembers and that is gone
	Err       error         // what is wrong with the file of the log, or with the record; nil: nothing

	meta   metadata   // allows everything if there is no record
	check  *boltCheck // nil: there is no log that can be read
	bucket boltElement
	close  func() error
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
// all that can be read is. OpenLog itself reads the node's record and all snapshots to
// their end, Entries the log. Nothing in dir is changed, and until Close no node can
// open it.
//
// Errors: ErrLocked when a node has the directory open, ErrInvalid when there is no
// node's data, ErrForeign when the data are another program's.
func OpenLog(dir string) (*Log, error) {
	l := &Log{meta: unknownRecord, close: func() error { return nil }}
	path := filepath.Join(dir, boltFile)
	switch err := l.lock(path); {
	case err == nil:
		l.Err = l.readFile()
	case errors.Is(err, ErrDamaged):
		l.Err = err
	default:
		return nil, fmt.Errorf("open the log in %s: %w", dir, nameForeign(dir, nil, false, err))
	}
	if l.Err != nil {
		l.Err = fmt.Errorf("%s: %w", path, l.Err)
	}
	err := l.readSnapshots(dir)
	if err == nil && l.meta.Format == 0 {
		err = l.checkForeign(dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the log in %s: %w", dir, err), l.Close())
	}
	return l, nil
}

// Close lets go of the directory. No Entries may be under way.
func (l *Log) Close() error {
	l.check = nil
	return l.close()
}

// checkForeign returns ErrForeign for a directory without a record if a start would.
func (l *Log) checkForeign(dir string) error {
	var found LogStore
	base, _, err := readBolt(filepath.Join(dir, boltFile), lockPatience)
	if err == nil && base != nil {
		defer base.Close()
		found = base
		_, err = openLogStore(base, logStoreOptions{cacheBytes: 1, fail: func(error) {}})
	}
	if err = nameForeign(dir, found, false, err); errors.Is(err, ErrForeign) {
		return err
	}
	return nil // all else has its place in the Log
}

// lock keeps nodes away from the file at path, and opens it.
func (l *Log) lock(path string) error {
	found, err := findBolt(path)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: there is no node's data", ErrInvalid)
	}
	locked, err := lockBolt(path, time.Second)
	if err != nil {
		return err
	}
	info, err := locked.file.Stat()
	if err != nil {
		return errors.Join(err, locked.Close())
	}
	l.close = locked.Close
	l.check = &boltCheck{file: locked.file, size: info.Size()}
	return nil
}

// readFile finds what is in the file. It is not bbolt that reads it, which panics on
// damage.
func (l *Log) readFile() error {
	meta, damage := l.check.readMetas()
	if meta.root == 0 {
		l.check = nil
		return fmt.Errorf("%w: %w", ErrDamaged, damage)
	}
	conf, logs, err := l.check.buckets(meta.root)
	if err != nil {
		l.check = nil
		return fmt.Errorf("%w: %w", ErrDamaged, errors.Join(damage, err))
	}
	l.bucket = logs
	if damage != nil {
		damage = fmt.Errorf("%w: %w", ErrDamaged, damage)
	}
	return errors.Join(damage, l.readRecord(conf))
}

// unknownRecord stands for a record that cannot be read: it allows everything.
var unknownRecord = metadata{ChecksummedFrom: math.MaxUint64}

func (l *Log) readRecord(conf boltElement) error {
	values := map[string][]byte{}
	damage := l.check.walkBucket(conf, boltWalk{visit: func(e boltElement) error {
		values[string(e.key)] = e.value
		return checkConfKey(e)
	}})
	if damage != nil {
		damage = fmt.Errorf("%w: read the node's record: %w", ErrDamaged, damage)
	}
	m := metadata{Raft: values} // hraftd's, if there is no record
	if stored, found := values[string(metadataKey)]; found {
		var err error
		if m, err = decodeMetadata(stored); err != nil {
			return err
		}
		l.meta = m
	}
	l.Node = LogNode{
		ID: m.ID, Identity: m.Identity, Cluster: m.Cluster,
		Term: m.number("CurrentTerm"), VotedTerm: m.number("LastVoteTerm"), VotedFor: string(raftTransport{}.DecodePeer(m.Raft["LastVoteCand"])),
	}
	return damage
}

// number is one of raft's values; 0: it is not there.
func (m metadata) number(key string) uint64 {
	if value := m.Raft[key]; len(value) == 8 {
		return binary.BigEndian.Uint64(value)
	}
	return 0
}

var errStop = errors.New("no more is wanted")

// walk takes w through the log.
func (l *Log) walk(w boltWalk) error {
	check := *l.check
	check.seen = make([]bool, check.pages)
	return check.walkBucket(l.bucket, w)
}

func (l *Log) readSnapshots(path string) error {
	dir, err := openSnapshotDir(path)
	var found []fs.DirEntry
	if err == nil {
		defer dir.Close()
		found, err = dir.ReadDir()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list snapshots: %w", err)
	}
	remembered := l.meta.Snapshot
	var newest snapshotMark
	for _, entry := range found {
		if !entry.IsDir() || strings.HasSuffix(entry.Name(), snapshotTmp) {
			continue
		}
		s, mark := l.readSnapshot(dir, filepath.Join(path, snapshotsDir, entry.Name()))
		l.Snapshots = append(l.Snapshots, s)
		if mark.compare(newest, remembered) > 0 {
			newest = mark
		}
	}
	listed := slices.ContainsFunc(l.Snapshots, func(s LogSnapshot) bool { return s.ID == remembered.ID })
	if newest.olderThan(remembered) && !listed {
		err := fmt.Errorf("%w: snapshot %s is missing, but this node completed it", ErrDamaged, remembered.ID)
		l.Snapshots = append(l.Snapshots, LogSnapshot{ID: remembered.ID, Index: remembered.Index, Term: remembered.Term, Size: remembered.Size, Err: err})
	}
	slices.SortFunc(l.Snapshots, func(a, b LogSnapshot) int {
		return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
	})
	if l.check != nil && l.Err == nil && l.Node == (LogNode{}) && len(l.Snapshots) > 0 {
		l.Err = fmt.Errorf("%w: there is snapshot %s, but %s is empty", ErrDamaged, l.Snapshots[0].ID, boltFile)
	}
	return nil
}

func (l *Log) readSnapshot(dir snapshotDir, path string) (LogSnapshot, snapshotMark) {
	s := LogSnapshot{ID: filepath.Base(path)}
	meta, mark, err := verifySnapshotFiles(dir, s.ID, func(r io.Reader) error {
		in := bufio.NewReader(r)
		if isLegacySnapshot(in) {
			pairs, err := readLegacySnapshot(in)
			s.Keys = uint64(len(pairs))
			return err
		}
		head, counts, err := scanSnapshot(in)
		s.Cluster, s.Version, s.Keys, s.Requests = head.cluster, counts.revision, counts.keys, counts.requests+counts.callers
		return err
	})
	if remembered := l.meta.Snapshot; err == nil && mark.ID == remembered.ID && mark != remembered {
		err = errNotCompleted
	}
	switch {
	case errors.Is(err, errNewer):
		s.Err = fmt.Errorf("snapshot %s: %w", path, err)
	case err != nil:
		s.Err = fmt.Errorf("%w: snapshot %s: %w", ErrDamaged, path, err)
	}
	s.Index, s.Term, s.Size, s.Members = mark.Index, mark.Term, mark.Size, logMembers(meta.Configuration)
	return s, mark
}

// snapshotEnd is the index at which the newest snapshot ends that there is or was.
func (l *Log) snapshotEnd() uint64 {
	end := l.meta.Snapshot.Index
	for _, s := range l.Snapshots {
		end = max(end, s.Index)
	}
	return end
}

// Entries reads the log from index from to index to, both included, and verifies
// what it reads. An error, which wraps [ErrDamaged], says what is wrong: with the entry
// beside it, which then has what can be read, or with a place where entries should be,
// and then that has the first index and no Type. The log goes on behind it. Memory is
// used for about one entry.
func (l *Log) Entries(from, to uint64) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		if l.check == nil {
			return // Err says why
		}
		r := &logReader{log: l, from: from, to: to, yield: yield}
		err := l.walk(boltWalk{visit: r.visit, skip: r.skip})
		if err != nil {
			err = r.skip(nil, err)
		}
		if err == nil {
			r.end()
		}
	}
}

// logReader reads the log once.
type logReader struct {
	log      *Log
	from, to uint64
	yield    func(LogEntry, error) bool

	next   uint64 // the index at which the log should go on; 0: not known yet
	term   uint64 // of the last entry
	unread error  // why entries before the one that comes could not be read
}

func (r *logReader) visit(e boltElement) error {
	if err := checkLogKey(e); err != nil {
		return err
	}
	index := binary.BigEndian.Uint64(e.key)
	if !r.bridge(index) || index > r.to {
		return errStop
	}
	r.next = index + 1
	if index < r.from {
		return nil
	}
	if !r.yield(r.read(index, e.value)) {
		return errStop
	}
	return nil
}

// skip takes note of a page that cannot be read.
func (r *logReader) skip(low []byte, err error) error {
	if errors.Is(err, errStop) {
		return err
	}
	if r.unread == nil {
		r.unread = err
	}
	if r.next == 0 && len(low) == 8 {
		r.next = binary.BigEndian.Uint64(low)
	}
	return nil
}

// bridge reports what is missing before index. It returns false when no more is wanted.
func (r *logReader) bridge(index uint64) bool {
	low, unread := r.next, r.unread
	r.unread = nil
	snapshot := r.log.snapshotEnd()
	switch {
	case unread != nil:
		return r.report(low, index-1, fmt.Errorf("%s: %w", span(low, index-1), unread))
	case low == 0 && index > snapshot+1:
		return r.report(snapshot+1, index-1, fmt.Errorf("the log starts at entry %d, the newest snapshot ends at %d", index, snapshot))
	case low != 0 && low < index:
		return r.report(low, index-1, fmt.Errorf("%s: missing", span(low, index-1)))
	}
	return true
}

func span(low, high uint64) string {
	if low >= high {
		return fmt.Sprintf("entry %d", low)
	}
	return fmt.Sprintf("entries %d to %d", low, high)
}

// end reports what is missing at the end.
func (r *logReader) end() {
	next, tail := max(r.next, 1), r.log.meta.Tail
	switch {
	case r.unread != nil:
		r.report(next, math.MaxUint64, fmt.Errorf("entries from %d on: %w", next, r.unread))
	case next <= tail:
		r.report(next, tail, fmt.Errorf("the log ends at entry %d, but entries up to %d were stored", next-1, tail))
	}
}

// report tells that something is wrong with the entries low to high, if they are wanted.
func (r *logReader) report(low, high uint64, err error) bool {
	if high < r.from || low > r.to {
		return true
	}
	return r.yield(LogEntry{Index: max(low, r.from)}, fmt.Errorf("%w: %w", ErrDamaged, err))
}

// read decodes and verifies one entry.
func (r *logReader) read(index uint64, stored []byte) (LogEntry, error) {
	var entry raft.Log
	err := contain(func() error { return codec.NewDecoderBytes(stored, new(codec.MsgpackHandle)).Decode(&entry) })
	if err != nil {
		return LogEntry{Index: index, Size: len(stored)}, fmt.Errorf("%w: read entry %d: %w", ErrDamaged, index, err)
	}
	meta := &r.log.meta
	err = meta.verifyEntry(&entry, index)
	if err == nil && r.log.Err == nil && meta.Format == 0 && len(entry.Extensions) > 0 { // hraftd's have none
		err = fmt.Errorf("%w: entry %d is kvraft's, and the node's record is missing", ErrDamaged, index)
	}
	if current := meta.number("CurrentTerm"); err == nil && meta.Format > 0 && (entry.Term < r.term || entry.Term > current) {
		err = fmt.Errorf("%w: entry %d is of term %d, between ones of term %d and the node's term %d", ErrDamaged, index, entry.Term, r.term, current)
	}
	r.term = entry.Term
	return logEntry(index, &entry), err
}

func logEntry(index uint64, entry *raft.Log) LogEntry {
	e := LogEntry{
		Index: index,
		Term:  entry.Term,
		Type:  strings.ToLower(strings.TrimPrefix(entry.Type.String(), "Log")),
		Size:  len(entry.Data),
	}
	if len(entry.Extensions) == checksumSize && entry.Extensions[0] == checksumTag {
		e.Checksummed, e.Checksum = true, binary.BigEndian.Uint32(entry.Extensions[1:])
	}
	switch entry.Type {
	case raft.LogCommand:
		e.Requests, e.Unknown = logRequests(entry.Data)
	case raft.LogConfiguration:
		e.Unknown = contain(func() error {
			e.Members = logMembers(raft.DecodeConfiguration(entry.Data))
			return nil
		})
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

func logOp(op command.Op) LogOp { return LogOp{kinds[op.Kind], op.Key, op.Value, op.Version} }

func logMembers(c raft.Configuration) (members []LogMember) {
	for _, m := range c.Servers {
		id, identity, _ := strings.Cut(string(m.ID), "#")
		members = append(members, LogMember{id, identity, roster.DialAddr(string(m.Address)), m.Suffrage == raft.Voter})
	}
	return members
}
