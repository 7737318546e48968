package disk

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
)

// killedWith is a directory in which a start has stored three entries and was killed then.
func killedWith(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	l := openTestFile(t, dir, 1, disktest.FailTest(t))
	disktest.Must(t, errors.Join(l.StoreLogs(disktest.Entries(1, 3, 0)), l.Close()))
	return dir
}

// Both have read the log before one of them may write.
func TestOfTwoStartsTheSecondDoesNotGoOnFromBeforeTheFirst(t *testing.T) {
	for name, of := range map[string]func(*testing.T) string{
		"a new directory":           func(t *testing.T) string { return t.TempDir() },
		"one of an older version":   olderNode,
		"a log in segments":         converted,
		"a start that was killed":   killedWith,
		"a log that lacks its name": func(t *testing.T) string { dir := olderNode(t); steps["the record is written"](t, dir); return dir },
		"a copy without a record": func(t *testing.T) string {
			dir := olderNode(t)
			steps["the copy is without a record"](t, dir)
			return dir
		},
		"a log that has got its name": func(t *testing.T) string { dir := olderNode(t); steps["the log has its name"](t, dir); return dir },
	} {
		t.Run(name, func(t *testing.T) {
			dir := of(t)
			first, second := openToConvert(t, dir), openToConvert(t, dir)
			disktest.Must(t, second.base.(*files).file.Close()) // to open it for writing
			disktest.Must(t, first.OpenForWriting())
			_, last := first.Bounds()
			disktest.Must(t, first.StoreLogs(disktest.Entries(last+1, last+3, first.stable.Term())))
			want := entryTexts(t, first)
			disktest.Must(t, first.Close()) // killed: it did nothing in order
			if err := second.OpenForWriting(); !errors.Is(err, errs.Locked) {
				t.Errorf("the second start: %v", err)
			}
			disktest.Must(t, second.Close())
			if got, _ := convertTestDir(t, dir); !slices.Equal(got, want) {
				t.Errorf("%d entries are left of %d", len(got), len(want))
			}
		})
	}
}

// It is rewritten before the log is, of which a power loss may take what a killed process
// has written.
func TestAStartDoesNotMakeTheRecordCountOnMoreOfTheLog(t *testing.T) {
	l := openToConvert(t, killedWith(t))
	before := l.stable.Record().Tail
	disktest.Must(t, l.OpenForWriting())
	after := l.stable.Record().Tail
	if disktest.Must(t, l.Close()); before != 0 || after != 0 {
		t.Errorf("the record counted on entries up to %d, and does up to %d", before, after)
	}
}

// As when the disk is full: the node's owner may try again in the same process.
func TestADirectoryWhoseLogCannotBeNamedIsLetGoOf(t *testing.T) {
	for _, step := range []string{"the copy is without a record", "the record is written"} {
		t.Run(step, func(t *testing.T) {
			dir := olderNode(t)
			want := boltTexts(t, dir)
			steps[step](t, dir)
			l := openToConvert(t, dir)
			inTheWay := filepath.Join(dir, logDir)
			disktest.Must(t, os.WriteFile(inTheWay, nil, 0o600))
			if err := l.OpenForWriting(); err == nil {
				t.Error("the log has got a name that was taken")
			}
			disktest.Must(t, errors.Join(l.Close(), os.Remove(inTheWay)))
			if got, _ := convertTestDir(t, dir); !slices.Equal(got, want) {
				t.Errorf("%d entries are left of %d", len(got), len(want))
			}
		})
	}
}

func TestADirectoryIsLetGoOfEvenIfItsLogCannotBeClosed(t *testing.T) {
	dir := t.TempDir()
	l := openTestFile(t, dir, 1, disktest.FailTest(t))
	disktest.Must(t, l.base.(*files).segments.Close())
	if err := l.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a log that was closed before: %v", err)
	}
	file, err := boltlog.Read(filepath.Join(dir, boltlog.Name), time.Millisecond)
	disktest.Must(t, err)
	disktest.Must(t, file.Close())
}

func TestWhatIsLeftOfACopyBesideTheLogIsRemoved(t *testing.T) {
	dir := converted(t)
	want, _ := convertTestDir(t, dir)
	disktest.WriteFiles(t, dir, map[string][]byte{filepath.Join(newLogDir, "segment-000001"): []byte("half")})
	if got, _ := convertTestDir(t, dir); !slices.Equal(got, want) {
		t.Errorf("%d entries of %d", len(got), len(want))
	}
	wantConverted(t, dir)
}

func TestALogThatPretendsToWriteChangesNothing(t *testing.T) {
	for name, of := range map[string]func(*testing.T) string{"an older version's": olderNode, "in segments": killedWith} {
		t.Run(name, func(t *testing.T) {
			dir := of(t)
			disktest.WriteFiles(t, dir, map[string][]byte{"raft.db.ABC.new": []byte("half a file")})
			before := disktest.Tree(t, dir)
			l := openToConvert(t, dir)
			l.PretendWriting()
			_, last := l.Bounds()
			disktest.Must(t, errors.Join(l.OpenForWriting(), l.Settle(SnapshotMark{ID: "1-40-1", Index: 40, Term: 1}), l.Tidy()))
			disktest.Must(t, errors.Join(l.StoreLogs(disktest.Entries(last+1, last+1, l.stable.Term())), l.Flush(), l.Close()))
			disktest.WantSameTree(t, dir, before)
		})
	}
}
