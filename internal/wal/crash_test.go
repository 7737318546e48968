package wal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/errs"
)

const testSegmentSize = 16 << 10

// script does to a log what raft could, at random, and knows what the log must hold.
type script struct {
	rand    *rand.Rand
	done    model // what has been acknowledged
	pending model // the same, with what is being done
	term    uint64
	doubt   Doubt // that of the log when it was opened
	stored  Doubt // the newest entry that was to be stored
}

// model is what a log holds.
type model struct {
	first, last uint64
	entries     map[uint64]*raft.Log
}

func (m model) clone() model {
	m.entries = maps.Clone(m.entries)
	return m
}

func newScript(seed uint64) *script {
	empty := model{entries: map[uint64]*raft.Log{}}
	return &script{rand: rand.New(rand.NewPCG(seed, 1)), done: empty, pending: empty.clone(), term: 1}
}

// step does one thing to the log, and returns its error.
func (s *script) step(l *Log) (err error) {
	s.pending = s.done.clone()
	p := &s.pending
	length := p.last - p.first + 1
	switch what := s.rand.IntN(20); {
	case what > 3 || p.last == 0:
		err = l.StoreLogs(s.newEntries(p))
	case what == 0: // a leader of a new term has others
		from := p.first + 1 + s.rand.Uint64N(length)
		to := p.last
		p.last = min(p.last, from-1)
		s.term++
		err = l.DeleteRange(from, to)
	case what == 1: // a snapshot takes the place of all
		from, to := p.first, p.last
		*p = model{entries: p.entries}
		err = l.DeleteRange(from, to)
	default: // the log is shortened
		from := p.first
		p.first += s.rand.Uint64N(length)
		if p.first > from {
			err = l.DeleteRange(from, p.first-1)
		}
	}
	if err == nil {
		s.done = s.pending.clone()
	}
	return err
}

func (s *script) newEntries(p *model) (entries []*raft.Log) {
	if p.last == 0 {
		p.first = 1 + s.rand.Uint64N(1000)
		p.last = p.first - 1
	}
	most := 300
	if s.rand.IntN(20) == 0 {
		most = testSegmentSize
	}
	for range 1 + s.rand.IntN(8) {
		p.last++
		entry := &raft.Log{Index: p.last, Term: s.term, Type: raft.LogType(s.rand.IntN(3)), Extensions: make([]byte, 5*s.rand.IntN(2)), Data: make([]byte, s.rand.IntN(most))}
		if s.rand.IntN(2) == 0 {
			entry.AppendedAt = time.Unix(1, int64(p.last))
		}
		for i := range entry.Data {
			entry.Data[i] = byte(s.rand.Uint32())
		}
		p.entries[p.last] = entry
		entries = append(entries, entry)
	}
	s.stored = Doubt{Index: p.last, Term: s.term}
	return entries
}

// differs tells how the log differs from what it must hold. It may begin earlier.
func (m model) differs(l *Log) error {
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if last != m.last || first > m.first || (first == 0) != (m.first == 0) {
		return fmt.Errorf("the log is from %d to %d, want %d to %d", first, last, m.first, m.last)
	}
	read := map[uint64]*raft.Log{}
	if err := l.Each(func(entry *raft.Log) error { read[entry.Index] = entry; return nil }); err != nil {
		return err
	}
	for index := max(first, 1); index <= last; index++ {
		var entry raft.Log
		if err := l.GetLog(index, &entry); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if want := m.entries[index]; !same(&entry, want) || !same(read[index], want) {
			return fmt.Errorf("entry %d is %v and %v, want %v", index, entry, read[index], want)
		}
	}
	return nil
}

func same(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && a.AppendedAt.Equal(b.AppendedAt) &&
		bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions)
}

// start opens the log on the disk, or makes one.
func (s *script) start(disk *testDisk, id *ID) (l *Log, err error) {
	opt := Options{SegmentSize: testSegmentSize, files: disk}
	if *id == (ID{}) {
		if l, err = Create("", opt); err == nil {
			*id = l.ID()
		}
		return l, err
	}
	if l, err = Open("", *id, opt); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	found, err := s.checkOpened(l)
	if err != nil {
		return nil, err
	}
	if err := l.Resume(); err != nil {
		return l, err // what was found need not be durable
	}
	s.done, s.pending, s.doubt = found, found.clone(), l.Doubt()
	return l, nil
}

// checkOpened makes sure that the log has what was acknowledged, with all or nothing of what
// was being done.
func (s *script) checkOpened(l *Log) (found model, err error) {
	before, after := s.done.differs(l), s.pending.differs(l)
	found = s.done.clone()
	switch doubt := l.Doubt(); {
	case before != nil && after != nil:
		return found, fmt.Errorf("neither what it was, %w, nor what it was to be, %w", before, after)
	case before != nil:
		found = s.pending.clone()
	case doubt.Index != 0 && doubt != s.doubt && doubt != s.stored:
		return found, fmt.Errorf("it doubts %v without a reason", doubt)
	}
	found.first, _ = l.FirstIndex() // what was deleted at its beginning can be there again
	return found, nil
}

func TestALogHasWhatWasAcknowledgedWhereverThePowerIsCut(t *testing.T) {
	doubts := 0
	for seed := range uint64(400) {
		disk, s := newTestDisk(seed), newScript(seed)
		var id ID
		for cut := range 8 {
			if id != (ID{}) {
				disk.noDescriptors = s.rand.IntN(4) == 0
				disk.failAt, disk.failure = 1+s.rand.IntN(60), errPower
			}
			l, err := s.start(disk, &id)
			if err == nil && l.Doubt() != (Doubt{}) {
				doubts++
			}
			for range 40 {
				if err == nil {
					err = s.step(l)
				}
			}
			if err != nil && !errors.Is(err, errPower) {
				t.Fatalf("seed %d, cut %d: %v", seed, cut, err)
			}
			if s.rand.IntN(3) == 0 {
				disk = disk.restart() // the process was killed
				disk.operations = 0
			} else {
				disk = disk.cutPower()
			}
		}
	}
	if doubts == 0 {
		t.Error("no cut left anything in doubt: the test is not hard enough")
	}
}

func TestALogWritesNothingAfterAnErrorOfTheDisk(t *testing.T) {
	for at := 1; at < 200; at++ {
		disk, s := newTestDisk(uint64(at)), newScript(uint64(at))
		var id ID
		l, err := s.start(disk, &id)
		if err != nil {
			t.Fatal(err)
		}
		disk.failAt, disk.failure = disk.operations+at, syscall.EIO
		for range 400 {
			if err = s.step(l); err != nil {
				break
			}
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("operation %d: %v, want an error of the disk", at, err)
		}
		for range 20 {
			if err := s.step(l); err == nil && s.pending.last != s.done.last {
				t.Fatalf("operation %d: stored after the disk has failed", at)
			}
		}
		if disk.after > 0 {
			t.Fatalf("operation %d: %d operations after the disk has failed", at, disk.after)
		}
	}
}

// After the error a system may take what it has in memory for written.
func TestWhatARestartFindsAfterAnErrorOfTheDiskIsDurable(t *testing.T) {
	for seed := range uint64(600) {
		disk, s := newTestDisk(seed), newScript(seed)
		var id ID
		l, err := s.start(disk, &id)
		disk.failAt, disk.failure = disk.operations+1+s.rand.IntN(40), syscall.EIO
		for range 400 {
			if err == nil {
				err = s.step(l)
			}
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("seed %d: %v, want an error of the disk", seed, err)
		}
		for range 3 {
			disk = disk.restart()
			if _, err = s.start(disk, &id); err != nil {
				t.Fatalf("seed %d: the process begins anew: %v", seed, err)
			}
			disk = disk.cutPower()
		}
	}
}

func TestAFullDiskIsMetBetweenWritesAndTheLogGoesOnOnceThereIsRoom(t *testing.T) {
	for seed := range uint64(50) {
		disk, s := newTestDisk(seed), newScript(seed)
		var id ID
		l, err := s.start(disk, &id)
		for range 300 {
			if err != nil {
				t.Fatal(err)
			}
			if s.rand.IntN(20) == 0 {
				disk.failAt, disk.failure, disk.failed = disk.operations+1, syscall.ENOSPC, false
			}
			if err = s.step(l); errors.Is(err, syscall.ENOSPC) {
				err = s.done.differs(l) // nothing of it is there
				s.pending = s.done.clone()
			}
			if _, ok := disk.names[unfinished]; ok {
				t.Fatalf("seed %d: a segment that found no room keeps what it has got of it", seed)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		disk.failAt = 0
		if _, err := s.start(disk.cutPower(), &id); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestALogGoesOnWithoutFileDescriptors(t *testing.T) {
	for seed := range uint64(50) {
		disk, s := newTestDisk(seed), newScript(seed)
		var id ID
		l, err := s.start(disk, &id)
		longest := int64(0)
		for i := range 300 {
			if err != nil {
				t.Fatal(err)
			}
			disk.noDescriptors = i/100 == 1
			err = s.step(l)
			longest = max(longest, l.current.size)
			if i%50 == 49 {
				if opened, err := Open("", id, Options{files: disk}); err != nil || s.done.differs(opened) != nil {
					t.Fatalf("seed %d, step %d: %v, %v", seed, i, err, s.done.differs(opened))
				}
			}
		}
		if longest < 2*testSegmentSize {
			t.Errorf("seed %d: no segment was extended", seed)
		}
		if _, err := s.start(disk.cutPower(), &id); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestAFlippedBitIsDamageOrInDoubtOrOfNoConsequence(t *testing.T) {
	damaged, doubted, harmless := 0, 0, 0
	for seed := range uint64(100) {
		disk, s := newTestDisk(seed), newScript(seed)
		var id ID
		l, err := s.start(disk, &id)
		for range 30 + seed {
			if err == nil {
				err = s.step(l)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		segments := l.segments
		for range 200 {
			segment := segments[s.rand.IntN(len(segments))]
			f := segment.file.(*testFile)
			bit := s.rand.Int64N(8 * segment.end)
			f.content[bit/8] ^= 1 << (bit % 8)
			opened, err := Open("", id, Options{files: disk})
			switch {
			case errors.Is(err, errs.Damaged), errors.Is(err, errs.Newer):
				damaged++
			case err != nil:
				t.Fatalf("seed %d, %s, bit %d: %v", seed, segment.name, bit, err)
			case s.done.differs(opened) == nil:
				harmless++
			case opened.Doubt() != (Doubt{Index: s.done.last, Term: s.done.entries[s.done.last].Term}):
				t.Fatalf("seed %d, %s, offset %d of %d: %v, and the doubt is %v", seed, segment.name, bit/8, segment.end, s.done.differs(opened), opened.Doubt())
			default:
				doubted++
			}
			f.content[bit/8] ^= 1 << (bit % 8)
		}
	}
	if damaged == 0 || doubted == 0 || harmless == 0 {
		t.Errorf("%d damaged, %d doubted, %d harmless: the test is not hard enough", damaged, doubted, harmless)
	}
}

// Of the first write a crash leaves only the sector with its second entry, of the next one
// only that before it: together they look like a whole write.
func TestTheRestsOfTwoTornWritesAreNoWrite(t *testing.T) {
	disk := newTestDisk(1)
	opt := Options{SegmentSize: testSegmentSize, files: disk}
	l, err := Create("", opt)
	if err != nil {
		t.Fatal(err)
	}
	f := disk.names["segment-000001"]
	tear := func(l *Log, kept int, entries ...*raft.Log) *Log {
		t.Helper()
		torn := bytes.Clone(f.content)
		if err := l.StoreLogs(entries); err != nil {
			t.Fatal(err)
		}
		copy(torn[kept*sector:(kept+1)*sector], f.content[kept*sector:])
		f.content = torn
		again, err := Open("", l.ID(), opt)
		if err != nil {
			t.Fatal(err)
		}
		return again
	}
	const first = segmentHeader / sector
	record := func(index uint64, size int) *raft.Log {
		return &raft.Log{Index: index, Term: index, Data: make([]byte, size-recordHead-bodyHead)}
	}
	l = tear(l, first+1, record(1, sector-markSize), record(2, sector))
	if err := l.Resume(); err != nil {
		t.Fatal(err)
	}
	l = tear(l, first, record(1, sector-3*markSize), record(2, sector)) // behind the frame that Resume has written
	if last, _ := l.LastIndex(); last != 0 {
		t.Errorf("the log has entries up to %d that nobody has stored", last)
	}
}

func TestALogIsReadWhileItGoesOnWithoutFileDescriptors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l, err := Create(dir, Options{SegmentSize: testSegmentSize})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.files = withoutDescriptors{l.files}
	var reading sync.WaitGroup
	defer reading.Wait()
	var stored atomic.Uint64
	for range 2 {
		reading.Go(func() {
			for index := uint64(1); index < 300; index = stored.Load() {
				if err := l.GetLog(index, new(raft.Log)); err != nil && index > 1 {
					t.Error(err)
				}
			}
		})
	}
	for index := uint64(1); index <= 300; index++ {
		if err := l.StoreLog(&raft.Log{Index: index, Data: make([]byte, 1000)}); err != nil {
			t.Error(err)
		}
		stored.Store(index)
	}
	if l.current.number != 1 || l.current.size < 300_000 {
		t.Errorf("segment %d of %d bytes", l.current.number, l.current.size)
	}
}

type withoutDescriptors struct{ files }

func (withoutDescriptors) create(string) (file, error) { return nil, syscall.EMFILE }

// The end of the write that a crash has torn is still there, and has the same beginning.
func TestADamagedSessionIsNotTakenForTheWriteThatACrashHasTorn(t *testing.T) {
	disk := newTestDisk(1)
	opt := Options{SegmentSize: testSegmentSize, files: disk}
	l, err := Create("", opt)
	if err == nil {
		err = l.StoreLogs([]*raft.Log{{Index: 1, Term: 1}})
	}
	if err != nil {
		t.Fatal(err)
	}
	f := disk.names["segment-000001"]
	session := l.current.end
	if err := l.StoreLogs([]*raft.Log{{Index: 2, Term: 1, Data: make([]byte, 4000)}}); err != nil {
		t.Fatal(err)
	}
	f.content[session+2000] ^= 1 // of what was torn
	if l, err = Open("", l.ID(), opt); err == nil {
		err = l.Resume()
	}
	if err == nil {
		err = l.StoreLogs([]*raft.Log{{Index: 2, Term: 2}})
	}
	if err != nil {
		t.Fatal(err)
	}
	f.content[session+20] ^= 1
	opened, err := Open("", l.ID(), opt)
	if errors.Is(err, errs.Damaged) {
		return
	}
	if last, _ := opened.LastIndex(); err != nil || last != 2 {
		t.Errorf("the log ends at entry %d, %v", last, err)
	}
}

func TestASegmentIsExtendedWhereverThePowerIsCut(t *testing.T) {
	for seed := range uint64(400) {
		disk, s := newTestDisk(seed), newScript(seed)
		var id ID
		l, err := s.start(disk, &id)
		disk.noDescriptors = true
		for err == nil && l.current.size == testSegmentSize {
			if l.current.end > testSegmentSize*3/4 && disk.failAt == 0 {
				disk.failAt, disk.failure = disk.operations+1+s.rand.IntN(20), errPower
			}
			err = s.step(l)
		}
		if err != nil && !errors.Is(err, errPower) {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if _, err := s.start(disk.cutPower(), &id); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
