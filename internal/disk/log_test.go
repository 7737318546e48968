package disk

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
)

var termKey, voteKey = []byte("CurrentTerm"), []byte("LastVoteCand")

// scripted runs a log store through the same random operations each time, and
// knows what was acknowledged.
type scripted struct {
	l           *Log
	rng         *rand.Rand
	first, last uint64 // of the acknowledged log
	term        uint64
	data        map[uint64]string
	votes       int

	// What the operation under way may have changed.
	deleting [2]uint64
	storing  uint64
}

func newScript(l *Log) *scripted {
	return &scripted{l: l, rng: rand.New(rand.NewPCG(1, 2)), first: 1, term: 1, data: map[uint64]string{}}
}

// step is one operation; it returns an error when that failed or did not
// return.
func (s *scripted) step() error {
	err, returned := disktest.Finishes(s.operation())
	if !returned {
		return errors.New("goroutine ended")
	}
	return err
}

func (s *scripted) operation() func() error {
	s.deleting, s.storing = [2]uint64{}, 0
	entries := s.last + 1 - s.first
	switch kind := s.rng.IntN(10); {
	case kind < 4 || entries < 5:
		return s.store(1 + s.rng.Uint64N(20))
	case kind < 6:
		index := s.first + s.rng.Uint64N(entries)
		return func() error { return s.check(index) }
	case kind == 6:
		return func() error {
			err := s.l.SetUint64(termKey, s.term+1)
			s.term++
			return err
		}
	case kind == 7:
		vote := s.votes + 1
		return func() error {
			err := s.l.Set(voteKey, fmt.Append(nil, vote))
			s.votes = vote
			return err
		}
	case kind == 8:
		return s.delete(s.first, s.first+s.rng.Uint64N(entries-1))
	default:
		return s.delete(s.last-s.rng.Uint64N(entries-1), s.last)
	}
}

func (s *scripted) store(n uint64) func() error {
	return func() error {
		entries := disktest.Entries(s.last+1, s.last+n, s.term)
		s.storing = n
		if err := s.l.StoreLogs(entries); err != nil {
			return err
		}
		for _, e := range entries {
			s.data[e.Index] = string(e.Data)
		}
		s.last += n
		return nil
	}
}

func (s *scripted) delete(from, to uint64) func() error {
	return func() error {
		s.deleting = [2]uint64{from, to}
		if err := s.l.DeleteRange(from, to); err != nil {
			return err
		}
		if from == s.first {
			s.first = to + 1
		} else {
			s.last = from - 1
		}
		return nil
	}
}

func (s *scripted) check(index uint64) error {
	var e raft.Log
	if err := s.l.GetLog(index, &e); err != nil {
		return err
	}
	if string(e.Data) != s.data[index] {
		return fmt.Errorf("entry %d holds %q in place of %q", index, e.Data, s.data[index])
	}
	return nil
}

// verify checks that a log store holds all that was acknowledged.
func (s *scripted) verify(t *testing.T, l *Log) {
	t.Helper()
	s.l = l
	for index := s.first; index <= s.last; index++ {
		if s.deleting[0] <= index && index <= s.deleting[1] {
			continue
		}
		if err := s.check(index); err != nil {
			t.Fatal(err)
		}
	}
	if first, last := l.Bounds(); first != 0 && (first > s.deleting[1]+1 && first > s.first || last > s.last+s.storing) {
		t.Fatalf("log is %d to %d, acknowledged %d to %d", first, last, s.first, s.last)
	}
	term, err := l.GetUint64(termKey)
	if err != nil || term != s.term && term != s.term+1 {
		t.Fatalf("term is %d, %v, acknowledged was %d", term, err, s.term)
	}
	vote, err := l.Get(voteKey)
	if got := string(vote); s.votes > 0 && (err != nil || got != fmt.Sprint(s.votes) && got != fmt.Sprint(s.votes+1)) {
		t.Fatalf("vote is %q, %v, acknowledged was %d", vote, err, s.votes)
	}
}

const scriptLength = 200

// openTestLog opens base with a log store whose failures fail the test.
func openTestLog(t testing.TB, base boltlog.Store) *Log {
	t.Helper()
	l, err := Open(Options{Store: base, Fail: disktest.FailTest(t)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// newScriptedDisk is a disk on which a first term was saved.
func newScriptedDisk(t *testing.T) *disktest.FaultStore {
	disk := disktest.NewFaultStore()
	if err := openTestLog(t, disk).SetUint64(termKey, 1); err != nil {
		t.Fatal(err)
	}
	return disk
}

func TestAStorageErrorAtAnyOperationStopsTheStoreOnceAndLosesNothing(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	l.limit = 500
	script := newScript(l)
	disk.FailAt(0, nil)
	for range scriptLength {
		if err := script.step(); err != nil {
			t.Fatal(err)
		}
	}
	script.verify(t, openTestLog(t, disk.Rebooted()))
	operations := disk.Count()
	if operations < scriptLength/2 {
		t.Fatalf("the script made only %d operations of storage", operations)
	}
	for name, fault := range disktest.Faults {
		t.Run(name, func(t *testing.T) {
			for k := 1; k <= operations; k++ {
				failScriptAt(t, k, fault)
			}
		})
	}
}

func failScriptAt(t *testing.T, k int, fault func(func()) error) {
	t.Helper()
	disk, told := newScriptedDisk(t), &disktest.Failures{}
	l, err := Open(Options{Store: disk, CacheBytes: 500, Fail: told.Tell})
	if err != nil {
		t.Fatal(err)
	}
	disk.FailAt(k, fault)
	script := newScript(l)
	for err == nil {
		err = script.step()
	}
	ended := *script
	for range 20 {
		if script.step() == nil {
			t.Fatalf("operation %d: an operation succeeded after the failure", k)
		}
	}
	if n := len(told.Told()); n != 1 {
		t.Fatalf("operation %d: told %d failures", k, n)
	}
	if n := disk.Count(); n != k {
		t.Fatalf("operation %d: %d operations of storage", k, n)
	}
	ended.verify(t, openTestLog(t, disk.Rebooted()))
}

func TestAWriteThatHangsStopsTheStore(t *testing.T) {
	writes := map[string]func(l *Log) error{
		"entries":  func(l *Log) error { return l.StoreLogs(disktest.Entries(11, 12, 1)) },
		"deletion": func(l *Log) error { return l.DeleteRange(1, 5) },
		"record":   func(l *Log) error { return l.Update(func(m *Record) { m.Cluster = "c" }) },
	}
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk, told := newScriptedDisk(t), &disktest.Failures{}
				l, err := Open(Options{Store: disk, Stall: 5 * time.Second, Fail: told.Tell})
				if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, 10, 1))); err != nil {
					t.Fatal(err)
				}
				disk.FailAt(1, func(do func()) error { time.Sleep(time.Minute); do(); return nil })
				returned := make(chan error, 1)
				go func() { returned <- write(l) }()

				time.Sleep(5*time.Second - time.Nanosecond)
				synctest.Wait()
				if errs := told.Told(); len(errs) != 0 {
					t.Fatalf("stopped too early: %v", errs)
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				errs := told.Told()
				if len(errs) != 1 || !strings.Contains(errs[0].Error(), "within 5s") {
					t.Fatalf("told %v", errs)
				}
				if err := l.Update(func(*Record) {}); err != errs[0] {
					t.Fatalf("the next write waited for the hanging one and returned %v", err)
				}
				if err := <-returned; err != errs[0] {
					t.Fatalf("the write that hung returned %v", err)
				}
				time.Sleep(time.Hour)
			})
		})
	}
}

func TestALargeWriteMayTakeLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, took := range []time.Duration{24 * time.Second, 26 * time.Second} {
			disk, told := newScriptedDisk(t), &disktest.Failures{}
			l, err := Open(Options{Store: disk, Stall: 5 * time.Second, Fail: told.Tell})
			if err != nil {
				t.Fatal(err)
			}
			disk.FailAt(1, func(do func()) error { time.Sleep(took); do(); return nil })
			err = l.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Data: make([]byte, 8<<20)}, {Index: 2, Term: 1, Data: make([]byte, 12<<20)}})
			if failed := took > 25*time.Second; (err != nil) != failed || len(told.Told()) > 0 != failed {
				t.Errorf("a write of 20 MiB that took %v: %v", took, err)
			}
		}
	})
}

func TestAQuickWriteLeavesNoWatchdogBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &disktest.Failures{}
		l, err := Open(Options{Store: newScriptedDisk(t), Stall: time.Second, Fail: told.Tell})
		if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, 10, 1))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if errs := told.Told(); len(errs) != 0 {
			t.Fatalf("told %v", errs)
		}
	})
}

func TestADeletionThatIsCutOffAnywhereLeavesALogToStartFrom(t *testing.T) {
	const entries = 5*deleteChunk + 10
	for name, c := range map[string]struct{ from, to, snapshot uint64 }{
		"prefix":                    {1, entries - 100, entries - 100},
		"suffix":                    {7, entries, 3},
		"all, replaced by snapshot": {1, entries, entries + 500},
		"all, conflicting tail":     {1, entries, 2*deleteChunk + 3},
	} {
		t.Run(name, func(t *testing.T) {
			for k := 1; ; k++ {
				disk, told := newScriptedDisk(t), &disktest.Failures{}
				l, err := Open(Options{Store: disk, Fail: told.Tell})
				if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, entries, 1))); err != nil {
					t.Fatal(err)
				}
				disk.FailAt(k, disktest.Faults["fails"])
				complete := l.DeleteRange(c.from, c.to) == nil
				again := openTestLog(t, disk.Rebooted())
				if err := again.alignWith(c.snapshot, 1); err != nil {
					t.Fatalf("cut off at operation %d: %v", k, err)
				}
				if first, last := again.Bounds(); first != 0 && (first > c.snapshot+1 || last < c.snapshot) {
					t.Fatalf("cut off at operation %d: log is %d to %d", k, first, last)
				}
				if complete {
					break
				}
				if k > 20 {
					t.Fatal("more chunks than expected")
				}
			}
		})
	}
}

func TestDeletingASuffixLowersWhatTheRecordCountsOn(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	if err := errors.Join(l.StoreLogs(disktest.Entries(1, 100, 1)), l.raiseTail(), l.DeleteRange(50, 100)); err != nil {
		t.Fatal(err)
	}
	if _, last := openTestLog(t, disk.Rebooted()).Bounds(); last != 49 {
		t.Fatalf("last entry is %d", last)
	}
}

func TestALogThatLostItsLastEntriesIsDamaged(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	if err := errors.Join(l.StoreLogs(disktest.Entries(1, 100, 1)), l.raiseTail(), disk.DeleteRange(100, 100)); err != nil {
		t.Fatal(err)
	}
	expectDamage(t, disk, "ends at entry 99")
}

// expectDamage expects Open to refuse disk with a text.
func expectDamage(t *testing.T, disk *disktest.FaultStore, text string) {
	t.Helper()
	_, err := Open(Options{Store: disk, Name: "raft.db", Fail: disktest.FailTest(t)})
	if !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), text) {
		t.Fatalf("got %v, expected damage with %q", err, text)
	}
}

func TestOpenNamesTheDamagedEntry(t *testing.T) {
	for text, damage := range map[string]func(*disktest.FaultStore){
		"read entry 5":                       func(d *disktest.FaultStore) { delete(d.Entries, 5) },
		"entry 5 does not match":             func(d *disktest.FaultStore) { e := d.Entries[5]; e.Term = 1; d.Entries[5] = e },
		"entry 6 has no checksum":            func(d *disktest.FaultStore) { e := d.Entries[6]; e.Extensions = nil; d.Entries[6] = e },
		"entry 4 is stored where entry 5":    func(d *disktest.FaultStore) { d.Entries[5] = d.Entries[4] },
		"entry 7 is of term 1":               func(d *disktest.FaultStore) { d.Entries[7] = *sealedEntry(7, 1) },
		"entry 8 is of term 9":               func(d *disktest.FaultStore) { d.Entries[8] = *sealedEntry(8, 9) },
		"does not match its checksum":        func(d *disktest.FaultStore) { d.Stable["kvraft"][20] ^= 4 },
		"ends at entry 8, but entries up to": func(d *disktest.FaultStore) { delete(d.Entries, 9); delete(d.Entries, 10) },
	} {
		t.Run(text, func(t *testing.T) {
			disk := newScriptedDisk(t)
			l := openTestLog(t, disk)
			if err := errors.Join(l.StoreLogs(disktest.Entries(1, 3, 1)), l.SetUint64(termKey, 3), l.StoreLogs(disktest.Entries(4, 10, 3)), l.raiseTail()); err != nil {
				t.Fatal(err)
			}
			damage(disk)
			expectDamage(t, disk, text)
		})
	}
}

// sealedEntry is an entry with a right checksum.
func sealedEntry(index, term uint64) *raft.Log {
	e := disktest.Entries(index, index, term)[0]
	e.Extensions = appendChecksum(nil, e)
	return e
}

func TestOldEntriesMayLackAChecksumWhereTheRecordSaysSo(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	old := disktest.Entries(1, 9, 1)
	for _, e := range old {
		e.Data = []byte(`{"op":"set","key":"k"}`)
	}
	err := errors.Join(disk.StoreLogs(old), l.Update(func(m *Record) { m.ChecksummedFrom = 10 }))
	if err != nil {
		t.Fatal(err)
	}
	l = openTestLog(t, disk)
	if err := l.StoreLogs(disktest.Entries(10, 12, 1)); err != nil {
		t.Fatal(err)
	}
	openTestLog(t, disk.Rebooted())
	disk.Entries[10] = *disktest.Entries(10, 10, 1)[0]
	expectDamage(t, disk, "entry 10 has no checksum")
	disk.Entries[5] = *disktest.Entries(5, 5, 1)[0]
	expectDamage(t, disk, "entry 5: decode log entry of hraftd")
}

func TestStoringLeavesRaftsEntryAlone(t *testing.T) {
	l := openTestLog(t, newScriptedDisk(t))
	entry := disktest.Entries(1, 1, 1)[0]
	if err := l.StoreLog(entry); err != nil || entry.Extensions != nil {
		t.Fatalf("%v, extensions %x", err, entry.Extensions)
	}
}

func TestAnEntryThatArrivesDamagedIsNotStored(t *testing.T) {
	disk, told := newScriptedDisk(t), &disktest.Failures{}
	l, err := Open(Options{Store: disk, Fail: told.Tell})
	if err != nil {
		t.Fatal(err)
	}
	entry := sealedEntry(1, 1)
	if err := l.StoreLog(entry); err != nil {
		t.Fatalf("an undamaged entry with a checksum: %v", err)
	}
	entry = sealedEntry(2, 1)
	entry.Data[3] ^= 1
	if err := l.StoreLog(entry); !errors.Is(err, errs.Damaged) || len(told.Told()) != 1 {
		t.Fatalf("got %v, told %v", err, told.Told())
	}
	if _, stored := disk.Entries[2]; stored {
		t.Fatal("it was stored")
	}
}

func TestEntriesThatWouldTearTheLogAreRefused(t *testing.T) {
	for _, tear := range []func(*Log) error{
		func(l *Log) error { return l.StoreLogs(disktest.Entries(12, 12, 1)) },
		func(l *Log) error { return l.StoreLogs(disktest.Entries(10, 11, 1)) },
		func(l *Log) error { return l.DeleteRange(3, 5) },
	} {
		told := &disktest.Failures{}
		l, err := Open(Options{Store: newScriptedDisk(t), Fail: told.Tell})
		if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, 10, 1))); err != nil {
			t.Fatal(err)
		}
		if err := tear(l); err == nil || len(told.Told()) != 1 {
			t.Fatalf("got %v, told %v", err, told.Told())
		}
	}
}

func TestAbsenceIsNotAFailure(t *testing.T) {
	l := openTestLog(t, disktest.NewFaultStore())
	if err := l.GetLog(1, new(raft.Log)); err != raft.ErrLogNotFound {
		t.Fatalf("got %v", err)
	}
	if _, err := l.GetUint64(termKey); err == nil || err.Error() != "not found" {
		t.Fatalf("got %v", err)
	}
}

func TestDamageFoundByAReaderStopsTheStore(t *testing.T) {
	for name, damage := range map[string]func(*disktest.FaultStore){
		"changed":  func(d *disktest.FaultStore) { e := d.Entries[1]; e.Data = []byte("x"); d.Entries[1] = e },
		"vanished": func(d *disktest.FaultStore) { delete(d.Entries, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			disk, told := newScriptedDisk(t), &disktest.Failures{}
			l, err := Open(Options{Store: disk, CacheBytes: 1, Fail: told.Tell})
			if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, 10, 1))); err != nil {
				t.Fatal(err)
			}
			damage(disk)
			// The error comes back: this is how replication reads.
			if err := l.GetLog(1, new(raft.Log)); !errors.Is(err, errs.Damaged) || len(told.Told()) != 1 {
				t.Fatalf("got %v, told %v", err, told.Told())
			}
		})
	}
}

func TestALogThatDoesNotFitTheSnapshot(t *testing.T) {
	for name, c := range map[string]struct {
		index, term uint64
		left        uint64 // entries
		damaged     bool
	}{
		"inside the log":              {50, 1, 91, false},
		"right before the log":        {9, 1, 91, false},
		"at the end of the log":       {100, 1, 91, false},
		"after the log":               {101, 1, 0, false},
		"of another term":             {50, 2, 0, false},
		"before the log, with a hole": {8, 1, 91, true},
		"none":                        {0, 0, 91, true},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newScriptedDisk(t)
			l := openTestLog(t, disk)
			if err := l.StoreLogs(disktest.Entries(10, 100, 1)); err != nil {
				t.Fatal(err)
			}
			err := l.CheckFollows(SnapshotMark{Index: c.index})
			if err == nil {
				err = l.alignWith(c.index, c.term)
			}
			if errors.Is(err, errs.Damaged) != c.damaged || err != nil && !c.damaged {
				t.Fatal(err)
			}
			if n := uint64(len(disk.Entries)); n != c.left {
				t.Fatalf("%d entries are left", n)
			}
		})
	}
}

// openLeadersLog opens a log with entries 1 to 10 as a leader of several voters has it.
func openLeadersLog(t *testing.T, disk *disktest.FaultStore, opt Options) *Log {
	t.Helper()
	opt.Store = disk
	l, err := Open(opt)
	if err := errors.Join(err, l.StoreLogs(disktest.Entries(1, 10, 1))); err != nil {
		t.Fatal(err)
	}
	l.SetHooks(Hooks{NeedsOthers: func() bool { return true }})
	return l
}

// takes returns how long f takes.
func takes(t *testing.T, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := f(); err != nil {
		t.Error(err)
	}
	return time.Since(began)
}

const slowly = time.Second

func slowDisk(do func()) error { time.Sleep(slowly); do(); return nil }

func TestALeadersEntriesCanBeReadWhileTheyAreStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newScriptedDisk(t)
		l := openLeadersLog(t, disk, Options{Fail: disktest.FailTest(t)})
		disk.FailAt(1, slowDisk)
		if took := takes(t, func() error { return l.StoreLogs(disktest.Entries(11, 12, 1)) }); took != 0 {
			t.Errorf("the leader waits %v for its disk", took)
		}
		var entry raft.Log
		if err := l.GetLog(12, &entry); err != nil || entry.Index != 12 {
			t.Errorf("entry 12: %+v, %v", entry, err)
		}
		if took := takes(t, func() error { return l.AwaitStored(10) }); took != 0 {
			t.Errorf("a wait of %v for an entry that is stored", took)
		}
		if took := takes(t, func() error { return l.AwaitStored(11) }); took != slowly {
			t.Errorf("entries are stored after %v, and were awaited for %v", slowly, took)
		}
		if _, err := Open(Options{Store: disk.Rebooted(), Fail: disktest.FailTest(t)}); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatChangesTheLogWaitsForEntriesThatAreBeingStored(t *testing.T) {
	for name, change := range map[string]func(*Log) error{
		"more entries": func(l *Log) error { return l.StoreLogs(disktest.Entries(13, 14, 1)) },
		"deletion":     func(l *Log) error { return l.DeleteRange(12, 12) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := newScriptedDisk(t)
				l := openLeadersLog(t, disk, Options{Fail: disktest.FailTest(t)})
				disk.FailAt(1, slowDisk)
				if err := l.StoreLogs(disktest.Entries(11, 12, 1)); err != nil {
					t.Fatal(err)
				}
				if took := takes(t, func() error { return change(l) }); took < slowly {
					t.Errorf("it waited %v of %v", took, slowly)
				}
				if err := l.Flush(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestTheRecordDoesNotCountOnEntriesThatAreBeingStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newScriptedDisk(t)
		l := openLeadersLog(t, disk, Options{Fail: disktest.FailTest(t)})
		disk.FailAt(1, slowDisk)
		err := l.StoreLogs(disktest.Entries(11, 12, 1))
		synctest.Wait() // the disk has the entries before it
		if err := errors.Join(err, l.Update(func(m *Record) { m.Cluster = "c" })); err != nil {
			t.Fatal(err)
		}
		crashed, err := Open(Options{Store: disk.Rebooted(), Fail: disktest.FailTest(t)})
		if err != nil {
			t.Fatal(err)
		}
		if _, last := crashed.Bounds(); last != 10 {
			t.Errorf("the log ends at %d", last)
		}
		if err := errors.Join(l.awaitAll(), l.raiseTail()); err != nil {
			t.Fatal(err)
		}
		if err := disk.DeleteRange(12, 12); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Store: disk.Rebooted(), Fail: disktest.FailTest(t)}); !errors.Is(err, errs.Damaged) {
			t.Errorf("a log that has lost its last entry opens: %v", err)
		}
	})
}

func TestALeaderWaitsForItsDiskWhereItMust(t *testing.T) {
	configuration := disktest.Entries(11, 11, 1)
	configuration[0].Type = raft.LogConfiguration
	for name, c := range map[string]struct {
		entries []*raft.Log
		cache   int64
	}{
		"a change of the configuration":       {configuration, 0},
		"entries that do not fit into memory": {disktest.Entries(11, 12, 1), 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := newScriptedDisk(t)
				l := openLeadersLog(t, disk, Options{CacheBytes: c.cache, Fail: disktest.FailTest(t)})
				disk.FailAt(1, slowDisk)
				if took := takes(t, func() error { return l.StoreLogs(c.entries) }); took != slowly {
					t.Errorf("it waited %v of %v", took, slowly)
				}
			})
		})
	}
}

func TestEntriesThatCannotBeStoredBehindStopTheStore(t *testing.T) {
	for name, fault := range disktest.Faults {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk, told := newScriptedDisk(t), &disktest.Failures{}
				l := openLeadersLog(t, disk, Options{Fail: told.Tell})
				disk.FailAt(1, fault)
				if err := l.StoreLogs(disktest.Entries(11, 12, 1)); err != nil {
					t.Fatal(err)
				}
				err := l.AwaitStored(12)
				synctest.Wait() // who waits may hear of it before the node does
				if errs := told.Told(); len(errs) != 1 || err != errs[0] {
					t.Errorf("awaited: %v, told %v", err, errs)
				}
				if again := l.StoreLogs(disktest.Entries(13, 13, 1)); again != err {
					t.Errorf("the next write: %v", again)
				}
			})
		})
	}
}

// A snapshot replaces the log up to its end, while raft stores what follows.
func TestWhatFollowsALogThatIsDeletedIsNotStoredBesideTheDeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 3 * deleteChunk
		disk := newScriptedDisk(t)
		l := openTestLog(t, disk)
		if err := l.StoreLogs(disktest.Entries(1, n, 1)); err != nil {
			t.Fatal(err)
		}
		goOn := make(chan struct{})
		disk.FailAt(2, func(do func()) error { do(); <-goOn; return nil })
		deleted, stored := make(chan error, 1), make(chan error, 1)
		go func() { deleted <- l.DeleteRange(1, n) }()
		synctest.Wait()
		if disk.Count() != 2 {
			t.Fatalf("%d operations", disk.Count())
		}
		go func() { stored <- l.StoreLogs(disktest.Entries(n+1, n+3, 1)) }()
		synctest.Wait()
		if again, err := Open(Options{Store: disk.Rebooted(), Fail: disktest.FailTest(t)}); err != nil {
			t.Errorf("after a power loss: %v", err)
		} else if first, last := again.Bounds(); first != 1 || last >= n {
			t.Errorf("after a power loss the log reaches from %d to %d", first, last)
		}
		close(goOn)
		if err := errors.Join(<-deleted, <-stored); err != nil {
			t.Fatal(err)
		}
		if first, last := l.Bounds(); first != n+1 || last != n+3 {
			t.Errorf("the log reaches from %d to %d", first, last)
		}
	})
}

func TestStoringNothingIsNoWrite(t *testing.T) {
	disk := newScriptedDisk(t)
	l := openTestLog(t, disk)
	l.SetHooks(Hooks{NeedsOthers: func() bool { return true }})
	disk.FailAt(0, nil)
	if err := l.StoreLogs(nil); err != nil || disk.Count() != 0 {
		t.Errorf("%v, %d operations", err, disk.Count())
	}
}

// Such an entry could be stored before messages were judged. raft panics on it.
func TestALogWithWhatRaftPanicsOnIsDamagedAndSaysWhere(t *testing.T) {
	for want, entry := range map[string]raft.Log{
		"failed to decode configuration": {Type: raft.LogConfiguration, Data: []byte("x")},
		"of type LogAddPeerDeprecated":   {Type: raft.LogAddPeerDeprecated},
		"of type 77":                     {Type: 77},
	} {
		disk := disktest.NewFaultStore()
		l := openTestLog(t, disk)
		entry.Index, entry.Term = 3, 1
		if err := errors.Join(l.SetUint64(termKey, 1), l.StoreLogs(disktest.Entries(1, 2, 1)), l.StoreLogs([]*raft.Log{&entry})); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Options{Store: disk, Fail: disktest.FailTest(t)})
		if !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "entry 3: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestATermThatNoElectionLeadsToIsDamage(t *testing.T) {
	disk := disktest.NewFaultStore()
	if err := openTestLog(t, disk).SetUint64(termKey, math.MaxUint64); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Store: disk, Fail: disktest.FailTest(t)})
	if !errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "18446744073709551615") {
		t.Errorf("got %v", err)
	}
}
