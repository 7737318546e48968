package snapshots

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
)

// memory keeps the newest complete snapshot of a node that lives in
// memory. (raft's own lists a snapshot before it is written, and one that was
// cancelled too.)
type memory struct {
	codec Codec

	mu     sync.Mutex // guards the following
	newest *memorySnapshot
	made   int // numbers the ids
}

type memorySnapshot struct {
	meta  raft.SnapshotMeta
	state []byte // never changed once complete
}

// OpenInMemory returns a store without a snapshot. It refuses a node
// that remembers having completed one.
func OpenInMemory(logs *disk.Log, codec Codec) (Store, error) {
	if mark := logs.Stable().Record().Snapshot; mark.ID != "" {
		return nil, fmt.Errorf("%w: this node completed snapshot %s, which was in memory only", errs.Damaged, mark.ID)
	}
	if err := logs.CheckFollows(disk.SnapshotMark{}); err != nil {
		return nil, err
	}
	return &memory{codec: codec}, nil
}

// Settle, SettleLog and Close have nothing to do.
func (*memory) Settle() error    { return nil }
func (*memory) SettleLog() error { return nil }
func (*memory) Close() error     { return nil }

func (m *memory) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.made++
	return &memorySink{store: m, snapshot: memorySnapshot{meta: raft.SnapshotMeta{
		Version:            version,
		ID:                 fmt.Sprintf("%d-%d-%d", term, index, m.made),
		Index:              index,
		Term:               term,
		Configuration:      configuration.Clone(),
		ConfigurationIndex: configurationIndex,
	}}}, nil
}

func (m *memory) List() ([]*raft.SnapshotMeta, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.newest == nil {
		return nil, nil
	}
	meta := m.newest.meta
	return []*raft.SnapshotMeta{&meta}, nil
}

func (m *memory) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.newest == nil || m.newest.meta.ID != id {
		return nil, nil, fmt.Errorf("snapshot %s is gone", id)
	}
	meta := m.newest.meta
	return &meta, io.NopCloser(bytes.NewReader(m.newest.state)), nil
}

// memorySink writes one snapshot; see sink for Close and Cancel.
type memorySink struct {
	store    *memory
	snapshot memorySnapshot
	ended    bool
	err      error
}

func (s *memorySink) ID() string { return s.snapshot.meta.ID }

func (s *memorySink) Write(p []byte) (int, error) {
	if s.ended {
		return 0, errors.New("snapshot has ended")
	}
	s.snapshot.state = append(s.snapshot.state, p...)
	return len(p), nil
}

func (s *memorySink) Close() error {
	if s.ended {
		return s.err
	}
	s.ended = true
	if err := s.store.codec.VerifyNew(s.snapshot.meta, bytes.NewReader(s.snapshot.state)); err != nil {
		s.err = fmt.Errorf("what was written is no snapshot: %w", err)
		return s.err
	}
	s.snapshot.meta.Size = int64(len(s.snapshot.state))
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if newest := s.store.newest; newest != nil && newest.meta.Index > s.snapshot.meta.Index {
		s.err = errOvertaken
		return s.err
	}
	s.store.newest = &s.snapshot
	return nil
}

func (s *memorySink) Cancel() error {
	if s.ended {
		return nil
	}
	s.ended, s.err = true, errCancelled
	return nil
}
