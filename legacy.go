package kvraft

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/state"
)

// A directory of hraftd's is taken over by the first start on it. It has a raft.db
// as kvraft has, without checksums and without a record, whose commands are JSON,
// and snapshots that are one JSON object. They stay as they are: to write the record
// is all that makes the directory kvraft's, in one operation, and until then hraftd
// could go on from it. Entries below ChecksummedFrom are read as hraftd's for as
// long as they are there, and so is a snapshot, until the next one replaces it.
//
// hraftd has members whose ServerID is the bare id, and they keep it, in a cluster
// without an id. The first of them that leads takes a note of one, see nameCluster.
// Until a node has applied that it is nameless, and knows the others by its
// configuration alone; see judge.

// readHraftds reads into m, which is no record yet, what raft has kept in the base
// store.
func (l *logStore) readHraftds(m *metadata) error {
	last, err := l.base.LastIndex()
	if err != nil {
		return fmt.Errorf("%w: find the last entry: %w", ErrDamaged, err)
	}
	m.ChecksummedFrom = last + 1
	for _, key := range raftKeys {
		value, err := getStable(l.base, key)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if len(value) > 0 {
			m.Raft[string(key)] = bytes.Clone(value)
		}
	}
	if _, err := l.GetUint64([]byte("LastVoteTerm")); err != nil && err != errKeyNotFound {
		return err
	}
	return nil
}

// isOld reports whether the entry at index may be one of hraftd's.
func (m *metadata) isOld(index uint64) bool { return index < m.ChecksummedFrom }

// verifyLegacy stands in for the checksum that an entry of hraftd's lacks: it must
// be one that can be applied.
func verifyLegacy(entry *raft.Log) (err error) {
	switch entry.Type {
	case raft.LogNoop, raft.LogBarrier:
	case raft.LogCommand:
		_, err = command.DecodeLegacy(entry.Data)
	case raft.LogConfiguration:
		_, err = decodeConfiguration(entry.Data)
	case raft.LogAddPeerDeprecated, raft.LogRemovePeerDeprecated:
		odd := fmt.Sprintf("entry %d is of type %v, from before raft's protocol version 3, as hraftd of 2016 wrote it: such a log cannot be taken over", entry.Index, entry.Type)
		return fmt.Errorf("%w: %w", ErrDamaged, unfamiliar(odd))
	default:
		err = fmt.Errorf("it is of type %v", entry.Type)
	}
	if err != nil {
		return fmt.Errorf("%w: entry %d: %w", ErrDamaged, entry.Index, err)
	}
	return nil
}

// decodeConfiguration is raft's, which panics.
func decodeConfiguration(data []byte) (config raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return raft.DecodeConfiguration(data), nil
}

// dropSevered deletes the entries in front of a gap. A follower of hraftd's that was
// sent a snapshot kept what it had in its log before, and went on behind the
// snapshot. The rest of the log has been found to fit the snapshot.
func (l *logStore) dropSevered() error {
	if l.severed == 0 {
		return nil
	}
	first, _ := l.bounds()
	for low := l.severed; low < first; low += deleteChunk {
		if err := l.deleteStored(low, min(low+deleteChunk, first)-1); err != nil {
			return err
		}
	}
	l.severed = 0
	return nil
}

// adopt writes the record of a node whose newest snapshot is newest. It is the
// first operation that changes anything, and the only one that is needed.
func (s *snapshotStore) adopt(newest snapshotMark) error {
	err := s.logs.updateMeta(func(m *metadata) { m.ID, m.Snapshot = s.owner, newest })
	if err != nil {
		return fmt.Errorf("take over from hraftd: %w", err)
	}
	s.logs.hraftds = false
	return nil
}

// whose tells which member the node is.
func (s *snapshotStore) whose(newest snapshotMark) (id string, err error) {
	if s.logs.whose == nil {
		return "", fmt.Errorf("%w: this is the data of hraftd, which a node takes over when it is started on it", ErrInvalid)
	}
	config, err := s.newestConfiguration(newest)
	if err == nil {
		id, err = s.logs.whose(config)
	}
	if err != nil {
		err = fmt.Errorf("take over from hraftd: %w", err)
	}
	return id, err
}

// newestConfiguration is that of the log, or of the snapshot.
func (s *snapshotStore) newestConfiguration(newest snapshotMark) (raft.Configuration, error) {
	var meta snapshotMeta
	if newest.ID != "" {
		var err error
		if meta, _, err = readSnapshotMeta(s.dir, newest.ID); err != nil {
			return raft.Configuration{}, err
		}
	}
	first, last := s.logs.bounds()
	for index := last; index >= first && index > meta.ConfigurationIndex; index-- {
		var entry raft.Log
		if err := s.logs.GetLog(index, &entry); err != nil {
			return raft.Configuration{}, err
		}
		if entry.Type == raft.LogConfiguration {
			return decodeConfiguration(entry.Data)
		}
	}
	return meta.Configuration, nil
}

// whose tells which member a directory of hraftd's is. It does not say so itself:
// hraftd was told its id by each command line, or took the address of its peers for
// it.
func (o *options) whose(config raft.Configuration) (string, error) {
	var ids []string
	for _, m := range config.Servers {
		if err := checkID(string(m.ID)); err != nil {
			return "", fmt.Errorf("%w: a cluster with such a member cannot be taken over; set its keys in a new one", err)
		}
		ids = append(ids, string(m.ID))
	}
	if len(ids) == 0 {
		return "", fmt.Errorf("%w: it has no configuration, as a node has that never joined or whose raft is older than protocol version 3; empty the directory and let the node join", ErrInvalid)
	}
	if o.id != "" && !slices.Contains(ids, o.id) {
		return "", fmt.Errorf("%w: no member has the id %q; its members are %s", ErrInvalid, o.id, strings.Join(ids, ", "))
	}
	for _, id := range []string{o.id, o.advertise, o.addr} {
		if slices.Contains(ids, id) {
			return id, nil
		}
	}
	if len(ids) > 1 {
		return "", fmt.Errorf("%w: it does not say which of the members it is, %s: name its id, as hraftd was told it (WithID, kvd -id)", ErrInvalid, strings.Join(ids, ", "))
	}
	return ids[0], nil
}

// verifyOldSnapshot is verifySnapshot for one that may be hraftd's.
func verifyOldSnapshot(r io.Reader) error {
	in := bufio.NewReader(r)
	if !isLegacySnapshot(in) {
		return verifySnapshot(in)
	}
	_, err := readLegacySnapshot(in)
	return err
}

func isLegacySnapshot(r *bufio.Reader) bool {
	first, err := r.Peek(1)
	return err == nil && first[0] == '{'
}

func readLegacySnapshot(r io.Reader) (pairs map[string]string, err error) {
	in := json.NewDecoder(r)
	if err := in.Decode(&pairs); err != nil {
		return nil, fmt.Errorf("read snapshot of hraftd: %w", err)
	}
	if _, err := in.Token(); err != io.EOF {
		return nil, errors.New("read snapshot of hraftd: bytes behind its end")
	}
	return pairs, nil
}

// translated makes a snapshot of hraftd's one of kvraft's, for this node and for any
// that is sent it.
func translated(meta *raft.SnapshotMeta, content io.ReadCloser) (*raft.SnapshotMeta, io.ReadCloser, error) {
	in := bufio.NewReader(content)
	if !isLegacySnapshot(in) {
		return meta, struct {
			io.Reader
			io.Closer
		}{in, content}, nil
	}
	defer content.Close()
	pairs, err := readLegacySnapshot(in)
	if err != nil {
		return nil, nil, err
	}
	var out bytes.Buffer
	head := snapshotHeader{index: meta.Index, term: meta.Term}
	if err := writeSnapshot(context.Background(), &out, head, state.NewLegacy(pairs).View()); err != nil {
		return nil, nil, err
	}
	meta.Size = int64(out.Len())
	return meta, io.NopCloser(&out), nil
}

// sample tells an entry of a log from any other at its index and of its term: in one
// cluster there is none.
type sample struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	Sum   uint32 `json:"sum"`
}

func sampleOf(entry *raft.Log) sample {
	sum := appendChecksum(nil, entry)
	return sample{entry.Index, entry.Term, binary.BigEndian.Uint32(sum[1:])}
}

// samples are from all over the log; on a node that was taken over, from what is left
// of hraftd's.
func (l *logStore) samples() (all []sample) {
	const most = 16
	first, last := l.bounds()
	if end := l.record.Load().ChecksummedFrom; end > 0 {
		last = min(last, end-1)
	}
	step := (last-first)/most + 1
	for index := last; index >= first && index > 0; index -= min(step, index) {
		var entry raft.Log
		if l.GetLog(index, &entry) == nil { // else it was compacted meanwhile, or the node stops
			all = append(all, sampleOf(&entry))
		}
	}
	return all
}

// knowsNameless tells what speaks against a dialer that is nameless, or that dials
// this node which is. Its id must be a member's, as far as this node knows. Members
// of another cluster may have the same ids, if that was hraftd's too: they have other
// entries in their logs.
func (s *members) knowsNameless(o opening) error {
	if !s.lists(o.From) {
		return fmt.Errorf("node %s, taken over from hraftd, has no member %s in its cluster", s.server, o.From)
	}
	for _, theirs := range o.Log {
		var entry raft.Log
		if first, _ := s.logs.bounds(); theirs.Index < first || s.logs.GetLog(theirs.Index, &entry) != nil {
			continue
		}
		if entry.Term == theirs.Term && sampleOf(&entry) != theirs {
			return fmt.Errorf("the log of node %s has another entry %d than that of node %s: they are of two clusters of hraftd's with the same ids", o.From, theirs.Index, s.server)
		}
	}
	return nil
}

// nameNote is the note of the id of a cluster that was hraftd's.
const nameNote = "cluster"

// nameCluster takes a note of the cluster's id, as the leader, unless there is one.
// It is taken once: when an entry of this leader's term is in its state, so is all
// that was committed before, and what another leader may have written and this one
// does not see never will be. Nor does it begin again before it knows what became of
// its own.
func (s *members) nameCluster(ctx context.Context) error {
	unlock, err := s.lockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.awaitOwnTerm(ctx); err != nil {
		return err
	}
	if s.note(nameNote) != "" {
		return nil
	}
	return s.writeNote(nameNote, cmp.Or(s.self().cluster, roster.NewIdentity()))
}

// learnName gives a nameless node the id of its cluster, when its state has it.
func (s *joiner) learnName() {
	if !s.logs.meta().isNameless() {
		return
	}
	named := func(a *applied) bool { return a.view.Note(nameNote) != "" }
	if err := s.fsm.await(s.ctx, named); err != nil {
		return // the store stops
	}
	cluster := s.note(nameNote)
	if err := s.logs.updateMeta(func(m *metadata) { m.Cluster = cluster }); err != nil {
		return // likewise
	}
	s.log.Info("the cluster that was taken over from hraftd has an id", "cluster", cluster)
}

// seekLeader is for a nameless node, which is a member already. It asks to join all
// the same when it hears of no leader: it may have been removed.
func (s *joiner) seekLeader() error {
	if !s.isLeaderless() {
		return nil
	}
	if err := s.askToJoin(); errors.Is(err, ErrRefused) {
		return err
	}
	return s.findTrouble()
}
