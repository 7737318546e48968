package kvraft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// fillTestDir makes a directory with about 300 entries and a snapshot, and with
// a past: pages that are free hold older copies of those in use. tail: it was
// closed in order.
func fillTestDir(t *testing.T, dir string, tail bool) {
	t.Helper()
	n, err := openTestNode(dir)
	if err != nil {
		t.Fatal(err)
	}
	step := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	step(n.logs.Stable().Update(func(m *disk.Record) { m.ID, m.Identity, m.Cluster = "n1", "ab", "cd" }))
	step(n.logs.Stable().SetUint64([]byte("CurrentTerm"), 3), n.logs.Stable().Set([]byte("LastVoteCand"), []byte("10.0.0.1:7000")))
	rng := rand.New(rand.NewPCG(5, 6))
	store := func(upTo uint64) {
		t.Helper()
		for _, last := n.logs.Bounds(); last < upTo; _, last = n.logs.Bounds() {
			entries := disktest.Entries(last+1, last+1+rng.Uint64N(8), 3)
			for _, e := range entries {
				e.Data = bytes.Repeat(e.Data, 1+rng.IntN(10))
				e.AppendedAt = time.Unix(1, 0)
				if rng.IntN(50) == 0 {
					e.Data = bytes.Repeat(e.Data, 50) // longer than a page
				}
			}
			step(n.logs.StoreLogs(entries))
			if rng.IntN(10) == 0 {
				_, last = n.logs.Bounds()
				step(n.logs.DeleteRange(last-1, last))
			}
		}
	}
	store(300)
	step(disktest.TakeSnapshot(n.snaps, testState, 200, 3), n.logs.DeleteRange(1, 120))
	store(420)
	if tail {
		step(n.logs.Flush())
	}
	step(n.logs.Close())
}

// contentsOf opens dir as a node would and returns what it reads.
func contentsOf(dir string) (contents string, err error) {
	n, err := openTestNode(dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, n.logs.Close()) }()
	var all strings.Builder
	record, err := n.logs.Stable().Record().Encode()
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
	refused  int
}

func newDamageTrial(t *testing.T, tail bool) *damageTrial {
	dir := t.TempDir()
	fillTestDir(t, dir, tail)
	trial := &damageTrial{files: disktest.FilesIn(t, dir)}
	delete(trial.files, "raft.db.mark") // see with
	seen := readEverything(t, dir)
	if len(seen.damage) > 0 || len(seen.entries) < 300 {
		t.Fatalf("%d entries, %q", len(seen.entries), seen.damage)
	}
	trial.entries = seen.entries
	var err error
	if trial.contents, err = contentsOf(dir); err != nil {
		t.Fatal(err)
	}
	return trial
}

func (d *damageTrial) with(t *testing.T, name string, damaged []byte, what string) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	files := map[string][]byte{}
	for n, data := range d.files {
		files[n] = data
	}
	files[name] = damaged
	files["raft.db.mark"] = nil // it is a node's, whatever is left of it
	disktest.WriteFiles(t, dir, files)
	seen := readEverything(t, dir)
	contents, err := contentsOf(dir)
	if got, want := len(seen.damage) > 0, errors.Is(err, ErrDamaged); got != want {
		t.Errorf("%s, %s: OpenLog finds %q, a node that starts %v", name, what, seen.damage, err)
	}
	for index, entry := range seen.entries {
		if entry != d.entries[index] {
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

// usedBytes is how much of a raft.db is in use: the rest is for growth.
func usedBytes(db []byte) int {
	return len(bytes.TrimRight(db, "\x00"))
}

func TestAFlippedBitIsReportedOrHarmless(t *testing.T) {
	t.Parallel()
	trial := newDamageTrial(t, true)
	rng := rand.New(rand.NewPCG(7, 8))
	for name, data := range trial.files {
		flips := 100
		if name == "raft.db" {
			flips = 300
		}
		if raced {
			flips /= 10
		}
		for i := range flips {
			at := rng.IntN(usedBytes(data))
			if i%2 == 0 { // where the structure is, not the data
				at = at/4096*4096 + rng.IntN(min(200, usedBytes(data)-at/4096*4096))
			}
			bit := rng.IntN(8)
			flipped := bytes.Clone(data)
			flipped[at] ^= 1 << bit
			trial.with(t, name, flipped, fmt.Sprintf("byte %d, bit %d", at, bit))
		}
	}
	if !raced && trial.refused < 100 {
		t.Errorf("only %d flips were noticed", trial.refused)
	}
}

// TestAPageCannotLoseItsElementsToAFlippedBit changes the number of elements of
// each page, to nothing and in each of its bits, in a node that crashed: its record does not know how
// far the log reached.
func TestAPageCannotLoseItsElementsToAFlippedBit(t *testing.T) {
	t.Parallel()
	trial := newDamageTrial(t, false)
	db, page := trial.files["raft.db"], os.Getpagesize()
	step := page
	if raced {
		step *= 20
	}
	for at := 10; at < usedBytes(db); at += step {
		none := bytes.Clone(db)
		none[at], none[at+1] = 0, 0
		trial.with(t, "raft.db", none, fmt.Sprintf("page %d without elements", at/page))
		for bit := range 16 {
			flipped := bytes.Clone(db)
			flipped[at+bit/8] ^= 1 << (bit % 8)
			trial.with(t, "raft.db", flipped, fmt.Sprintf("page %d, bit %d of its number of elements", at/page, bit))
		}
	}
}

func TestATruncatedFileIsReportedOrHarmless(t *testing.T) {
	t.Parallel()
	trial := newDamageTrial(t, true)
	rng := rand.New(rand.NewPCG(9, 10))
	for name, data := range trial.files {
		trial.with(t, name, nil, "empty")
		cuts := 40
		if raced {
			cuts /= 10
		}
		for range cuts {
			n := rng.IntN(usedBytes(data) + 1)
			if rng.IntN(2) == 0 {
				n = n / 4096 * 4096
			}
			trial.with(t, name, data[:n], fmt.Sprintf("cut to %d bytes", n))
		}
	}
}

func TestAFileOfOtherContentIsReported(t *testing.T) {
	trial := newDamageTrial(t, true)
	for name, data := range trial.files {
		before := trial.refused
		trial.with(t, name, make([]byte, len(data)), "zeros")
		trial.with(t, name, bytes.Repeat([]byte("garbage!"), 4096), "garbage")
		if trial.refused != before+2 {
			t.Errorf("%s: zeros or garbage were not refused", name)
		}
	}
}

func TestAMissingFileIsReported(t *testing.T) {
	trial := newDamageTrial(t, true)
	for name := range trial.files {
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
}
