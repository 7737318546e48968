package kvraft

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/state"
)

// hashOf is the hash of all that a view holds.
func hashOf(v state.View) [sha256.Size]byte {
	sum := sha256.New()
	v.HashTo(sum)
	return [sha256.Size]byte(sum.Sum(nil))
}

// busyState has everything that a snapshot carries: deleted, empty and long
// keys and values, conflicts, and numbers of every length.
func busyState(t testing.TB) *state.State {
	s := state.New()
	apply := func(index uint64, ops ...command.Op) {
		id := command.ID{0: 7, 15: byte(index)}
		for _, result := range s.Apply(index, []command.Request{{ID: id, Ops: ops}}) {
			if result.Code == command.Expired {
				t.Fatal("expired")
			}
		}
	}
	apply(1, command.Op{Kind: command.Set, Key: "color", Value: []byte("green")})
	apply(2, command.Op{Kind: command.Set, Key: "empty", Value: []byte{}}, command.Op{Kind: command.Set, Key: "", Value: []byte("of hraftd")})
	apply(200, command.Op{Kind: command.Check, Key: "color", Version: 9})
	apply(70000, command.Op{Kind: command.Set, Key: "a\x00\xff", Value: bytes.Repeat([]byte{0, 0xff}, 100)})
	apply(1<<40, command.Op{Kind: command.Delete, Key: "color"})
	apply(1<<40+1, command.Op{Kind: command.Note, Key: "b", Value: []byte("2")}, command.Op{Kind: command.Note, Key: "a", Value: []byte("1")})
	return s
}

// callersState is a busy state that has gone on with requests of callers.
func callersState(t testing.TB) *state.State {
	s := busyState(t)
	for i := range uint64(3) {
		index := uint64(1<<40 + 2 + i)
		s.Apply(index, []command.Request{
			{Origin: command.Caller, ID: command.ID{8, byte(i)}, Digest: command.Digest{7: byte(i)}, Born: index - 1,
				Ops: []command.Op{{Kind: command.Check, Key: "empty", Version: 2 * i}, {Kind: command.Set, Key: "by a caller"}}},
			{Origin: command.Own, ID: command.ID{9, byte(i)}, Born: index - 1},
		})
	}
	return s
}

func snapshotBytes(t testing.TB, head snapshotHeader, view state.View) []byte {
	return snapshotWriting{bufio.NewWriterSize(nil, 1<<20)}.bytes(t, head, view)
}

// snapshotWriting and snapshotChecking keep their buffer, which writeSnapshot
// and verifySnapshot would make anew: it costs more than a small snapshot.
type (
	snapshotWriting  struct{ buffer *bufio.Writer }
	snapshotChecking struct{ buffer *bufio.Reader }
)

func (w snapshotWriting) bytes(t testing.TB, head snapshotHeader, view state.View) []byte {
	var b bytes.Buffer
	w.buffer.Reset(&b)
	if err := writeSnapshot(context.Background(), w.buffer, head, view); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (c snapshotChecking) verify(snapshot []byte) error {
	c.buffer.Reset(bytes.NewReader(snapshot))
	return verifySnapshot(c.buffer)
}

func readSnapshotBytes(b []byte) (snapshotHeader, *state.State, error) {
	return readSnapshot(bufio.NewReader(bytes.NewReader(b)))
}

func TestASnapshotBringsBackTheWholeState(t *testing.T) {
	many := state.New()
	for index := range uint64(3000) { // more remembered requests than one chunk holds
		id := command.ID{}
		binary.BigEndian.PutUint64(id[:], index)
		many.Apply(index+1, []command.Request{{ID: id, Ops: []command.Op{{Kind: command.Set, Key: fmt.Sprint("key-", index%500), Value: id[:]}}}})
	}
	large := state.New()
	large.Apply(1, []command.Request{{ID: command.ID{1}, Ops: []command.Op{{Kind: command.Set, Key: "k", Value: bytes.Repeat([]byte("0123456789abcdef"), 3<<16)}}}})
	for name, s := range map[string]*state.State{"nothing": state.New(), "without callers": busyState(t), "everything": callersState(t), "many": many, "large": large} {
		head := snapshotHeader{"c1", 1 << 40, 1<<64 - 1}
		snapshot := snapshotBytes(t, head, s.View())
		gotHead, got, err := readSnapshotBytes(snapshot)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if gotHead != head {
			t.Errorf("%s: header %+v, want %+v", name, gotHead, head)
		}
		if hashOf(got.View()) != hashOf(s.View()) || got.View().Bytes() != s.View().Bytes() {
			t.Errorf("%s: the state differs", name)
		}
		if err := verifySnapshot(bytes.NewReader(snapshot)); err != nil {
			t.Errorf("%s: verify: %v", name, err)
		}
		if again := snapshotBytes(t, gotHead, got.View()); !bytes.Equal(again, snapshot) {
			t.Errorf("%s: written again it has other bytes", name)
		}
		if name == "large" {
			continue // it takes too long
		}
		slow := bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(snapshot)), 16)
		if _, _, err := readSnapshot(slow); err != nil {
			t.Errorf("%s: byte by byte: %v", name, err)
		}
	}
}

// Snapshots on disk outlive the program that wrote them.
func TestTheSnapshotFormatStaysAsItIs(t *testing.T) {
	s := state.New()
	s.Apply(5, []command.Request{{ID: command.ID{1, 15: 2}, Ops: []command.Op{{Kind: command.Set, Key: "color", Value: []byte("green")}}}})
	body := "6b76736e61700001" + // kvsnap, version 1
		"026331" + "ac02" + "03" + // c1, index 300, term 3
		"01" + "00" + "01" + "01" + // revision, floor, keys, requests
		"05636f6c6f72" + "05677265656e" + "01" +
		"01000000000000000000000000000002" + "05" + "06" + "01" // created, at 1
	raw, err := hex.DecodeString(body)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := snapshotBytes(t, snapshotHeader{"c1", 300, 3}, s.View()), sealed(raw); !bytes.Equal(got, want) {
		t.Errorf("\n got %x\nwant %x", got, want)
	}
}

func TestTheSnapshotFormatWithNotesStaysAsItIs(t *testing.T) {
	s := state.New()
	s.Apply(5, []command.Request{{ID: command.ID{1}, Ops: []command.Op{{Kind: command.Note, Key: "n", Value: []byte("1")}}}})
	raw, err := hex.DecodeString("6b76736e61700002" + // kvsnap, version 2
		"026331" + "ac02" + "03" + "00" + "00" + "00" + "01" + // as without notes
		"01" + "016e" + "0131" +
		"01000000000000000000000000000000" + "05" + "00" + "00")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := snapshotBytes(t, snapshotHeader{"c1", 300, 3}, s.View()), sealed(raw); !bytes.Equal(got, want) {
		t.Errorf("\n got %x\nwant %x", got, want)
	}
}

func TestAFlippedBitInAnyByteOfASnapshotIsRefused(t *testing.T) {
	t.Parallel() // each that is read has the memory of a state
	snapshot := snapshotBytes(t, snapshotHeader{"c1", 300, 3}, callersState(t).View())
	checking := snapshotChecking{bufio.NewReaderSize(nil, 1<<20)}
	for i := range snapshot {
		bit := i % 8
		damaged := bytes.Clone(snapshot)
		damaged[i] ^= 1 << bit
		if _, s, err := readSnapshotBytes(damaged); err == nil || s != nil {
			t.Errorf("byte %d bit %d: read as %v, %v", i, bit, s, err)
		}
		if err := checking.verify(damaged); err == nil {
			t.Errorf("byte %d bit %d: verified", i, bit)
		}
	}
}

func TestEveryTruncatedSnapshotIsRefused(t *testing.T) {
	snapshot := snapshotBytes(t, snapshotHeader{"c1", 300, 3}, callersState(t).View())
	for n := range snapshot {
		_, _, readErr := readSnapshotBytes(snapshot[:n])
		verifyErr := verifySnapshot(bytes.NewReader(snapshot[:n]))
		if !errors.Is(readErr, io.ErrUnexpectedEOF) || !errors.Is(verifyErr, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: read %v, verify %v, want an unexpected EOF", n, len(snapshot), readErr, verifyErr)
		}
	}
}

func TestBytesBehindASnapshotAreRefused(t *testing.T) {
	snapshot := snapshotBytes(t, snapshotHeader{"c1", 300, 3}, busyState(t).View())
	for _, tail := range [][]byte{{0}, snapshot} {
		longer := slices.Concat(snapshot, tail)
		if _, _, err := readSnapshotBytes(longer); err == nil || !strings.Contains(err.Error(), "behind its end") {
			t.Errorf("read: %v", err)
		}
		if err := verifySnapshot(bytes.NewReader(longer)); err == nil || !strings.Contains(err.Error(), "behind its end") {
			t.Errorf("verify: %v", err)
		}
	}
}

// plainSnapshot opens a snapshot without notes.
var plainSnapshot = append(snapshotMagic[:len(snapshotMagic):len(snapshotMagic)], snapshotPlain)

// sealed gives body the checksum that belongs to it.
func sealed(body ...[]byte) []byte {
	all := slices.Concat(body...)
	return binary.BigEndian.AppendUint32(all, crc32.Checksum(all, crc32c))
}

func uvarints(ns ...uint64) (b []byte) {
	for _, n := range ns {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func TestASnapshotThatNoStateCanHaveWrittenIsRefusedWhateverItsChecksumSays(t *testing.T) {
	head := func(revision, floor, keys, requests uint64) []byte {
		return slices.Concat(plainSnapshot, uvarints(0, 9, 3, revision, floor, keys, requests))
	}
	key := func(k string, version uint64) []byte {
		return slices.Concat(uvarints(uint64(len(k))), []byte(k), uvarints(0, version))
	}
	request := func(id byte, index, code, version uint64) []byte {
		return slices.Concat([]byte{id}, make([]byte, 15), uvarints(index, code, version))
	}
	callers := func(id byte, index, code, version uint64) []byte {
		return slices.Concat([]byte{id}, make([]byte, 15), make([]byte, 8), uvarints(index, code, version))
	}
	if _, _, err := readSnapshotBytes(sealed([]byte("kvsnap\x00\x03"), uvarints(0, 9, 3, 2, 0, 0, 0, 0, 2, 0), callers(1, 1, 0, 1), callers(2, 2, 1, 2))); err != nil {
		t.Fatalf("one with callers that a state can have written: %v", err)
	}
	if _, _, err := readSnapshotBytes(sealed(head(2, 1, 2, 2), key("a", 1), key("b", 2), request(1, 1, 0, 1), request(2, 2, 1, 2))); err != nil {
		t.Fatalf("one that a state can have written: %v", err)
	}
	for name, snapshot := range map[string][]byte{
		"keys out of order":      sealed(head(2, 0, 2, 0), key("b", 1), key("a", 2)),
		"a key twice":            sealed(head(2, 0, 2, 0), key("a", 1), key("a", 2)),
		"a key without version":  sealed(head(2, 0, 1, 0), key("a", 0)),
		"a key of the future":    sealed(head(2, 0, 1, 0), key("a", 3)),
		"a request twice":        sealed(head(2, 0, 0, 2), request(1, 1, 0, 1), request(1, 2, 0, 2)),
		"requests out of order":  sealed(head(2, 0, 0, 2), request(1, 2, 0, 1), request(2, 1, 0, 2)),
		"a request below floor":  sealed(head(2, 5, 0, 1), request(1, 4, 0, 1)),
		"an expired request":     sealed(head(2, 0, 0, 1), request(1, 1, 2, 1)),
		"an unknown result":      sealed(head(2, 0, 0, 1), request(1, 1, 3, 1)),
		"a key too few":          sealed(head(2, 0, 2, 0), key("a", 1)),
		"a key too many":         sealed(head(2, 0, 1, 0), key("a", 1), key("b", 2)),
		"a number without end":   sealed(plainSnapshot, bytes.Repeat([]byte{0x80}, 20)),
		"a request's without":    sealed(head(1, 0, 0, 2), make([]byte, 16), bytes.Repeat([]byte{0x80}, 16), uvarints(0, 0, 0)),
		"a number over 64 bits":  sealed(plainSnapshot, bytes.Repeat([]byte{0xff}, 9), []byte{2}),
		"another magic":          sealed([]byte("kvsnip\x00\x01"), head(0, 0, 0, 0)[8:]),
		"a future version":       sealed([]byte("kvsnap\x00\x04"), head(0, 0, 0, 0)[8:]),
		"a caller's twice":       sealed([]byte("kvsnap\x00\x03"), uvarints(0, 9, 3, 2, 0, 0, 0, 0, 2, 0), callers(1, 1, 0, 1), callers(1, 2, 0, 2)),
		"callers' out of order":  sealed([]byte("kvsnap\x00\x03"), uvarints(0, 9, 3, 2, 0, 0, 0, 0, 2, 0), callers(1, 2, 0, 1), callers(2, 1, 0, 2)),
		"a refused caller's":     sealed([]byte("kvsnap\x00\x03"), uvarints(0, 9, 3, 2, 0, 0, 0, 0, 1, 0), callers(1, 1, 3, 1)),
		"no notes, though":       sealed([]byte("kvsnap\x00\x02"), uvarints(0, 9, 3, 0, 0, 0, 0, 0)),
		"an empty note":          sealed([]byte("kvsnap\x00\x02"), uvarints(0, 9, 3, 0, 0, 0, 0, 1, 0, 0)),
		"notes out of order":     sealed([]byte("kvsnap\x00\x02"), uvarints(0, 9, 3, 0, 0, 0, 0, 2), []byte("\x01b\x01x\x01a\x01x")),
		"hraftd's JSON":          []byte(`{"color":"green"}`),
		"one that is all zeroes": make([]byte, 1000),
	} {
		if _, s, err := readSnapshotBytes(snapshot); err == nil {
			t.Errorf("%s was read, as %d keys", name, s.View().Len())
		}
	}
}

func TestAFutureSnapshotIsNamedAsSuch(t *testing.T) {
	snapshot := snapshotBytes(t, snapshotHeader{}, state.New().View())
	snapshot[7] = 4
	if _, _, err := readSnapshotBytes(snapshot); err == nil || !strings.Contains(err.Error(), "newer version of kvraft (format 4, this version reads up to 3)") {
		t.Errorf("got %v", err)
	}
}

func TestADamagedLengthAllocatesNoMoreThanThereIsToRead(t *testing.T) {
	for name, body := range map[string][]byte{
		"the cluster": uvarints(1 << 62),
		"a key":       append(uvarints(0, 9, 3, 1, 0, 1, 0), uvarints(1<<62)...),
		"a value":     append(append(uvarints(0, 9, 3, 1, 0, 1, 0, 1), 'k'), uvarints(1<<64-1)...),
		"of keys":     uvarints(0, 9, 3, 1<<63, 0, 1<<63, 1<<63),
		"of requests": uvarints(0, 9, 3, 1<<63, 0, 0, 1<<64-1),
	} {
		snapshot := slices.Concat(plainSnapshot, body, make([]byte, 3000))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, _, err := readSnapshotBytes(snapshot); err == nil {
			t.Errorf("a length of %s: it was read", name)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
			t.Errorf("a length of %s: %d MiB were allocated for 3 KB", name, n>>20)
		}
	}
}

// fullDisk takes so many bytes.
type fullDisk int

func (d *fullDisk) Write(b []byte) (int, error) {
	if len(b) > int(*d) {
		return 0, syscall.ENOSPC
	}
	*d -= fullDisk(len(b))
	return len(b), nil
}

func TestASnapshotThatCannotBeWrittenIsAnError(t *testing.T) {
	large := state.New() // larger than the writer's buffer
	large.Apply(1, []command.Request{{ID: command.ID{1}, Ops: []command.Op{{Kind: command.Set, Key: "k", Value: make([]byte, 3<<20)}}}})
	for name, s := range map[string]*state.State{"small": busyState(t), "large": large} {
		size := len(snapshotBytes(t, snapshotHeader{}, s.View()))
		for _, room := range []int{0, 1, size - 1} {
			disk := fullDisk(room)
			if err := writeSnapshot(context.Background(), &disk, snapshotHeader{}, s.View()); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s with room for %d of %d bytes: got %v", name, room, size, err)
			}
		}
	}
}

func TestAnErrorOfTheDiskIsNotTakenForTheEndOfASnapshot(t *testing.T) {
	snapshot := snapshotBytes(t, snapshotHeader{"c1", 300, 3}, busyState(t).View())
	for n := range len(snapshot) + 1 {
		disk := io.MultiReader(bytes.NewReader(snapshot[:n]), iotest.ErrReader(syscall.EIO))
		if _, _, err := readSnapshot(bufio.NewReader(disk)); err == nil {
			t.Errorf("%d of %d bytes and then an error were read", n, len(snapshot))
		}
	}
}

// Whatever is read as a snapshot is one that writeSnapshot writes: the same
// state gives the same bytes.
func FuzzSnapshot(f *testing.F) {
	empty := snapshotBytes(f, snapshotHeader{}, state.New().View())
	busy := snapshotBytes(f, snapshotHeader{"c1", 300, 3}, busyState(f).View())
	for _, whole := range [][]byte{empty, busy} {
		f.Add(whole, false)
		f.Add(whole[:len(whole)-4], true)
		f.Add(whole[:len(whole)/2], true)
		f.Add(append(bytes.Clone(whole), 0), false)
	}
	f.Add(slices.Concat(plainSnapshot, uvarints(1<<62)), true)
	writing := snapshotWriting{bufio.NewWriterSize(nil, 1<<20)}
	checking := snapshotChecking{bufio.NewReaderSize(nil, 1<<20)}
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		if seal { // with a checksum that fits, so that what is behind it is seen
			data = sealed(data)
		}
		head, s, err := readSnapshotBytes(data)
		if verified := checking.verify(data) == nil; err == nil && !verified {
			t.Fatal("read, and not verified")
		}
		if err != nil {
			if s != nil {
				t.Fatal("an error and a state")
			}
			return
		}
		if again := writing.bytes(t, head, s.View()); !bytes.Equal(again, data) {
			t.Fatalf("read from\n%x, written as\n%x", data, again)
		}
	})
}

func TestASnapshotHasOneEncoding(t *testing.T) {
	for name, b := range map[string][]byte{
		"a longer number":    sealed(plainSnapshot, []byte{0x80, 0}, uvarints(9, 3, 0, 0, 0, 0)),
		"a result code, cut": sealed(plainSnapshot, uvarints(0, 9, 3, 2, 0, 0, 1), make([]byte, 16), uvarints(1, 256, 1)),
	} {
		if _, _, err := readSnapshotBytes(b); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

func TestASnapshotIsGivenUpWhenTheStoreEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	if err := writeSnapshot(ctx, &out, snapshotHeader{}, state.New().View()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	if out.Len() > 0 {
		t.Errorf("%d bytes were written", out.Len())
	}
}

// Whose remedy is another than that of damage, which is to remove the directory.
func TestASnapshotOfANewerVersionIsNotDamaged(t *testing.T) {
	for whole, want := range map[bool]string{true: "written by a newer version of kvraft (format 99", false: "CRC mismatch"} {
		dir := disktest.CopyOf(t, "testdata", ourFixture)
		content, err := os.ReadFile(filepath.Join(dir, fixtureSnapshot, "state.bin"))
		disktest.Must(t, err)
		content[len(snapshotMagic)] = 99
		disktest.Must(t, os.WriteFile(filepath.Join(dir, fixtureSnapshot, "state.bin"), content, 0o600))
		if whole {
			path := filepath.Join(dir, fixtureSnapshot, "meta.json")
			var meta struct{ CRC string }
			header, err := os.ReadFile(path)
			disktest.Must(t, errors.Join(err, json.Unmarshal(header, &meta)))
			sum := crc64.Checksum(content, crc64.MakeTable(crc64.ECMA))
			is := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, sum))
			disktest.Must(t, disktest.ReplaceIn(path, meta.CRC, is))
			header, err = os.ReadFile(path)
			disktest.Must(t, err)
			editRecord(t, dir, func(m *disk.Record) { m.Snapshot.CRC = crc32.Checksum(header, crc32c) })
		}
		before := disktest.Tree(t, dir)
		l, err := OpenLog(dir)
		disktest.Must(t, err)
		disktest.Must(t, l.Close())
		for what, err := range map[string]error{"Open": openAndClose(dir), "Examine": ignore(Examine(dir)), "OpenLog": l.Snapshots[0].Err} {
			if err == nil || errors.Is(err, errs.Damaged) == whole || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", what, err, want)
			}
		}
		disktest.WantSameTree(t, dir, before)
	}
}

// A snapshot that a peer can make up has a right checksum.
func TestASnapshotThatCouldNotBeRestoredIsNotOneThatWasVerified(t *testing.T) {
	good := testState
	at := bytes.Index(good, []byte("\x05key-1")) // its key is then below the one before
	if at < 0 {
		t.Fatal("no such key")
	}
	bad := bytes.Clone(good)
	bad[at+1] = 'a'
	body := bad[:len(bad)-4]
	binary.BigEndian.PutUint32(bad[len(body):], crc32.Checksum(body, crc32c))
	if _, _, err := readSnapshot(bufio.NewReader(bytes.NewReader(bad))); err == nil {
		t.Fatal("it can be restored")
	}
	if err := verifySnapshot(bytes.NewReader(bad)); err == nil {
		t.Error("it was found to be right")
	}
	s := newTestServer(t)
	if err := s.node.Stable().Update(func(m *disk.Record) { m.Cluster = "another" }); err != nil {
		t.Fatal(err)
	}
	meta := raft.SnapshotMeta{Index: 200, Term: 3}
	if err := s.verifyNewSnapshot(meta, bytes.NewReader(good)); err == nil || !strings.Contains(err.Error(), "snapshot of cluster cd") {
		t.Errorf("that of another cluster: %v", err)
	}
	if err := s.node.Stable().Update(func(m *disk.Record) { m.Cluster = "cd" }); err != nil {
		t.Fatal(err)
	}
	if err := s.verifyNewSnapshot(meta, bytes.NewReader(good)); err != nil {
		t.Error(err)
	}
	meta.Index = 199
	if err := s.verifyNewSnapshot(meta, bytes.NewReader(good)); err == nil {
		t.Error("its state is that of a later entry than it ends at")
	}
}
