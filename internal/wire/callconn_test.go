package wire

import (
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

func TestACallEndsWhenItsCallerHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCallServer(t)
		near, far := memnet.Pipe()
		done := make(chan struct{})
		go func() { s.serveCalls(far, helloB); close(done) }()
		if _, err := near.Write(callFrame(CallCatchUp, MaxCall, forever)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // virtual
		near.Close()
		began := time.Now()
		<-done
		if took := time.Since(began); took > time.Second {
			t.Errorf("it went on for %v", took)
		}
		if n := s.waiting.Load(); n != 0 {
			t.Errorf("%d waiters are left", n)
		}
	})
}

// Whether the caller is still there is looked for on its connection: what it sends next
// is not lost.
func TestACallThatTakesLongLeavesTheNextOneWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCallServer(t)
		conn := servedBy(t, s, helloB)
		for range 3 {
			for _, takes := range []time.Duration{time.Millisecond, 100 * time.Millisecond, 3 * time.Second} {
				if _, err := conn.Write(callFrame(CallCatchUp, takes, forever)); err != nil {
					t.Fatal(err)
				}
				if code, _, err := readAnswer(t.Context(), conn, 0); code != 2 || err != nil {
					t.Fatalf("a call of %v: code %d, %v, want that of errs.Unknown", takes, code, err)
				}
			}
		}
		slow, next := callFrame(CallCatchUp, 3*time.Second, forever), callFrame(CallLastIndex, time.Minute, "")
		if _, err := conn.Write(slow); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)                     // virtual
		if _, err := conn.Write(next); err != nil { // nobody does that
			t.Fatal(err)
		}
		for _, want := range []byte{2, 0} {
			if code, _, err := readAnswer(t.Context(), conn, 0); code != want || err != nil {
				t.Fatalf("answered with code %d, %v, want %d", code, err, want)
			}
		}
	})
}

// drip sends a call of size bytes at a rate, until the connection ends.
func drip(conn net.Conn, size, perSecond int) {
	frame := callFrame(CallWrite, MaxCall, "")
	binary.BigEndian.PutUint32(frame[5:], uint32(size))
	_, err := conn.Write(frame)
	for ; err == nil; time.Sleep(time.Second) {
		_, err = conn.Write(make([]byte, perSecond))
	}
}

func TestACallThatDripsEndsTheConnection(t *testing.T) {
	for rate, most := range map[int]time.Duration{1: 13 * time.Second, 100 << 10: 14 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			conn := servedBy(t, newCallServer(t), helloB)
			began := time.Now()
			drip(conn, MaxFrame, rate)
			if took := time.Since(began); took > most {
				t.Errorf("%d bytes a second were read for %v", rate, took)
			}
		})
	}
}

// stallFrame sends the head of a call and so many bytes of it.
func stallFrame(t *testing.T, conn net.Conn, size, sent int) {
	t.Helper()
	frame := callFrame(CallWrite, MaxCall, "")
	binary.BigEndian.PutUint32(frame[5:], uint32(size))
	if _, err := conn.Write(append(frame, make([]byte, sent)...)); err != nil {
		t.Fatal(err)
	}
}

func TestCallsThatAreUnderWayShareABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCallServer(t)
		for range 7 {
			stallFrame(t, servedBy(t, s, helloB), MaxFrame, 8<<20) // each holds as much as it has grown to
		}
		synctest.Wait()
		conn := servedBy(t, s, helloB)
		_, err := callOn(t, conn, CallWrite, time.Minute, strings.Repeat("x", 40<<20))
		if !errors.Is(err, errs.Unsent) || !strings.Contains(err.Error(), "memory") {
			t.Errorf("one too many: %v, want errs.Unsent and why", err)
		}
		if _, err := callOn(t, conn, CallLastIndex, time.Minute, ""); err != nil {
			t.Errorf("a small one on the same connection: %v", err)
		}
		time.Sleep(MessageTimeout + 9*time.Second) // virtual: those that stalled are given up
		if _, err := callOn(t, conn, CallWrite, time.Minute, strings.Repeat("x", 40<<20)); err != nil {
			t.Errorf("when there is room again: %v", err)
		}
		synctest.Wait()
		if !s.budget.TryAcquire(callBytes) {
			t.Error("some of the budget is lost")
		}
	})
}

func TestAFrameTakesMemoryByWhatArrives(t *testing.T) {
	for _, size := range []int{0, 1, firstBytes - 1, firstBytes, firstBytes + 1, 5 * firstBytes, 1 << 20} {
		payload, arrived := strings.Repeat("x", size), 0
		r := readerFunc(func(b []byte) (int, error) {
			n := copy(b, payload[arrived:])
			arrived += n
			return n, nil
		})
		got, err := readFrame(r, uint32(size), func(bytes int) bool {
			if bytes > 4*max(arrived, firstBytes) {
				t.Errorf("%d bytes are taken for %d that have arrived", bytes, arrived)
			}
			return true
		})
		if err != nil || string(got) != payload {
			t.Errorf("%d bytes: %d arrived, %v", size, len(got), err)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestOnlyWritesAndReadsMayBeLarge(t *testing.T) {
	for m := range CallStart + 2 {
		for _, unnamed := range []bool{false, true} {
			large := !unnamed && (m == CallWrite || m == CallGet)
			if n := m.limit(unnamed); large != (n > 64<<10) {
				t.Errorf("call %d may have %d bytes, where no node is named is %v", m, n, unnamed)
			}
		}
	}
}

func TestACallOverItsLimitIsToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := servedBy(t, newCallServer(t), helloB)
		_, err := callOn(t, conn, CallJoin, time.Minute, strings.Repeat("x", maxSmallFrame+1))
		if !errors.Is(err, errs.TooLarge) {
			t.Errorf("got %v, want errs.TooLarge", err)
		}
		endsAt(t, conn, 0)
	})
}

func TestHeadsOfCallsTakeLittleMemory(t *testing.T) {
	s := newCallServer(t)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const conns = 200
	for range conns {
		stallFrame(t, servedBy(t, s, helloB), MaxFrame, 0)
	}
	runtime.ReadMemStats(&after)
	if per := (int64(after.TotalAlloc) - int64(before.TotalAlloc)) / conns; per > 64<<10 {
		t.Errorf("%d KiB for each head", per>>10)
	}
}

func TestAConnectionWithoutCallsEnds(t *testing.T) {
	for name, c := range map[string]struct {
		h     Hello
		limit time.Duration
	}{
		"of a node":         {helloB, IdleLimit},
		"that names nobody": {Hello{For: ForRPC, From: "x#1"}, unnamedLimit},
	} {
		synctest.Test(t, func(t *testing.T) {
			conn := servedBy(t, newCallServer(t), c.h)
			t.Log(name)
			endsAt(t, conn, c.limit)
			conn = servedBy(t, newCallServer(t), c.h)
			time.Sleep(c.limit / 2) // virtual
			if _, err := callOn(t, conn, CallJoin, time.Minute, "{"); !errors.Is(err, errs.Invalid) {
				t.Error(err)
			}
			endsAt(t, conn, c.limit)
		})
	}
}
