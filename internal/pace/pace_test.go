package pace

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// slowFile takes its time for each write and sync.
type slowFile struct {
	takes  time.Duration
	fails  error // of Sync
	synced int
	pieces []int
	n      int
}

func never() bool { return false }

func (f *slowFile) Write(p []byte) (int, error) {
	time.Sleep(f.takes)
	f.n += len(p)
	f.pieces = append(f.pieces, len(p))
	return len(p), nil
}

func (f *slowFile) Sync() error {
	time.Sleep(f.takes)
	f.synced = f.n
	return f.fails
}

func TestPiecesAreWrittenWithRests(t *testing.T) {
	for takes, rest := range map[time.Duration]time.Duration{
		time.Millisecond: 6 * time.Millisecond,
		time.Second:      longestRest,
	} {
		synctest.Test(t, func(t *testing.T) {
			file := &slowFile{takes: takes}
			began := time.Now()
			if n, err := NewWriter(t.Context(), file, never).Write(make([]byte, 8*PieceBytes)); n != 8*PieceBytes || err != nil {
				t.Fatal(n, err)
			}
			if file.synced != file.n {
				t.Errorf("%d of %d bytes are on stable storage", file.synced, file.n)
			}
			if !slices.Equal(file.pieces, slices.Repeat([]int{PieceBytes}, 8)) {
				t.Errorf("the pieces have %d bytes", file.pieces)
			}
			if took := time.Since(began); took != 8*(2*takes+rest) {
				t.Errorf("8 pieces that take %v each took %v", 2*takes, took)
			}
		})
	}
}

func TestThereIsNoRestInAHurryOrAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended, end := context.WithCancel(t.Context())
		end()
		for name, w := range map[string]Writer{
			"in a hurry": NewWriter(t.Context(), &slowFile{takes: time.Second}, func() bool { return true }),
			"at the end": NewWriter(ended, &slowFile{takes: time.Second}, never),
		} {
			began := time.Now()
			_, err := w.Write(make([]byte, 2*PieceBytes))
			if took := time.Since(began); err != nil || took != 4*time.Second {
				t.Errorf("%s: %v, and took %v, want 4s", name, err, took)
			}
		}
	})
}

func TestAPieceThatCannotBeSyncedIsNotWritten(t *testing.T) {
	file := &slowFile{fails: errors.New("enough")}
	if _, err := NewWriter(t.Context(), file, never).Write([]byte("x")); err != file.fails {
		t.Errorf("got %v, want the error of the sync", err)
	}
}

// slowHash takes a virtual millisecond for each KiB.
type slowHash struct{ hash.Hash }

func (h slowHash) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * time.Millisecond >> 10)
	return h.Hash.Write(p)
}

func TestAHashTakesHalfOfTheTimeAtMost(t *testing.T) {
	for _, size := range []int{1 << 10, 300 << 10, 2 << 20} { // of each value
		synctest.Test(t, func(t *testing.T) {
			value := make([]byte, size)
			paced, plain := NewHash(slowHash{sha256.New()}, nil), sha256.New()
			began := time.Now()
			for written := 0; written < 4<<20; written += size {
				_, _ = paced.Write(value)
				_, _ = plain.Write(value)
			}
			rests := time.Since(began) - 4096*time.Millisecond
			if least := 15 * longestRest; rests < least { // after each 256 KiB, but for a few at the end
				t.Errorf("values of %d bytes: rests of %v, want %v", size, rests, least)
			}
			if !bytes.Equal(paced.Sum(nil), plain.Sum(nil)) {
				t.Error("the hash is another")
			}
		})
	}
}

func TestAHashDoesNotRestWhenTheStoreCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		close(ended)
		h := NewHash(slowHash{sha256.New()}, ended)
		began := time.Now()
		_, _ = h.Write(make([]byte, 1<<20))
		if took := time.Since(began); took != 1024*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}
