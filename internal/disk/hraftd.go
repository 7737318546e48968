package disk

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

// A directory of hraftd's is taken over by the first start on it. It has a raft.db
// with all of the log, without checksums and without a record, whose commands are JSON,
// and snapshots that are one JSON object. The entries are copied into segments as they
// are, see files; to write the record, which names the copy, is what makes the directory
// kvraft's, in one operation, and until then hraftd could go on from it. Entries below
// ChecksummedFrom are read as hraftd's for as long as they are there, and so is a
// snapshot, until the next one replaces it.

// readHraftds reads into m, which is no record yet, what raft has kept in the base
// store, and reports whether there is anything.
func (s *Stable) readHraftds(m *Record) (found bool, err error) {
	last, err := s.base.LastIndex()
	if err != nil {
		return false, fmt.Errorf("%w: %w", errs.Damaged, err)
	}
	for _, key := range boltlog.RaftKeys {
		value, err := getStable(s.base, key)
		if err != nil {
			return false, fmt.Errorf("%w: %w", errs.Damaged, err)
		}
		if len(value) > 0 {
			m.Raft[string(key)] = bytes.Clone(value)
		}
	}
	if last == 0 && len(m.Raft) == 0 {
		return false, nil
	}
	m.ChecksummedFrom = last + 1
	if _, err := s.GetUint64([]byte("LastVoteTerm")); err != nil && err != errKeyNotFound {
		return true, err
	}
	return true, nil
}

// isOld reports whether the entry at index may be one of hraftd's.
func (m *Record) isOld(index uint64) bool { return index < m.ChecksummedFrom }

// verifyLegacy stands in for the checksum that an entry of hraftd's lacks: it must
// be one that can be applied.
func verifyLegacy(entry *raft.Log) (err error) {
	switch entry.Type {
	case raft.LogNoop, raft.LogBarrier:
	case raft.LogCommand:
		_, err = command.DecodeLegacy(entry.Data)
	case raft.LogConfiguration:
		_, err = DecodeConfiguration(entry.Data)
	case raft.LogAddPeerDeprecated, raft.LogRemovePeerDeprecated:
		odd := fmt.Sprintf("entry %d is of type %v, from before raft's protocol version 3, as hraftd of 2016 wrote it: such a log cannot be taken over", entry.Index, entry.Type)
		return fmt.Errorf("%w: %w", errs.Damaged, errs.Unfamiliar(odd))
	default:
		err = fmt.Errorf("it is of type %v", entry.Type)
	}
	if err != nil {
		return fmt.Errorf("%w: entry %d: %w", errs.Damaged, entry.Index, err)
	}
	return nil
}

// dropSevered deletes the entries in front of a gap. A follower of hraftd's that was
// sent a snapshot kept what it had in its log before, and went on behind the
// snapshot. It comes before alignWith, which may delete that too: what is left in front
// would be taken for the beginning of the log.
func (l *Log) dropSevered() error {
	if l.severed == 0 {
		return nil
	}
	first, _ := l.Bounds()
	return l.deletePrefix(l.severed, first-1)
}

func IsHraftdSnapshot(r *bufio.Reader) bool {
	first, err := r.Peek(1)
	return err == nil && first[0] == '{'
}

func ReadHraftdSnapshot(r io.Reader) (pairs map[string]string, err error) {
	in := json.NewDecoder(r)
	if err := in.Decode(&pairs); err != nil {
		return nil, fmt.Errorf("read snapshot of hraftd: %w", err)
	}
	if _, err := in.Token(); err != io.EOF {
		return nil, errors.New("read snapshot of hraftd: bytes behind its end")
	}
	return pairs, nil
}

// FindOwner finds out which member the node is, by the newest configuration: that of the
// log, or config, which the newest snapshot has from entry index. For a log of hraftd's.
func (l *Log) FindOwner(config raft.Configuration, index uint64) (err error) {
	if l.whose == nil {
		return fmt.Errorf("%w: this is the data of hraftd, which a node takes over when it is started on it", errs.Invalid)
	}
	if config, err = newestConfiguration(l, config, index); err == nil {
		l.owner, err = l.whose(config)
	}
	if err != nil {
		return fmt.Errorf("take over from hraftd: %w", err)
	}
	return nil
}

func newestConfiguration(l *Log, config raft.Configuration, from uint64) (raft.Configuration, error) {
	first, last := l.Bounds()
	for index := last; index >= first && index > from; index-- {
		var entry raft.Log
		if err := l.GetLog(index, &entry); err != nil {
			return config, err
		}
		if entry.Type == raft.LogConfiguration {
			return DecodeConfiguration(entry.Data)
		}
	}
	return config, nil
}

// takeOver writes the record of a node whose newest snapshot is newest. What came before
// it has changed nothing that hraftd reads; from here on the log is the copy.
func (l *Log) takeOver(newest SnapshotMark) error {
	err := l.stable.Update(func(m *Record) { m.ID, m.Snapshot, m.Log = l.owner, newest, l.logName })
	if err == nil {
		err = l.base.Adopt(l.logName)
	}
	if err != nil {
		return fmt.Errorf("take over from hraftd: %w", err)
	}
	l.hraftds = false
	return nil
}

// SampleOf tells an entry from any that another cluster has in its place.
func SampleOf(entry *raft.Log) roster.Sample {
	sum := appendChecksum(nil, entry)
	return roster.Sample{Index: entry.Index, Term: entry.Term, Sum: binary.BigEndian.Uint32(sum[1:])}
}

// Samples are from all over the log; on a node that was taken over, from what is left
// of hraftd's.
func (l *Log) Samples() (all []roster.Sample) {
	const most = 16
	first, last := l.Bounds()
	if end := l.stable.record.Load().ChecksummedFrom; end > 0 {
		last = min(last, end-1)
	}
	step := (last-first)/most + 1
	for index := last; index >= first && index > 0; index -= min(step, index) {
		var entry raft.Log
		if l.GetLog(index, &entry) == nil { // else it was compacted meanwhile, or the node stops
			all = append(all, SampleOf(&entry))
		}
	}
	return all
}
