package kvraft

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math"
	"slices"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/pace"
	"github.com/kvraft/kvraft/internal/state"
)

// A snapshot is a stream, written and read in one pass:
//
//	magic, whose last byte is the version of the format
//	cluster, index, term, revision, floor, number of keys, number of requests
//	from version 3: floor and number of the callers' requests
//	from version 2: number of notes, and for each, in order: name, text
//	for each key, in order:       key, value, version
//	for each request remembered:  id (16 bytes), log index, result code, result version
//	for each of a caller's:       id (16 bytes), digest (8 bytes), log index, result code, result version
//	CRC-32C of all before it (4 bytes, big endian)
//
// Version 3 holds any state, 2 and 1 one that is Unmarked, and 1 has no notes. Numbers are uvarints; strings have their length before them.

var crc32c = crc32.MakeTable(crc32.Castagnoli)

var snapshotMagic = [7]byte{'k', 'v', 's', 'n', 'a', 'p', 0}

// The versions of the format. A snapshot has the lowest that can hold it.
const (
	snapshotPlain       = 1
	snapshotWithNotes   = 2
	snapshotWithCallers = 3
)

func snapshotVersion(view state.View) byte {
	switch {
	case !view.Unmarked():
		return snapshotWithCallers
	case view.NotesLen() > 0:
		return snapshotWithNotes
	}
	return snapshotPlain
}

type snapshotHeader struct {
	cluster     string // empty when written before the cluster had an id
	index, term uint64 // of the newest entry in it; raft does not tell them to a state machine that restores
}

// snapshotCounts is what a snapshot says of its state.
type snapshotCounts struct {
	revision, floor, keys, requests uint64
	callersFloor, callers           uint64 // zero before version 3
}

// writeSnapshot writes view to w, which it does not close, or gives up when ctx
// ends.
func writeSnapshot(ctx context.Context, w io.Writer, head snapshotHeader, view state.View) error {
	out := &snapshotWriter{ctx: ctx, w: bufio.NewWriterSize(w, pace.PieceBytes), sum: crc32.New(crc32c)}
	version, own, callers := snapshotVersion(view), view.Own(), view.Callers()
	out.write(append(snapshotMagic[:], version))
	out.string(head.cluster)
	out.numbers(head.index, head.term, view.Revision(), own.Floor, uint64(view.Len()), uint64(own.Len))
	if version >= snapshotWithCallers {
		out.numbers(callers.Floor, uint64(callers.Len))
	}
	if version >= snapshotWithNotes {
		out.numbers(uint64(view.NotesLen()))
	}
	view.Notes(func(name, text string) bool {
		out.string(name)
		out.string(text)
		return out.err == nil
	})
	view.Ascend("", func(key string, item state.Item) bool {
		out.string(key)
		out.bytes(item.Bytes())
		out.numbers(item.Version)
		return out.err == nil
	})
	own.All(func(r state.Remembered) bool {
		out.write(r.ID[:])
		out.numbers(r.Index, uint64(r.Result.Code), r.Result.Version)
		return out.err == nil
	})
	callers.All(func(r state.Remembered) bool {
		out.write(r.ID[:])
		out.write(r.Digest[:])
		out.numbers(r.Index, uint64(r.Result.Code), r.Result.Version)
		return out.err == nil
	})
	out.write(binary.BigEndian.AppendUint32(nil, out.sum.Sum32()))
	if out.err != nil {
		return fmt.Errorf("write snapshot: %w", out.err)
	}
	if err := out.w.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// snapshotWriter keeps the first error, so that its callers need not.
type snapshotWriter struct {
	ctx context.Context
	w   *bufio.Writer
	sum hash.Hash32
	buf []byte
	err error
}

func (s *snapshotWriter) write(b []byte) {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err != nil {
		return
	}
	s.sum.Write(b)
	_, s.err = s.w.Write(b)
}

func (s *snapshotWriter) numbers(ns ...uint64) {
	s.buf = s.buf[:0]
	for _, n := range ns {
		s.buf = binary.AppendUvarint(s.buf, n)
	}
	s.write(s.buf)
}

func (s *snapshotWriter) bytes(b []byte) {
	s.numbers(uint64(len(b)))
	s.write(b)
}

func (s *snapshotWriter) string(text string) {
	s.numbers(uint64(len(text)))
	s.buf = append(s.buf[:0], text...)
	s.write(s.buf)
}

// readSnapshot reads what writeSnapshot wrote, to the end of r. It trusts
// nothing before the checksum has been compared.
func readSnapshot(r *bufio.Reader) (snapshotHeader, *state.State, error) {
	in := &snapshotReader{r: r}
	var loader *state.Loader
	head, err := in.read(func(counts snapshotCounts) *state.Loader {
		loader = state.NewLoader(counts.revision, counts.floor)
		return loader
	})
	if err != nil {
		return head, nil, fmt.Errorf("read snapshot: %w", err)
	}
	return head, loader.State(), nil
}

// verifyNewSnapshot reads a snapshot that is being written, before anything counts on it:
// a state machine that could not restore it would keep the node from starting ever again.
func (s *Store) verifyNewSnapshot(meta raft.SnapshotMeta, r io.Reader) error {
	head, _, err := scanSnapshot(r)
	if err != nil {
		return err
	}
	if err := checkCluster(head, s.node.Self().Cluster); err != nil {
		return err
	}
	if head.index > meta.Index || head.term > meta.Term {
		return fmt.Errorf("its state is that of index %d, term %d, and it is to end at index %d, term %d", head.index, head.term, meta.Index, meta.Term)
	}
	return nil
}

// checkCluster returns why a snapshot is not this cluster's. Either may have no id yet.
func checkCluster(head snapshotHeader, ours string) error {
	if head.cluster != "" && ours != "" && head.cluster != ours {
		return fmt.Errorf("snapshot of cluster %s, this node belongs to %s", head.cluster, ours)
	}
	return nil
}

// verifySnapshot refuses what readSnapshot does, and builds no state.
func verifySnapshot(r io.Reader) error {
	_, _, err := scanSnapshot(r)
	return err
}

// scanSnapshot is verifySnapshot, and tells what the snapshot says of itself, as far
// as it can be read.
func scanSnapshot(r io.Reader) (head snapshotHeader, counts snapshotCounts, err error) {
	in := &snapshotReader{r: bufio.NewReaderSize(r, 1<<20)}
	head, err = in.read(func(c snapshotCounts) *state.Loader {
		counts = c
		return state.NewChecker(c.revision, c.floor)
	})
	if err != nil {
		err = fmt.Errorf("read snapshot: %w", err)
	}
	return head, counts, err
}

// snapshotReader keeps the first error: after it everything reads as zero.
type snapshotReader struct {
	r   *bufio.Reader
	sum uint32
	buf []byte // of bytes
	err error
}

func (s *snapshotReader) read(begin func(snapshotCounts) *state.Loader) (head snapshotHeader, err error) {
	var opening [len(snapshotMagic) + 1]byte
	s.fill(opening[:])
	version := opening[len(snapshotMagic)]
	switch {
	case s.err != nil:
		return head, s.err
	case [len(snapshotMagic)]byte(opening[:]) != snapshotMagic:
		return head, errors.New("not a kvraft snapshot")
	case version > snapshotWithCallers:
		return head, fmt.Errorf("%w (format %d, this version reads up to %d)", errs.Newer, version, snapshotWithCallers)
	case version < snapshotPlain:
		return head, fmt.Errorf("format version %d", version)
	}
	head.cluster = string(s.bytes())
	head.index, head.term = s.number(), s.number()
	counts := snapshotCounts{revision: s.number(), floor: s.number(), keys: s.number(), requests: s.number()}
	if version >= snapshotWithCallers {
		counts.callersFloor, counts.callers = s.number(), s.number()
	}
	to := begin(counts)
	if version >= snapshotWithCallers {
		to.SetCallersFloor(counts.callersFloor)
	}
	if version >= snapshotWithNotes {
		s.notes(to, version)
	}
	for keys := counts.keys; keys > 0 && s.err == nil; keys-- {
		key := string(s.bytes()) // before value overwrites it
		value, version := s.bytes(), s.number()
		s.check(func() error { return to.Add(key, value, version) })
	}
	s.requests(counts.requests, false, to.Remember)
	s.requests(counts.callers, true, to.RememberCaller)
	return head, s.end()
}

func (s *snapshotReader) notes(to *state.Loader, version byte) {
	notes := s.number()
	if notes == 0 && version == snapshotWithNotes {
		s.check(func() error { return errors.New("no notes in a format for notes") })
	}
	for ; notes > 0 && s.err == nil; notes-- {
		name := string(s.bytes())
		text := string(s.bytes())
		s.check(func() error { return to.Note(name, text) })
	}
}

func (s *snapshotReader) requests(n uint64, digests bool, remember func(state.Remembered) error) {
	for ; n > 0 && s.err == nil; n-- {
		var r state.Remembered
		s.fill(r.ID[:])
		if digests {
			s.fill(r.Digest[:])
		}
		index, code, version := s.number(), s.number(), s.number()
		if code > math.MaxUint8 {
			s.check(func() error { return fmt.Errorf("result code %d", code) })
		}
		r.Index, r.Result = index, command.Result{Code: command.Code(code), Version: version}
		s.check(func() error { return remember(r) })
	}
}

// end compares the checksum and makes sure that nothing follows it.
func (s *snapshotReader) end() error {
	want := s.sum
	var sum [4]byte
	s.fill(sum[:])
	if s.err != nil {
		return s.err
	}
	if binary.BigEndian.Uint32(sum[:]) != want {
		return errors.New("checksum mismatch")
	}
	if _, err := s.r.ReadByte(); err != io.EOF {
		return errors.New("bytes behind its end")
	}
	return nil
}

func (s *snapshotReader) check(f func() error) {
	if s.err == nil {
		s.err = f()
	}
}

func (s *snapshotReader) fill(b []byte) {
	if s.err != nil {
		clear(b)
		return
	}
	if _, s.err = io.ReadFull(s.r, b); s.err == io.EOF {
		s.err = io.ErrUnexpectedEOF
	}
	s.sum = crc32.Update(s.sum, crc32c, b)
}

func (s *snapshotReader) number() uint64 {
	if s.err != nil {
		return 0
	}
	b, err := s.r.Peek(binary.MaxVarintLen64) // an error says that there are fewer, and comes again if more are needed
	n, size := binary.Uvarint(b)
	switch {
	case size < 0 || size == 0 && err == nil:
		s.err = errors.New("a number of more than 64 bits")
	case size == 0 && err == io.EOF:
		s.err = io.ErrUnexpectedEOF
	case size == 0:
		s.err = err
	case size > 1 && b[size-1] == 0:
		s.err = errors.New("a number longer than it need be")
	default:
		s.sum = crc32.Update(s.sum, crc32c, b[:size])
		_, s.err = s.r.Discard(size)
		return n
	}
	return 0
}

// bytes reads a length and so many bytes, which the next call overwrites. A damaged
// length must not allocate more than there is to read.
func (s *snapshotReader) bytes() []byte {
	const trusted = 1 << 20
	n := s.number()
	b := s.buf[:0]
	for s.err == nil && uint64(len(b)) < n {
		had, step := len(b), int(min(n-uint64(len(b)), trusted))
		b = slices.Grow(b, step)[:had+step]
		s.fill(b[had:])
	}
	s.buf = b
	return b
}

// AlreadyHave reports whether this node has all that a snapshot brings: its state
// is past it, or its log holds the last entry of it. Where the state ends with it, raft
// must know that too: when it completes a snapshot of its own just after it has installed
// one, it takes the end of its own for that of the log, and only the same snapshot again
// sets it right.
func (f raftFilter) AlreadyHave(req *raft.InstallSnapshotRequest) (bool, error) {
	s := f.s
	term := s.node.Raft.CurrentTerm()
	if req.Term < term {
		return false, nil // raft refuses it
	}
	var last raft.Log
	found := s.node.Logs.GetLog(req.LastLogIndex, &last) == nil && last.Term == req.LastLogTerm
	at := s.Index()
	if !found && (at < req.LastLogIndex || at == req.LastLogIndex && s.node.Raft.LastIndex() < at) {
		return false, nil
	}
	if req.Term > term {
		return true, fmt.Errorf("this node has the snapshot, and has yet to hear a heartbeat of term %d", req.Term)
	}
	return true, nil
}

// verifyOldSnapshot is verifySnapshot for one that may be hraftd's.
func verifyOldSnapshot(r io.Reader) error {
	in := bufio.NewReader(r)
	if !disk.IsHraftdSnapshot(in) {
		return verifySnapshot(in)
	}
	_, err := disk.ReadHraftdSnapshot(in)
	return err
}

// translated makes a snapshot of hraftd's one of kvraft's, for this node and for any
// that is sent it.
func translated(meta *raft.SnapshotMeta, content io.ReadCloser) (*raft.SnapshotMeta, io.ReadCloser, error) {
	in := bufio.NewReader(content)
	if !disk.IsHraftdSnapshot(in) {
		return meta, struct {
			io.Reader
			io.Closer
		}{in, content}, nil
	}
	defer content.Close()
	pairs, err := disk.ReadHraftdSnapshot(in)
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

// mayCut tells why the log must not end before the entry from, or nil: what is in the
// state is committed. Messages that would cut it are refused; this is for what they
// bring about together. Where a snapshot takes the place of the whole log it has been
// completed before.
func (s *Store) mayCut(from uint64) error {
	at := s.Index()
	if from > at {
		return nil
	}
	list, err := s.node.Snapshots.List()
	if err != nil {
		return err
	}
	if len(list) > 0 && list[0].Index >= at {
		return nil
	}
	return fmt.Errorf("the state has the entries up to %d: what is committed is not deleted", at)
}
