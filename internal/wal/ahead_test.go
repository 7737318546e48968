package wal

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/kvraft/kvraft/internal/disktest"
)

// slowDisk is a disk on which it takes until filling is closed to fill the first segment
// ahead.
type slowDisk struct {
	*testDisk
	filling chan struct{}
	begun   int
}

func (d *slowDisk) beside(f func()) {
	if d.begun++; d.begun > 1 {
		f()
		return
	}
	go func() {
		<-d.filling
		f()
	}()
}

// untilFilling is a log that has begun to fill its third segment, and the index of the next entry.
func untilFilling(t *testing.T) (disk *slowDisk, l *Log, next uint64) {
	t.Helper()
	disk = &slowDisk{newTestDisk(1), make(chan struct{}), 0}
	opt := smallSegments
	opt.files = disk
	l, err := Create("", opt)
	if err != nil {
		t.Fatal(err)
	}
	for next = 1; disk.begun == 0; next++ {
		disktest.Must(t, l.StoreLog(numbered(next, next, 1, 600)[0]))
	}
	return disk, l, next
}

func TestWritesGoOnWhileTheNextSegmentIsFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, l, next := untilFilling(t)
		store := func() {
			disktest.Must(t, l.StoreLog(numbered(next, next, 1, 600)[0]))
			next++
		}
		store()
		if l.spare != nil || l.current.number != 2 {
			t.Fatalf("segment %d, and the next is there: %v", l.current.number, l.spare != nil)
		}
		close(disk.filling)
		synctest.Wait()
		store()
		if l.spare == nil || l.spare.number != 3 {
			t.Fatal("a write has not found the segment that was filled")
		}
		for l.current.number < 4 {
			store()
		}
		want := holding(numbered(1, next-1, 1, 600))
		disktest.Must(t, l.Close())
		opened, err := Open("", l.ID(), Options{files: disk})
		if err != nil || want.differs(opened) != nil {
			t.Fatal(err, want.differs(opened))
		}
	})
}

func TestAWriteThatNeedsTheNextSegmentWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, l, next := untilFilling(t)
		stored := make(chan error)
		go func() {
			for i := next; i < next+20; i++ {
				if err := l.StoreLog(numbered(i, i, 1, 600)[0]); err != nil {
					stored <- err
				}
			}
			stored <- nil
		}()
		synctest.Wait()
		if last, _ := l.LastIndex(); last >= next+19 {
			t.Error("nothing has waited: the test shows nothing")
		}
		close(disk.filling)
		disktest.Must(t, <-stored)
		disktest.Must(t, l.Close())
	})
}

func TestCloseWaitsForWhoFillsASegmentAndLeavesNothingOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, l, _ := untilFilling(t)
		closed := make(chan error, 1)
		go func() { closed <- l.Close() }()
		synctest.Wait()
		if len(closed) > 0 {
			t.Error("it did not wait")
		}
		close(disk.filling)
		disktest.Must(t, <-closed)
		if _, ok := disk.names[unfinished]; ok {
			t.Errorf("%s is there", unfinished)
		}
	})
}

func TestAnErrorOfFillingIsThatOfTheNextWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, l, next := untilFilling(t)
		disk.failure, disk.failAt = errors.New("input/output error"), disk.operations+1
		close(disk.filling)
		synctest.Wait()
		if err := l.StoreLog(numbered(next, next, 1, 600)[0]); !errors.Is(err, disk.failure) || disk.after > 0 {
			t.Errorf("%v, after %d further operations", err, disk.after)
		}
	})
}
