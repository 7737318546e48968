package snapshots

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
)

// Names that raft's file snapshot store gives.
const (
	metaFile  = "meta.json"
	stateFile = "state.bin"
	tmpSuffix = ".tmp"

	// What follows is raft's and its older versions' to pass over.

	reapedSuffix  = ".reaped" + tmpSuffix  // a snapshot that is being removed
	damagedSuffix = ".damaged" + tmpSuffix // one that cannot be read, and need not be
)

// files keeps the snapshots of a node in files, in the form that raft's file
// snapshot store gives them. That one passes over a snapshot that it cannot read, so
// that a node would silently start from an older state, or from none. Here one snapshot
// counts: the newest that was completed, which the node's record remembers.
type files struct {
	dir    directory
	path   string
	retain int
	logs   *disk.Log
	log    hclog.Logger
	codec  Codec

	found survey // by the start

	// mu is held while directories get other names: when an id is chosen, and from the
	// completion of a snapshot until it is remembered and older ones are removed.
	mu sync.Mutex
}

// Open opens the snapshots in dir, reads all of them to the end, and
// returns an error that wraps [errs.Damaged] and names the directory if one
// cannot be read, if the codec refuses its state, if the newest is older than
// the one that the node remembers, or if the log does not go on behind it. One that cannot
// be read and is no newer than the newest that can be is passed over with a warning:
// nothing is lost with it. It writes nothing.
//
// It keeps retain snapshots, two at least: the newest must not vanish while it is sent to
// a follower.
func Open(dir string, retain int, logs *disk.Log, codec Codec, logger hclog.Logger) (Store, error) {
	path := filepath.Join(dir, boltlog.SnapshotsDir)
	found, err := openDirectory(path)
	if err != nil {
		return nil, fmt.Errorf("open the snapshots in %s: %w", dir, err)
	}
	s := &files{
		dir:    found,
		path:   path,
		retain: max(retain, 2),
		logs:   logs,
		log:    logger,
		codec:  codec,
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close lets go of the directory.
func (s *files) Close() error { return s.dir.Close() }

func (s *files) load() (err error) {
	if s.found, err = s.survey(); err != nil {
		return err
	}
	if s.logs.IsHraftds() {
		if err := s.findOwner(s.found.newest); err != nil {
			return err
		}
	}
	return s.logs.CheckFollows(s.found.newest)
}

// Settle makes the directory, the node's record and its log fit what was found. It is the
// first to write, and comes before raft starts.
func (s *files) Settle() error {
	if err := s.dir.Sync("."); err != nil { // what is removed now has been replaced by what is there
		return fmt.Errorf("open the snapshots in %s: %w", s.path, err)
	}
	if err := s.SettleLog(); err != nil {
		return err
	}
	if err := s.tidy(); err != nil {
		return fmt.Errorf("tidy %s: %w", s.path, err)
	}
	return nil
}

// findOwner finds out whose the data of hraftd's are.
func (s *files) findOwner(newest disk.SnapshotMark) (err error) {
	var meta header
	if newest.ID != "" {
		if meta, _, err = readHeader(s.dir, newest.ID); err != nil {
			return fmt.Errorf("take over from hraftd: %w", err)
		}
	}
	return s.logs.FindOwner(meta.Configuration, meta.ConfigurationIndex)
}

// SettleLog is Settle for what the log store keeps.
func (s *files) SettleLog() error { return s.logs.Settle(s.found.newest) }

// survey is what a survey has found.
type survey struct {
	newest     disk.SnapshotMark
	unfinished []string
	unreadable []string // but no newer than newest
}

// remembered is the newest snapshot that was completed here, as the record has it.
func (s *files) remembered() disk.SnapshotMark { return s.logs.Stable().Record().Snapshot }

// survey verifies every snapshot, and changes nothing.
func (s *files) survey() (found survey, err error) {
	entries, err := s.dir.ReadDir()
	if err != nil {
		return found, fmt.Errorf("list snapshots: %w", err)
	}
	remembered := s.remembered()
	damage := map[string]error{}
	for _, entry := range entries {
		id := entry.Name()
		switch {
		case !entry.IsDir() || strings.HasSuffix(id, damagedSuffix):
			continue
		case strings.HasSuffix(id, tmpSuffix):
			found.unfinished = append(found.unfinished, id)
			continue
		}
		_, mark, err := verifyFiles(s.dir, id, remembered, s.codec.Verify)
		if isNoDamage(err) || errors.Is(err, errs.Newer) {
			return found, fmt.Errorf("snapshot %s: %w", filepath.Join(s.path, id), err)
		}
		if err != nil {
			damage[id] = fmt.Errorf("%w: snapshot %s: %w", errs.Damaged, filepath.Join(s.path, id), err)
			continue
		}
		if s.logs.IsNew() {
			return found, fmt.Errorf("%w: there is snapshot %s, but %s is empty", errs.Damaged, filepath.Join(s.path, id), s.logs.Name())
		}
		if mark.Compare(found.newest, remembered) > 0 {
			found.newest = mark
		}
	}
	return found, s.judgeFound(&found, damage)
}

// judgeFound decides whether the node can start from what was found.
func (s *files) judgeFound(found *survey, damage map[string]error) error {
	remembered := s.remembered()
	for _, id := range slices.Sorted(maps.Keys(damage)) {
		name, ok := parseName(id)
		if !ok || id == remembered.ID || found.newest.ID == "" || found.newest.OlderThan(name.mark()) {
			return damage[id]
		}
		s.log.Warn("an old snapshot cannot be read, and is set aside; the newest one is whole", "error", damage[id])
		found.unreadable = append(found.unreadable, id)
	}
	switch {
	case !found.newest.OlderThan(remembered):
	case found.newest.ID == "":
		return fmt.Errorf("%w: there is no snapshot in %s, but this node completed %s", errs.Damaged, s.path, remembered.ID)
	default:
		return fmt.Errorf("%w: newest snapshot in %s is %s, but this node completed %s: refusing to start from older state", errs.Damaged, s.path, found.newest.ID, remembered.ID)
	}
	if term := s.logs.Stable().Term(); found.newest.Term > term {
		return fmt.Errorf("%w: snapshot %s is of term %d, but %s has come to term %d only: it is older than the snapshots", errs.Damaged, filepath.Join(s.path, found.newest.ID), found.newest.Term, s.logs.Name(), term)
	}
	return nil
}

// tidy removes what was left unfinished, and sets aside what cannot be read.
func (s *files) tidy() (err error) {
	if s.dir, err = s.dir.Make(); err != nil {
		return err
	}
	for _, name := range s.found.unfinished {
		if err := s.dir.RemoveAll(name); err != nil {
			return fmt.Errorf("remove an unfinished snapshot: %w", err)
		}
	}
	for _, id := range s.found.unreadable {
		if err := s.dir.Rename(id, id+damagedSuffix); err != nil {
			return fmt.Errorf("set aside a snapshot: %w", err)
		}
	}
	return s.dir.Sync(".")
}

var errNotCompleted = errors.New("not what was completed here under that name")

// Create starts a snapshot. Most errors in writing one, such as a full disk, do not
// stop the node: raft logs them and tries again later.
func (s *files) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	if err := s.logs.Err(); err != nil {
		return nil, err
	}
	if version != 1 {
		return nil, fmt.Errorf("unsupported snapshot version %d", version)
	}
	peers, err := encodePeers(configuration, trans)
	if err != nil {
		return nil, fmt.Errorf("encode the members: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := s.newID(term, index)
	if err != nil {
		return nil, s.judge(err)
	}
	sink, err := s.newSink(raft.SnapshotMeta{
		Version:            version,
		ID:                 id,
		Index:              index,
		Term:               term,
		Peers:              peers,
		Configuration:      configuration,
		ConfigurationIndex: configurationIndex,
	})
	if err != nil {
		return nil, s.judge(err)
	}
	return sink, nil
}

// newID is for a snapshot that ends at an entry, at which others may end as well. It is
// after theirs, whatever the clock says: older versions, and raft, take the last one.
func (s *files) newID(term, index uint64) (string, error) {
	entries, err := s.dir.ReadDir()
	if err != nil {
		return "", err
	}
	id := name{term, index, time.Now().UnixMilli()}
	for _, entry := range entries {
		name, _, _ := strings.Cut(entry.Name(), ".")
		if other, ok := parseName(name); ok && other.term == term && other.index == index {
			id.number = max(id.number, other.number+1)
		}
	}
	return id.String(), nil
}

// judge stops the node when err says that its disk is failing, and returns err.
func (s *files) judge(err error) error {
	if errors.Is(err, syscall.EIO) {
		return s.logs.Fail(fmt.Errorf("write a snapshot in %s: %w", s.path, err))
	}
	return err
}

// complete gives a snapshot whose files are on stable storage its name, remembers it, and
// removes those that are older. One that is not remembered does not stay.
func (s *files) complete(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.dir.Rename(id+tmpSuffix, id); err != nil {
		return errors.Join(s.judge(err), s.discard(id+tmpSuffix), s.retire(id))
	}
	err := s.dir.Sync(".")
	var mark disk.SnapshotMark
	if err == nil {
		_, mark, err = readHeader(s.dir, id)
	}
	if err != nil {
		return errors.Join(s.judge(err), s.retire(id))
	}
	if err := s.logs.Stable().Remember(mark); err != nil {
		return err // it may be remembered all the same; the node stops
	}
	if s.remembered() != mark {
		return errors.Join(errOvertaken, s.retire(id))
	}
	s.reap(mark)
	return nil
}

// discard removes what was left unfinished, for the disk to have its room back; once the
// node has stopped, the next start does.
func (s *files) discard(name string) error {
	if s.logs.Err() != nil {
		return nil
	}
	return s.dir.RemoveAll(name)
}

// retire removes a snapshot. It loses its name first, so that a crash leaves none of
// which a part is missing.
func (s *files) retire(id string) error {
	if s.logs.Err() != nil {
		return nil
	}
	err := s.dir.Rename(id, id+reapedSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.discard(id + reapedSuffix)
}

// reap removes the snapshots that newest, which is remembered, has replaced, but for the
// newest of them, and what is left of such. An error has nothing to do with newest: the
// next snapshot brings another try.
func (s *files) reap(newest disk.SnapshotMark) {
	entries, err := s.dir.ReadDir()
	var older []disk.SnapshotMark
	for _, entry := range entries {
		id := entry.Name()
		if strings.HasSuffix(id, reapedSuffix) || strings.HasSuffix(id, damagedSuffix) {
			err = errors.Join(err, s.dir.RemoveAll(id))
		}
		if name, ok := parseName(id); ok && id != newest.ID {
			older = append(older, name.mark())
		}
	}
	slices.SortFunc(older, func(a, b disk.SnapshotMark) int { return b.Compare(a, newest) })
	for _, mark := range older[min(s.retain-1, len(older)):] {
		err = errors.Join(err, s.retire(mark.ID))
	}
	if err != nil {
		s.log.Warn("old snapshots stay for now", "error", s.judge(err))
	}
}

// List returns the newest snapshot only: from a list, raft would fall back to
// an older one, whose successors are no longer in the log.
func (s *files) List() ([]*raft.SnapshotMeta, error) {
	for {
		if err := s.logs.Err(); err != nil {
			return nil, err
		}
		remembered := s.remembered()
		if remembered.ID == "" {
			return nil, nil
		}
		meta, mark, err := readHeader(s.dir, remembered.ID)
		if err == nil && mark != remembered {
			err = errNotCompleted
		}
		switch {
		case err == nil:
			return []*raft.SnapshotMeta{&meta.SnapshotMeta}, nil
		case s.remembered() == remembered: // else newer ones may have replaced it meanwhile
			return nil, s.unreadable(remembered.ID, err)
		}
	}
}

// unreadable returns why the remembered snapshot cannot be read. The node stops, but not
// for a lack of file descriptors.
func (s *files) unreadable(id string, err error) error {
	err = fmt.Errorf("snapshot %s: %w", filepath.Join(s.path, id), err)
	switch {
	case errors.Is(err, syscall.EIO):
		return s.logs.Fail(err)
	case isNoDamage(err):
		return err
	}
	return s.logs.Fail(fmt.Errorf("%w: %w", errs.Damaged, err))
}

// isNoDamage reports whether err is the system's, such as a lack of file descriptors,
// and tells nothing about what the files hold.
func isNoDamage(err error) bool {
	return errors.As(err, new(syscall.Errno)) && !errors.Is(err, fs.ErrNotExist)
}

// Open returns the state of a snapshot, once its checksum was found right.
func (s *files) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if err := s.logs.Err(); err != nil {
		return nil, nil, err
	}
	meta, content, err := s.open(id)
	if err != nil && s.remembered().ID == id {
		err = s.unreadable(id, err)
	}
	if err != nil || s.codec.Translate == nil {
		return meta, content, err
	}
	return s.codec.Translate(meta, content)
}

func (s *files) open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, _, err := verifyFiles(s.dir, id, s.remembered(), func(io.Reader) error { return nil })
	if err != nil {
		return nil, nil, err
	}
	state, err := s.dir.Open(id + "/" + stateFile)
	if err != nil {
		return nil, nil, err
	}
	return &meta.SnapshotMeta, state, nil
}
