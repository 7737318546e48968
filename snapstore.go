package kvraft

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Names that raft's file snapshot store gives.
const (
	snapshotsDir      = "snapshots"
	snapshotMetaFile  = "meta.json"
	snapshotStateFile = "state.bin"
	snapshotTmp       = ".tmp"
)

// snapshotStore guards raft's file snapshot store, which passes over a snapshot
// that it cannot read, so that a node would silently start from an older state,
// or from none.
type snapshotStore struct {
	files raft.SnapshotStore
	path  string
	logs  *logStore
}

// openSnapshots opens the snapshots in dir, reads all of them to the end, and
// returns an error that wraps [ErrDamaged] and names the directory if one
// cannot be read, if verify refuses its state, or if the newest is older than
// the one that the node remembers. It keeps retain snapshots, two at least: the
// newest must not vanish while it is sent to a follower. The log is made to fit
// the newest snapshot, so this comes before raft starts.
func openSnapshots(dir string, retain int, logs *logStore, verify func(io.Reader) error, logger hclog.Logger) (raft.SnapshotStore, error) {
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, max(retain, 2), logger)
	if err != nil {
		return nil, fmt.Errorf("open the snapshots in %s: %w", dir, err)
	}
	if err := syncDir(dir); err != nil {
		return nil, fmt.Errorf("open the snapshots in %s: %w", dir, err)
	}
	s := &snapshotStore{files: files, path: filepath.Join(dir, snapshotsDir), logs: logs}
	newest, err := s.load(verify)
	if err != nil {
		return nil, err
	}
	if err := logs.alignWith(newest.Index, newest.Term); err != nil {
		return nil, err
	}
	if err := logs.dropSevered(); err != nil {
		return nil, err
	}
	return s, nil
}

// load verifies every snapshot and returns the newest one, which from then on
// is the remembered one.
func (s *snapshotStore) load(verify func(io.Reader) error) (newest snapshotMark, err error) {
	found, err := os.ReadDir(s.path)
	if err != nil {
		return snapshotMark{}, fmt.Errorf("list snapshots: %w", err)
	}
	remembered := s.logs.meta().Snapshot
	for _, entry := range found {
		path := filepath.Join(s.path, entry.Name())
		if strings.HasSuffix(path, snapshotTmp) {
			if err := os.RemoveAll(path); err != nil {
				return snapshotMark{}, fmt.Errorf("remove an unfinished snapshot: %w", err)
			}
			continue
		}
		if !entry.IsDir() {
			continue
		}
		_, mark, err := verifySnapshotFiles(path, verify)
		if err == nil && mark.ID == remembered.ID && mark != remembered {
			err = errors.New("not what was completed here under that name")
		}
		if err != nil {
			return snapshotMark{}, fmt.Errorf("%w: snapshot %s: %w", ErrDamaged, path, err)
		}
		if s.logs.fresh {
			return snapshotMark{}, fmt.Errorf("%w: there is snapshot %s, but %s is empty", ErrDamaged, path, s.logs.name)
		}
		if newest.ID == "" || mark.compare(newest) > 0 {
			newest = mark
		}
	}
	if newest.olderThan(remembered) {
		return snapshotMark{}, s.older(newest, remembered)
	}
	switch {
	case s.logs.foreign:
		return newest, s.adopt(newest)
	case newest == remembered:
		return newest, nil
	}
	return newest, s.remember(newest)
}

// compare orders snapshots as raft does.
func (m snapshotMark) compare(other snapshotMark) int {
	return cmp.Or(cmp.Compare(m.Term, other.Term), cmp.Compare(m.Index, other.Index), cmp.Compare(m.ID, other.ID))
}

func (m snapshotMark) olderThan(other snapshotMark) bool {
	return m.Term < other.Term || m.Index < other.Index
}

func (s *snapshotStore) older(newest, remembered snapshotMark) error {
	if newest.ID == "" {
		return fmt.Errorf("%w: there is no snapshot in %s, but this node completed %s", ErrDamaged, s.path, remembered.ID)
	}
	return fmt.Errorf("%w: newest snapshot in %s is %s, but this node completed %s: refusing to start from older state", ErrDamaged, s.path, newest.ID, remembered.ID)
}

// remember records mark, unless a newer snapshot was installed meanwhile.
func (s *snapshotStore) remember(mark snapshotMark) error {
	return s.logs.rewriteMeta(func(m *metadata) bool {
		if mark.olderThan(m.Snapshot) {
			return false
		}
		m.Snapshot = mark
		return true
	})
}

// verifySnapshotFiles reads the snapshot in dir to its end and changes nothing:
// check reads what is inside, and raft's CRC-64 is compared. With an error it
// returns what could be read.
func verifySnapshotFiles(dir string, check func(io.Reader) error) (meta snapshotMeta, mark snapshotMark, err error) {
	meta, mark, err = readSnapshotMeta(dir)
	if err != nil {
		return meta, mark, err
	}
	if id := filepath.Base(dir); mark.ID != id || !strings.HasPrefix(id, fmt.Sprintf("%d-%d-", mark.Term, mark.Index)) {
		return meta, mark, fmt.Errorf("its %s is that of %s, term %d, index %d", snapshotMetaFile, mark.ID, mark.Term, mark.Index)
	}
	state, err := os.Open(filepath.Join(dir, snapshotStateFile))
	if err != nil {
		return meta, mark, err
	}
	defer state.Close()
	counted := &countingReader{r: state, sum: crc64.New(crc64.MakeTable(crc64.ECMA))}
	if err := check(counted); err != nil {
		return meta, mark, err
	}
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return meta, mark, err
	}
	if counted.n != mark.Size {
		return meta, mark, fmt.Errorf("%d bytes of state, %d expected", counted.n, mark.Size)
	}
	if !bytes.Equal(counted.sum.Sum(nil), meta.CRC) {
		return meta, mark, errors.New("CRC mismatch")
	}
	return meta, mark, nil
}

type countingReader struct {
	r   io.Reader
	n   int64
	sum hash.Hash
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.sum.Write(p[:n])
	return n, err
}

// snapshotMeta is what raft writes into a snapshot's meta.json.
type snapshotMeta struct {
	raft.SnapshotMeta
	CRC []byte // CRC-64 of the state
}

// readMark reads the mark of the snapshot id.
func (s *snapshotStore) readMark(id string) (snapshotMark, error) {
	_, mark, err := readSnapshotMeta(filepath.Join(s.path, id))
	return mark, err
}

// readSnapshotMeta reads the meta.json of the snapshot in dir.
func readSnapshotMeta(dir string) (meta snapshotMeta, mark snapshotMark, err error) {
	stored, err := os.ReadFile(filepath.Join(dir, snapshotMetaFile))
	if err != nil {
		return meta, mark, err
	}
	if err := json.Unmarshal(stored, &meta); err != nil {
		return snapshotMeta{}, mark, fmt.Errorf("%s: %w", snapshotMetaFile, err)
	}
	return meta, snapshotMark{meta.ID, meta.Index, meta.Term, meta.Size, crc32.Checksum(stored, castagnoli)}, nil
}

// Create starts a snapshot. Errors in writing one, such as a full disk, do not
// stop the node: raft logs them and tries again later.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.files.Create(version, index, term, configuration, configurationIndex, trans)
	if err != nil {
		return nil, err
	}
	return &snapshotSink{SnapshotSink: sink, store: s}, nil
}

// List returns the newest snapshot only: from a list, raft would fall back to
// an older one, whose successors are no longer in the log.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	if err := s.logs.failure(); err != nil {
		return nil, err
	}
	// In this order: a snapshot is in the list before it is remembered.
	remembered := s.logs.meta().Snapshot
	all, err := s.files.List()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		all = []*raft.SnapshotMeta{{}}
	}
	newest := snapshotMark{ID: all[0].ID, Index: all[0].Index, Term: all[0].Term}
	if newest.olderThan(remembered) {
		return nil, s.unlisted(newest, remembered)
	}
	if newest.ID == "" {
		return nil, nil
	}
	return all[:1], nil
}

// unlisted tells why the remembered snapshot is not in raft's list, which passes
// over those it cannot read: if it is lost the node stops, but not for a lack
// of file descriptors.
func (s *snapshotStore) unlisted(newest, remembered snapshotMark) error {
	mark, err := s.readMark(remembered.ID)
	if err == nil && mark == remembered {
		return fmt.Errorf("snapshot %s could not be listed", remembered.ID)
	}
	if errors.As(err, new(syscall.Errno)) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.logs.stop(s.older(newest, remembered))
}

// Open returns the state of a snapshot, once its checksum was found right.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if err := s.logs.failure(); err != nil {
		return nil, nil, err
	}
	meta, content, err := s.files.Open(id)
	if err != nil || !s.logs.meta().isLegacy() {
		return meta, content, err
	}
	return translated(meta, content)
}

// snapshotSink writes one snapshot, whose mark is remembered when it is
// complete. Close and Cancel answer as the first of them did: whoever persists
// the state may close the sink, and raft does so again and believes the answer.
type snapshotSink struct {
	raft.SnapshotSink
	store *snapshotStore
	state *os.File // its state, for Sync; nil: not opened yet
	ended bool
	err   error // what Close answers once ended
}

var (
	errSnapshotCancelled = errors.New("snapshot was cancelled")

	// errSnapshotOvertaken is for raft, which would else take the one that it has
	// written itself for the newest, whatever the leader has sent meanwhile: it would
	// refuse each entry behind that, for want of the one before.
	errSnapshotOvertaken = errors.New("a newer snapshot has come from the leader meanwhile")
)

// Sync puts what was written on stable storage. The rest of the snapshot follows
// with Close.
func (s *snapshotSink) Sync() (err error) {
	if s.state == nil {
		// raft keeps its own handle to itself.
		s.state, err = os.OpenFile(filepath.Join(s.store.path, s.ID()+snapshotTmp, snapshotStateFile), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
	}
	return s.state.Sync()
}

// closeState cannot lose anything: raft syncs the file itself when it is complete.
func (s *snapshotSink) closeState() {
	if s.state != nil {
		s.state.Close()
	}
}

func (s *snapshotSink) Close() error {
	if s.ended {
		return s.err
	}
	s.ended = true
	s.closeState()
	if s.err = s.SnapshotSink.Close(); s.err != nil {
		s.err = errors.Join(s.err, s.removeUnfinished())
		return s.err
	}
	mark, err := s.store.readMark(s.ID())
	if err == nil {
		err = s.store.remember(mark)
	}
	if err == nil && mark.olderThan(s.store.logs.meta().Snapshot) {
		err = errSnapshotOvertaken
	}
	s.err = err
	return s.err
}

func (s *snapshotSink) Cancel() error {
	if s.ended {
		return nil
	}
	s.ended, s.err = true, errSnapshotCancelled
	s.closeState()
	return errors.Join(s.SnapshotSink.Cancel(), s.removeUnfinished())
}

// removeUnfinished removes what raft leaves when it cannot write: on a full
// disk it must not stay.
func (s *snapshotSink) removeUnfinished() error {
	return os.RemoveAll(filepath.Join(s.store.path, s.ID()+snapshotTmp))
}
