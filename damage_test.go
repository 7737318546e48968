package kvraft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/snapshots"
	"github.com/kvraft/kvraft/internal/state"
)

// testState is the state in a test's snapshots, which end in their checksum.
var testState = func() []byte {
	s := state.New()
	for i := range 20 {
		s.Apply(uint64(i+1), []command.Request{{ID: command.ID{byte(i)}, Ops: []command.Op{{Kind: command.Set, Key: fmt.Sprint("key-", i), Value: []byte("state")}}}})
	}
	var b bytes.Buffer
	if err := writeSnapshot(context.Background(), &b, snapshotHeader{"cd", 200, 3}, s.View()); err != nil {
		panic(err)
	}
	return b.Bytes()
}()

func verifyTestState(r io.Reader) error {
	got, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(got, testState) {
		err = errors.New("not the state that was persisted")
	}
	return err
}

// testNode is the storage of a node in a directory.
type testNode struct {
	logs  *disk.Log
	snaps raft.SnapshotStore
}

func openTestNode(dir string) (n testNode, err error) {
	var failed error
	n.logs, err = disk.Open(disk.Options{Dir: dir, CacheBytes: 1, Name: filepath.Join(dir, "raft.db"), Fail: func(err error) { failed = err }})
	if err != nil {
		return n, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.logs.Close())
		}
	}()
	if err := n.logs.OpenForWriting(); err != nil {
		return n, err
	}
	snaps, err := snapshots.Open(dir, 2, n.logs, snapshots.Codec{Verify: verifyTestState, VerifyNew: func(_ raft.SnapshotMeta, r io.Reader) error { return verifyTestState(r) }}, hclog.NewNullLogger())
	if err != nil {
		return n, err
	}
	n.snaps = snaps
	return n, errors.Join(snaps.Settle(), n.logs.Tidy(), failed)
}

// contentsOf opens dir as a node would and returns what it reads.
func contentsOf(dir string) (contents string, err error) {
	_, notYet := os.Stat(filepath.Join(dir, "raft.log"))
	n, err := openTestNode(dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, n.logs.Close()) }()
	var all strings.Builder
	m := n.logs.Stable().Record()
	if notYet != nil { // the log that is made has a new name each time
		m.Log = ""
	}
	record, err := m.Encode()
	if err != nil {
		return "", err
	}
	all.Write(record)
	first, last := n.logs.Bounds()
	for i := first; i <= last; i++ {
		var e raft.Log
		if err := n.logs.GetLog(i, &e); err != nil {
			return "", err
		}
		fmt.Fprintf(&all, "%d %d %d %q %x\n", e.Index, e.Term, e.Type, e.Data, e.Extensions)
	}
	list, err := n.snaps.List()
	if err != nil {
		return "", err
	}
	for _, meta := range list {
		_, state, err := n.snaps.Open(meta.ID)
		if err != nil {
			return "", err
		}
		err = errors.Join(verifyTestState(state), state.Close())
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&all, "%+v\n", *meta)
	}
	return all.String(), nil
}

// damageTrial checks that a directory with damaged files is refused, or that
// nothing that is read was damaged.
type damageTrial struct {
	files    map[string][]byte
	contents string
	entries  map[uint64]string
	past     map[uint64][]string // what was stored of each entry, also before it was replaced
	refused  int
}

// newDamageTrial is one with a directory as fillTestDir makes it. old: it is of an older
// version, with the log in raft.db.
func newDamageTrial(t *testing.T, tail, old bool) *damageTrial {
	t.Helper()
	dir := t.TempDir()
	trial := &damageTrial{past: fillTestDir(t, dir, tail)}
	if old {
		moveLogToBolt(t, dir)
	}
	trial.files = disktest.FilesIn(t, dir)
	delete(trial.files, "raft.db.mark") // see with
	seen := readEverything(t, dir)
	if len(seen.damage) > 0 || len(seen.entries) < 300 {
		t.Fatalf("%d entries, %q", len(seen.entries), seen.damage)
	}
	if !old && len(trial.segments()) < 5 {
		t.Fatalf("the log has %d segments", len(trial.segments()))
	}
	trial.entries = seen.entries
	var err error
	if trial.contents, err = contentsOf(dir); err != nil {
		t.Fatal(err)
	}
	return trial
}

// segments are those of the log, from the oldest to the spare one; none in a directory of
// an older version.
func (d *damageTrial) segments() (all []segmentFile) {
	for name, content := range d.files {
		if isSegment(name) {
			all = append(all, parseSegment(name, content))
		}
	}
	slices.SortFunc(all, func(a, b segmentFile) int { return bytes.Compare(a.content[28:36], b.content[28:36]) })
	return all
}

func isSegment(name string) bool { return strings.HasPrefix(name, "raft.log/") }

// with replaces a file; nil: it is removed.
func (d *damageTrial) with(t *testing.T, name string, damaged []byte, what string) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	files := maps.Clone(d.files)
	files[name] = damaged
	if damaged == nil {
		delete(files, name)
	}
	files["raft.db.mark"] = nil // it is a node's, whatever is left of it
	disktest.WriteFiles(t, dir, files)
	seen := readEverything(t, dir)
	contents, err := contentsOf(dir)
	if got, want := len(seen.damage) > 0, errors.Is(err, ErrDamaged); got != want {
		t.Errorf("%s, %s: OpenLog finds %q, a node that starts %v", name, what, seen.damage, err)
	}
	for index, entry := range seen.entries {
		if entry != d.entries[index] && !d.mayBeOfBefore(seen, name, index) {
			t.Errorf("%s, %s: entry %d is read as %s without an error", name, what, index, entry)
		}
	}
	switch {
	case errors.Is(err, ErrDamaged):
		d.refused++
	case err != nil:
		t.Errorf("%s, %s: %v", name, what, err)
	case contents != d.contents:
		t.Errorf("%s, %s: silently read something else", name, what)
	}
}

// mayBeOfBefore reports whether an entry that was read, and is none of the log, is one that
// was deleted, or replaced: damage to a segment can take the frame that says so. There must
// be an error behind it then.
func (d *damageTrial) mayBeOfBefore(seen everything, name string, index uint64) bool {
	return isSegment(name) && slices.Contains(d.past[index], seen.entries[index]) && seen.lastDamage >= index
}

// usedBytes is how much of a file is in use: the rest of a raft.db is for growth, and of a
// segment for frames to come.
func usedBytes(name string, content []byte) int {
	if isSegment(name) {
		return parseSegment(name, content).end
	}
	return len(bytes.TrimRight(content, "\x00"))
}

// flipAt is where a bit is to be flipped; structure: where the structure is, not the data.
func flipAt(rng *rand.Rand, name string, content []byte, structure bool) int {
	if isSegment(name) {
		return parseSegment(name, content).usedByte(rng)
	}
	used := usedBytes(name, content)
	at := rng.IntN(used)
	if structure {
		at = at/4096*4096 + rng.IntN(min(200, used-at/4096*4096))
	}
	return at
}

// bothVersions runs a test with a log in segments, and with one in raft.db, as older
// versions had it: that one is read before it is converted.
func bothVersions(t *testing.T, tail bool, test func(t *testing.T, trial *damageTrial)) {
	for name, old := range map[string]bool{"segments": false, "raft.db": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newDamageTrial(t, tail, old))
		})
	}
}

func TestAFlippedBitIsReportedOrHarmless(t *testing.T) {
	t.Parallel()
	bothVersions(t, true, func(t *testing.T, trial *damageTrial) {
		rng := rand.New(rand.NewPCG(7, 8))
		for name, data := range trial.files {
			flips := 100
			switch {
			case isSegment(name):
				flips = 40 // and there are many
			case name == "raft.db" && len(trial.segments()) == 0:
				flips = 300
			}
			if raced {
				flips /= 10
			}
			for i := range flips {
				at, bit := flipAt(rng, name, data, i%2 == 0), rng.IntN(8)
				flipped := bytes.Clone(data)
				flipped[at] ^= 1 << bit
				trial.with(t, name, flipped, fmt.Sprintf("byte %d, bit %d", at, bit))
			}
		}
		if !raced && trial.refused < 100 {
			t.Errorf("only %d flips were noticed", trial.refused)
		}
	})
}

// TestAPageCannotLoseItsElementsToAFlippedBit changes the number of elements of
// each page, to nothing and in each of its bits, in a node that crashed: its record does not know how
// far the log reached.
func TestAPageCannotLoseItsElementsToAFlippedBit(t *testing.T) {
	t.Parallel()
	bothVersions(t, false, func(t *testing.T, trial *damageTrial) {
		db, page := trial.files["raft.db"], os.Getpagesize()
		step := page
		if raced {
			step *= 20
		}
		for at := 10; at < usedBytes("raft.db", db); at += step {
			none := bytes.Clone(db)
			none[at], none[at+1] = 0, 0
			trial.with(t, "raft.db", none, fmt.Sprintf("page %d without elements", at/page))
			for bit := range 16 {
				flipped := bytes.Clone(db)
				flipped[at+bit/8] ^= 1 << (bit % 8)
				trial.with(t, "raft.db", flipped, fmt.Sprintf("page %d, bit %d of its number of elements", at/page, bit))
			}
		}
	})
}

// The same for segments: both marks of a frame say what it has.
func TestAFrameCannotLoseItsEntriesToAFlippedBit(t *testing.T) {
	t.Parallel()
	trial := newDamageTrial(t, false, false)
	step := 1
	if raced {
		step = 20
	}
	seen := 0
	for _, s := range trial.segments() {
		for i := 0; i < len(s.frames); i += step {
			f := s.frames[i]
			for name, mark := range map[string]int{"beginning": f.at, "end": f.at + f.length - markLength} {
				for bit, field := range map[int]string{0: "number of entries", 1: "length"} {
					flipped, at := bytes.Clone(s.content), mark+19+4*bit
					flipped[at] ^= 1 << (seen % 8)
					seen++
					trial.with(t, s.name, flipped, fmt.Sprintf("frame at %d, %s at its %s, bit %d", f.at, field, name, seen%8))
				}
				none := bytes.Clone(s.content)
				clear(none[mark : mark+markLength])
				trial.with(t, s.name, none, fmt.Sprintf("frame at %d without the mark at its %s", f.at, name))
			}
		}
	}
}

func TestATruncatedFileIsReportedOrHarmless(t *testing.T) {
	t.Parallel()
	bothVersions(t, true, func(t *testing.T, trial *damageTrial) {
		rng := rand.New(rand.NewPCG(9, 10))
		for name, data := range trial.files {
			trial.with(t, name, []byte{}, "empty")
			cuts := 40
			if isSegment(name) {
				cuts = 10
			}
			if raced {
				cuts = max(cuts/10, 2)
			}
			for range cuts {
				n := rng.IntN(usedBytes(name, data) + 1)
				if rng.IntN(2) == 0 {
					n = n / 4096 * 4096
				}
				trial.with(t, name, data[:n:n], fmt.Sprintf("cut to %d bytes", n))
			}
		}
	})
}

func TestAFileOfOtherContentIsReported(t *testing.T) {
	bothVersions(t, true, func(t *testing.T, trial *damageTrial) {
		for name, data := range trial.files {
			before := trial.refused
			trial.with(t, name, make([]byte, len(data)), "zeros")
			trial.with(t, name, bytes.Repeat([]byte("garbage!"), 4096), "garbage")
			if trial.refused != before+2 {
				t.Errorf("%s: zeros or garbage were not refused", name)
			}
		}
	})
}

// Nothing is in the spare segment, the highest one, and another is made. Nor can the loss of
// the lowest be told from a deletion of entries at the beginning: see the next test.
func TestAMissingFileIsReported(t *testing.T) {
	bothVersions(t, true, func(t *testing.T, trial *damageTrial) {
		lowest, spare := "", ""
		if segments := trial.segments(); len(segments) > 0 {
			lowest, spare = segments[0].name, segments[len(segments)-1].name
		}
		for name := range trial.files {
			if name == lowest {
				continue
			}
			before := trial.refused
			trial.with(t, name, nil, "missing")
			if name == spare {
				if trial.refused != before {
					t.Errorf("the log does without %s, and is refused", name)
				}
				continue
			}
			dir := t.TempDir()
			disktest.WriteFiles(t, dir, trial.files)
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the first attempt must leave nothing that helps the second
				if _, err := contentsOf(dir); !errors.Is(err, ErrDamaged) {
					t.Errorf("without %s: %v", name, err)
				}
			}
		}
	})
}

// A segment whose entries are deleted is removed, and no frame says so before the next
// write. So a log without its lowest segments may be one that is whole: as long as the
// snapshot has what they had. After a crash the record may not know how far the log reached.
func TestALogWithoutItsLowestSegmentsIsRefusedUnlessASnapshotHasTheirEntries(t *testing.T) {
	for name, tail := range map[string]bool{"closed in order": true, "crashed": false} {
		t.Run(name, func(t *testing.T) { withoutLowestSegments(t, tail) })
	}
}

func withoutLowestSegments(t *testing.T, tail bool) {
	trial := newDamageTrial(t, tail, false)
	segments, covered := trial.segments(), 0
	for n := 1; n < len(segments); n++ {
		dir := t.TempDir()
		disktest.WriteFiles(t, dir, trial.files)
		for _, s := range segments[:n] {
			disktest.Must(t, os.Remove(filepath.Join(dir, s.name)))
		}
		if !tail {
			editRecord(t, dir, func(m *disk.Record) { m.Tail = 0 }) // as it is after a snapshot from a leader
		}
		seen := readEverything(t, dir)
		contents, err := contentsOf(dir)
		if got, want := len(seen.damage) > 0, errors.Is(err, ErrDamaged); got != want {
			t.Errorf("without %d segments: OpenLog finds %q, a node that starts %v", n, seen.damage, err)
		}
		if errors.Is(err, ErrDamaged) {
			continue
		}
		disktest.Must(t, err)
		covered++
		first := slices.Min(slices.Collect(maps.Keys(seen.entries)))
		_, rest, _ := strings.Cut(trial.contents, fmt.Sprintf("\n%d ", first))
		if first > 201 || !strings.HasSuffix(contents, rest) {
			t.Errorf("without %d segments: the log starts at entry %d, and the snapshot ends at 200", n, first)
		}
	}
	if covered == 0 || covered > len(segments)-3 {
		t.Errorf("%d of %d are covered", covered, len(segments))
	}
}
