package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
)

// smallSegments are of few entries, so that a short log has several.
var smallSegments = Options{SegmentSize: 8192}

// numbered are entries that can be told apart.
func numbered(first, last, term uint64, size int) (entries []*raft.Log) {
	for index := first; index <= last; index++ {
		entry := &raft.Log{Index: index, Term: term, Data: make([]byte, size)}
		copy(entry.Data, fmt.Sprintf("%d of term %d", index, term))
		entries = append(entries, entry)
	}
	return entries
}

// writeThree writes a log of which three segments have five entries each, a frame for
// each entry, and a fourth is the spare.
func writeThree(t *testing.T) (dir string, id ID) {
	t.Helper()
	dir = t.TempDir()
	opt := smallSegments
	opt.files = openUnsynced(t, dir)
	l, err := Create("", opt)
	disktest.Must(t, err)
	for _, entry := range numbered(1, 15, 1, 600) {
		disktest.Must(t, l.StoreLog(entry))
	}
	disktest.Must(t, l.Close())
	return dir, l.ID()
}

// frameOf is how many bytes a frame of the log has that writeThree writes.
var frameOf = int(frameSize(numbered(1, 1, 1, 600)))

func TestWhatIsWrongWithALogIsToldWithItsPlace(t *testing.T) {
	whole, id := writeThree(t)
	foreign, foreignID := writeThree(t)
	for _, c := range []struct {
		name  string
		spoil func(dir string) error
		want  string // of the error; "": the log is opened
	}{
		{
			"nothing", func(string) error { return nil },
			"",
		}, {
			"the first segment is missing, which may have been removed", func(dir string) error {
				return os.Remove(filepath.Join(dir, "segment-000001"))
			},
			"",
		}, {
			"a segment between is missing", func(dir string) error {
				return os.Remove(filepath.Join(dir, "segment-000002"))
			},
			"kvraft: damaged data: between segment-000001 and segment-000003 the log lacks 1 segments",
		}, {
			"the last segment is missing, and the spare is there", func(dir string) error {
				return os.Remove(filepath.Join(dir, "segment-000003"))
			},
			"kvraft: damaged data: between segment-000002 and segment-000004 the log lacks 1 segments",
		}, {
			"the spare is missing", func(dir string) error {
				return os.Remove(filepath.Join(dir, "segment-000004"))
			},
			"",
		}, {
			"all segments but the spare are missing", func(dir string) error {
				return removeSegments(dir, 1, 2, 3)
			},
			"kvraft: damaged data: segment-000004 at offset 4096: nothing was written to it, and the segments before it are missing",
		}, {
			"all segments are missing", func(dir string) error {
				return removeSegments(dir, 1, 2, 3, 4)
			},
			"kvraft: damaged data: the log has no segment",
		}, {
			"a segment is there twice", func(dir string) error {
				return copyFile(filepath.Join(dir, "segment-000009"), filepath.Join(dir, "segment-000002"))
			},
			"kvraft: damaged data: segment-000009 at offset 0: it is segment 2 of the log, and so is segment-000002",
		}, {
			"a segment is another log's", func(dir string) error {
				return copyFile(filepath.Join(dir, "segment-000002"), filepath.Join(foreign, "segment-000002"))
			},
			fmt.Sprintf("kvraft: damaged data: segment-000002 at offset 0: it is a segment of another log, %x", foreignID),
		}, {
			"a segment is cut short", func(dir string) error {
				return os.Truncate(filepath.Join(dir, "segment-000002"), 5000)
			},
			"kvraft: damaged data: segment-000002 at offset 5000: it is cut short, to 5000 bytes of 8192",
		}, {
			"a header is cut short", func(dir string) error {
				return os.Truncate(filepath.Join(dir, "segment-000002"), headerSize-1)
			},
			"kvraft: damaged data: segment-000002 at offset 0: read its header: EOF",
		}, {
			"a header has changed", func(dir string) error {
				return change(filepath.Join(dir, "segment-000002"), func(b []byte) { b[30] ^= 1 })
			},
			"kvraft: damaged data: segment-000002 at offset 0: its header does not match its checksum",
		}, {
			"a file is no segment", func(dir string) error {
				return os.WriteFile(filepath.Join(dir, "segment-000002"), make([]byte, 8192), 0o600)
			},
			"kvraft: damaged data: segment-000002 at offset 0: its header does not match its checksum",
		}, {
			"a header is of a newer version", func(dir string) error {
				return change(filepath.Join(dir, "segment-000002"), func(b []byte) {
					binary.BigEndian.PutUint32(b[8:], version+1)
					binary.BigEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
				})
			},
			"written by a newer version of kvraft: segment-000002 has format 2, this version reads 1",
		}, {
			"an entry has changed", func(dir string) error {
				return change(filepath.Join(dir, "segment-000002"), func(b []byte) { b[segmentHeader+frameOf+markSize+recordHead+bodyHead] ^= 1 })
			},
			fmt.Sprintf("kvraft: damaged data: segment-000002 at offset %d: entry 7 does not match its checksum, and others follow it", segmentHeader+frameOf),
		}, {
			"the beginning of a frame has changed", func(dir string) error {
				return change(filepath.Join(dir, "segment-000002"), func(b []byte) { b[segmentHeader] ^= 1 })
			},
			"kvraft: damaged data: segment-000002 at offset 4096: the beginning of a frame does not match its checksum, and others follow it",
		}, {
			"the last entry of a segment has changed, and the next has more", func(dir string) error {
				return change(filepath.Join(dir, "segment-000002"), func(b []byte) { b[segmentHeader+4*frameOf+markSize+recordHead] ^= 1 })
			},
			fmt.Sprintf("kvraft: damaged data: segment-000002 at offset %d: entry 10 does not match its checksum, and segment-000003 was begun after it", segmentHeader+4*frameOf),
		}, {
			"the last frame of a segment is missing, and the next has more", func(dir string) error {
				return change(filepath.Join(dir, "segment-000002"), func(b []byte) { clear(b[segmentHeader+4*frameOf:]) })
			},
			"kvraft: damaged data: segment-000003 at offset 4096: entry 11 follows entry 9",
		}, {
			"the frames of two segments have changed places", func(dir string) error {
				three, err := os.ReadFile(filepath.Join(dir, "segment-000003"))
				if err != nil {
					return err
				}
				return change(filepath.Join(dir, "segment-000002"), func(b []byte) { copy(b[segmentHeader:], three[segmentHeader:]) })
			},
			"kvraft: damaged data: segment-000003 at offset 4096: entry 11 follows entry 5",
		}, {
			"another file is in the directory", func(dir string) error {
				return os.WriteFile(filepath.Join(dir, "lost+found"), []byte("segment-"), 0o600)
			},
			"",
		}, {
			"a new segment was not finished", func(dir string) error {
				return os.WriteFile(filepath.Join(dir, unfinished), magic, 0o600)
			},
			"",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			disktest.Must(t, os.CopyFS(dir, os.DirFS(whole)))
			disktest.Must(t, c.spoil(dir))
			before := disktest.Tree(t, dir)
			l, err := Open(dir, id, smallSegments)
			disktest.WantSameTree(t, dir, before)
			if err == nil {
				if last, _ := l.LastIndex(); last != 15 || c.want != "" {
					t.Errorf("the log is opened, and ends with entry %d", last)
				}
				disktest.Must(t, l.Close())
				return
			}
			if err.Error() != c.want {
				t.Errorf("the error is\n%v, want\n%s", err, c.want)
			}
			if errors.Is(err, errs.Newer) == errors.Is(err, errs.Damaged) {
				t.Errorf("%v is not one of damaged and newer", err)
			}
		})
	}
}

func removeSegments(dir string, numbers ...int) (err error) {
	for _, number := range numbers {
		err = errors.Join(err, os.Remove(filepath.Join(dir, fmt.Sprintf("segment-%06d", number))))
	}
	return err
}

func copyFile(to, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o600)
}

// change changes the content of a file.
func change(path string, how func([]byte)) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	how(content)
	return os.WriteFile(path, content, 0o600)
}

func TestALogIsOpenedByItsIDOnly(t *testing.T) {
	dir, id := writeThree(t)
	_, err := Open(dir, ID{1}, smallSegments)
	want := fmt.Sprintf("kvraft: damaged data: segment-000001 at offset 0: it is a segment of another log, %x", id)
	if !errors.Is(err, errs.Damaged) || err.Error() != want {
		t.Errorf("the error is\n%v, want\n%s", err, want)
	}
}

// It has no name yet under which anybody would look for entries.
func TestASegmentThatWasNotFinishedIsRemovedBeforeTheLogIsWritten(t *testing.T) {
	dir, id := writeThree(t)
	stray := filepath.Join(dir, "lost+found")
	disktest.Must(t, os.WriteFile(stray, nil, 0o600))
	disktest.Must(t, os.WriteFile(filepath.Join(dir, unfinished), magic, 0o600))
	l, err := Open(dir, id, smallSegments)
	disktest.Must(t, err)
	defer l.Close()
	disktest.Must(t, l.Resume())
	if _, err := os.Stat(filepath.Join(dir, unfinished)); !os.IsNotExist(err) {
		t.Errorf("it is there still, or %v", err)
	}
	if _, err := os.Stat(stray); err != nil {
		t.Errorf("what is not the log's: %v", err)
	}
	disktest.Must(t, l.StoreLogs(numbered(16, 16, 1, 600)))
}

func TestWhatIsDamagedWhileTheLogIsOpenIsMetByWhoReadsIt(t *testing.T) {
	dir, id := writeThree(t)
	l, err := Open(dir, id, smallSegments)
	disktest.Must(t, err)
	defer l.Close()
	record := segmentHeader + frameOf + markSize
	f, err := os.OpenFile(filepath.Join(dir, "segment-000002"), os.O_WRONLY, 0)
	disktest.Must(t, err)
	_, err = f.WriteAt([]byte{1}, int64(record+recordHead))
	disktest.Must(t, errors.Join(err, f.Close()))
	want := fmt.Sprintf("kvraft: damaged data: segment-000002 at offset %d: entry 7 does not match its checksum", record)
	if err := l.GetLog(7, new(raft.Log)); !errors.Is(err, errs.Damaged) || err.Error() != want {
		t.Errorf("GetLog says\n%v, want\n%s", err, want)
	}
	var read []uint64
	err = l.Each(func(entry *raft.Log) error { read = append(read, entry.Index); return nil })
	if !errors.Is(err, errs.Damaged) || err.Error() != want || !slices.Equal(read, []uint64{1, 2, 3, 4, 5, 6}) {
		t.Errorf("Each reads %v and says\n%v, want\n%s", read, err, want)
	}
	if err := l.GetLog(8, new(raft.Log)); err != nil {
		t.Errorf("entry 8 is whole: %v", err)
	}
}
