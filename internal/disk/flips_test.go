package disk

import (
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/wal"
)

// flips is how many bits a test flips: a fifth with -short, and any multiple in KVRAFT_SCALE.
func flips(t *testing.T, n int) int {
	t.Helper()
	if text := os.Getenv("KVRAFT_SCALE"); text != "" {
		factor, err := strconv.ParseFloat(text, 64)
		disktest.Must(t, err)
		return max(1, int(float64(n)*factor))
	}
	if testing.Short() {
		return n / 5
	}
	return n
}

// withSmallSegments is a directory with entries in several segments, in writes of a few each,
// of which some were replaced and the first ones deleted. tail: the node was closed in order.
func withSmallSegments(t *testing.T, tail bool) (dir string) {
	t.Helper()
	dir = t.TempDir()
	l, err := Open(Options{Dir: dir, SegmentSize: 16 << 10, Fail: disktest.FailTest(t)})
	disktest.Must(t, errors.Join(err, l.OpenForWriting(), l.Tidy(), l.stable.SetUint64(termKey, 3)))
	rng := rand.New(rand.NewPCG(1, 2))
	for last := uint64(0); last < 400; _, last = l.Bounds() {
		entries := disktest.Entries(last+1, last+1+rng.Uint64N(8), 3)
		for _, e := range entries {
			e.Data = slices.Repeat(e.Data, 1+rng.IntN(20))
		}
		disktest.Must(t, l.StoreLogs(entries))
		if rng.IntN(10) == 0 {
			disktest.Must(t, l.DeleteRange(last+1, last+2+uint64(len(entries))))
		}
	}
	disktest.Must(t, l.DeleteRange(1, 120))
	_, last := l.Bounds()
	disktest.Must(t, l.StoreLogs(disktest.Entries(last+1, last+40, 3))) // more than a sector
	if tail {
		disktest.Must(t, l.Flush())
	}
	disktest.Must(t, l.Close())
	return dir
}

// usedSegments are the segments of the node in dir: their paths, and how much of each is in
// use.
func usedSegments(t *testing.T, dir string) (used map[string]int64) {
	t.Helper()
	used = map[string]int64{}
	for name, content := range disktest.FilesIn(t, filepath.Join(dir, logDir)) {
		end := len(content)
		for end > 0 && content[end-1] == 0 {
			end--
		}
		used[filepath.Join(dir, logDir, name)] = int64(end)
	}
	return used
}

var namesItsPlace = regexp.MustCompile(`segment-\d{6} at offset \d+: `)

// Nothing is written: so each flip is of the same log, and a directory is copied once.
func TestAFlippedBitOfASegmentIsDamageWithItsPlaceOrInDoubtOrOfNoConsequence(t *testing.T) {
	for name, tail := range map[string]bool{"closed in order": true, "crashed": false} {
		t.Run(name, func(t *testing.T) {
			dir := withSmallSegments(t, tail)
			whole, err := Open(Options{Dir: dir, Fail: disktest.FailTest(t)})
			disktest.Must(t, err)
			want := entryTexts(t, whole)
			_, last := whole.Bounds()
			disktest.Must(t, whole.Close())
			used := usedSegments(t, dir)
			names := slices.Sorted(maps.Keys(used))
			rng := rand.New(rand.NewPCG(3, 4))
			damaged, doubted, harmless := 0, 0, 0
			for range flips(t, 500) {
				path := names[rng.IntN(len(names))]
				at, bit := rng.Int64N(used[path]), rng.IntN(8)
				flip(t, path, at, bit)
				l, err := Open(Options{Dir: dir, CacheBytes: 1, Fail: disktest.FailTest(t)})
				switch {
				case errors.Is(err, errs.Damaged):
					damaged++
					if !namesItsPlace.MatchString(err.Error()) {
						t.Errorf("%s, byte %d, bit %d: %v names no place", path, at, bit, err)
					}
				case err != nil:
					t.Errorf("%s, byte %d, bit %d: %v", path, at, bit, err)
				case slices.Equal(entryTexts(t, l), want) && l.Doubt() == (wal.Doubt{}):
					harmless++
				case tail || l.Doubt() != (wal.Doubt{Index: last, Term: 3}):
					first, end := l.Bounds()
					t.Errorf("%s, byte %d, bit %d: the log is from %d to %d, and doubts %v", path, at, bit, first, end, l.Doubt())
				default:
					doubted++
				}
				if err == nil {
					disktest.Must(t, l.Close())
				}
				flip(t, path, at, bit)
			}
			t.Logf("%d damaged, %d doubted, %d harmless", damaged, doubted, harmless)
			if damaged < 50 || harmless == 0 {
				t.Error("the test shows less than it is to")
			}
		})
	}
}

// flip flips a bit of a file.
func flip(t *testing.T, path string, at int64, bit int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	disktest.Must(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	b[0] ^= 1 << bit
	if err == nil {
		_, err = f.WriteAt(b[:], at)
	}
	disktest.Must(t, errors.Join(err, f.Close()))
}
