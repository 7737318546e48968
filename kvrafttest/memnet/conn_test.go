package memnet_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

const (
	latency = 500 * time.Microsecond // of a network without options
	window  = 64 << 10
)

func TestBytesArriveInOrderOneLatencyAfterTheyWereWritten(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		send(t, near, "one ")
		time.Sleep(latency / 2)
		send(t, near, "two")
		equal(t, elapsed(func() { receive(t, far, "one ") }), latency/2)
		equal(t, elapsed(func() { receive(t, far, "two") }), latency/2)
		send(t, far, "back")
		receive(t, near, "back")
	})
}

func TestAShorterDelayDoesNotLetBytesOvertake(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		n.SetDelay("a", "b", time.Minute)
		send(t, near, "slow ")
		n.SetDelay("a", "b", 0)
		send(t, near, "fast")
		near.Close()
		send(t, far, "the end does not overtake either")
		took := elapsed(func() { receiveAll(t, far, "slow fast") })
		equal(t, took, time.Minute)
	})
}

func TestHealHurriesWhatADelayHolds(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		n.SetDelay("a", "b", time.Hour)
		send(t, near, "slow")
		near.Close()
		time.AfterFunc(time.Second, n.Heal)
		took := elapsed(func() { receiveAll(t, far, "slow") })
		equal(t, took, time.Second+latency)
	})
}

func TestAWriteWaitsForRoomInTheWindow(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		done := make(chan int, 1)
		go func() {
			count, err := near.Write(pattern(0, window+10))
			equal(t, err, nil)
			done <- count
		}()
		time.Sleep(time.Hour)
		equal(t, len(done), 0)
		receiveBytes(t, far, pattern(0, 9))
		synctest.Wait()
		equal(t, len(done), 0)
		receiveBytes(t, far, pattern(9, 1))
		equal(t, <-done, window+10)
		receiveBytes(t, far, pattern(10, window))
		send(t, far, "the other direction has its own")
	})
}

func TestAWindowCanBeSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.WithWindow(0), memnet.WithLatency(-1))
		near, far := pair(t, n, "a", "b")
		go near.Write([]byte("one at a time"))
		took := elapsed(func() { receive(t, far, "one at a time") })
		equal(t, took, 0)
	})
}

func TestCloseLetsTheDataArriveAndThenEOF(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		send(t, near, "last words")
		equal(t, near.Close(), nil)
		equal(t, near.Close(), nil)
		receiveAll(t, far, "last words")
		_, err := far.Write([]byte("x"))
		is(t, err, syscall.ECONNRESET)
	})
}

func TestTheNewsOfACloseTakesOneLatency(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		near.Close()
		send(t, far, "not known yet")
		took := elapsed(func() { receiveAll(t, far, "") })
		equal(t, took, latency)
	})
}

func TestAWriteThatWaitsLearnsThatThePeerClosed(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		time.AfterFunc(time.Second, func() { far.Close() })
		took := elapsed(func() {
			count, err := near.Write(make([]byte, 2*window))
			equal(t, count, window)
			is(t, err, syscall.ECONNRESET)
		})
		equal(t, took, time.Second+latency)
	})
}

func TestAWriteThatBeginsToWaitLearnsOfACloseOnItsWay(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		far.Close()
		took := elapsed(func() {
			_, err := near.Write(make([]byte, 2*window))
			is(t, err, syscall.ECONNRESET)
		})
		equal(t, took, latency)
	})
}

func TestCallsOnAClosedEndFail(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		send(t, far, "never read")
		near.Close()
		fails(t, near, net.ErrClosed)
		is(t, near.SetDeadline(time.Time{}), net.ErrClosed)
		_, err := near.Read(nil)
		is(t, err, net.ErrClosed)
	})
}

func TestCloseWakesCallsThatWait(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, _ := pair(t, n, "a", "b")
		failed := make(chan error)
		for range 3 { // one waits for bytes or room, the others for their turn
			go func() {
				_, err := near.Read(make([]byte, 1))
				failed <- err
			}()
			go func() {
				_, err := near.Write(make([]byte, 2*window))
				failed <- err
			}()
		}
		synctest.Wait()
		near.Close()
		for range 6 {
			is(t, <-failed, net.ErrClosed)
		}
	})
}

func TestConcurrentWritesDoNotMingle(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		const size = 3 * window
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				_, err := near.Write(bytes.Repeat([]byte{byte(i)}, size))
				equal(t, err, nil)
			})
		}
		go func() {
			wg.Wait()
			near.Close()
		}()
		got, err := io.ReadAll(far)
		equal(t, err, nil)
		equal(t, len(got), 4*size)
		for block := range 4 {
			part := got[block*size : (block+1)*size]
			equal(t, bytes.Count(part, part[:1]), size)
		}
	})
}

func TestAnEmptyReadOrWriteDoesNotWait(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, _ := pair(t, n, "a", "b")
		count, err := near.Read(nil)
		equal(t, count, 0)
		equal(t, err, nil)
		count, err = near.Write(nil)
		equal(t, count, 0)
		equal(t, err, nil)
	})
}

// Deadlines.

func TestADeadlineEndsItsOwnDirection(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		near.SetReadDeadline(time.Now().Add(time.Second))
		equal(t, elapsed(func() { timesOut(t, read(near)) }), time.Second)
		send(t, near, "writing goes on")

		near.SetWriteDeadline(time.Now().Add(time.Minute))
		equal(t, elapsed(func() {
			count, err := near.Write(make([]byte, 2*window))
			equal(t, count, window-len("writing goes on"))
			timesOut(t, err)
		}), time.Minute)

		near.SetDeadline(time.Time{})
		send(t, far, "and on")
		receive(t, near, "and on")
	})
}

func TestADeadlineThatHasPassedFailsWithDataAtHand(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		send(t, near, "kept")
		time.Sleep(latency)
		far.SetDeadline(time.Now())
		timesOut(t, read(far))
		_, err := far.Write([]byte("x"))
		timesOut(t, err)
		far.SetDeadline(time.Time{})
		receive(t, far, "kept")
	})
}

func TestADeadlineSetLaterReachesACallThatWaits(t *testing.T) {
	for _, first := range []time.Duration{0, time.Hour, time.Second} { // none, to be shortened, to be put off
		bubble(t, func(t *testing.T, n *memnet.Network) {
			near, _ := pair(t, n, "a", "b")
			start := time.Now()
			if first > 0 {
				near.SetReadDeadline(start.Add(first))
			}
			time.AfterFunc(time.Second/2, func() { near.SetReadDeadline(start.Add(time.Minute)) })
			equal(t, elapsed(func() { timesOut(t, read(near)) }), time.Minute)
		})
	}
}

func TestADeadlineTakenAwayLetsACallWaitOn(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		near.SetReadDeadline(time.Now().Add(time.Second))
		time.AfterFunc(time.Second/2, func() { near.SetReadDeadline(time.Time{}) })
		time.AfterFunc(time.Minute, func() { send(t, far, "late") })
		receive(t, near, "late")
	})
}

func TestADeadlineInThePastWakesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, _ := pair(t, n, "a", "b")
		failed := make(chan error, 2)
		for range 2 {
			go func() { failed <- read(near) }()
		}
		synctest.Wait()
		near.SetReadDeadline(time.Now().Add(-time.Hour))
		synctest.Wait()
		equal(t, len(failed), 2)
		timesOut(t, <-failed)
		timesOut(t, <-failed)
	})
}

func TestClosedConnectionsLeaveNothingBehind(t *testing.T) {
	const connections = 20_000
	var before, after runtime.MemStats
	bubble(t, func(t *testing.T, n *memnet.Network) { // fails by itself if a goroutine is left
		l := listen(t, n, "b:1")
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range connections {
			near := dial(t, n, "a", "b:1")
			far, err := l.Accept()
			equal(t, err, nil)
			send(t, near, "ping")
			receive(t, far, "ping")
			near.Close()
			receiveAll(t, far, "")
			far.Close()
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(n)
	})
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 100*connections {
		t.Errorf("%d connections left %d bytes", connections, grown)
	}
}

func BenchmarkMessages(b *testing.B) {
	n := memnet.New(memnet.WithLatency(0))
	near, far := pair(b, n, "a", "b")
	go func() {
		defer near.Close()
		message := make([]byte, 100)
		for range b.N {
			if _, err := near.Write(message); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	b.ReportAllocs()
	message := make([]byte, 100)
	for range b.N {
		if _, err := io.ReadFull(far, message); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	n, err := c.Write([]byte(text))
	equal(t, n, len(text))
	equal(t, err, nil)
}

func receive(t *testing.T, c net.Conn, want string) {
	t.Helper()
	receiveBytes(t, c, []byte(want))
}

func receiveBytes(t *testing.T, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("received %.40q, %v; want %.40q", got[:n], err, want)
	}
}

// receiveAll expects the text and then the end.
func receiveAll(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got, err := io.ReadAll(c)
	equal(t, string(got), want)
	equal(t, err, nil)
}

func read(c net.Conn) error {
	_, err := c.Read(make([]byte, 1))
	return err
}

// fails expects reads and writes to fail alike.
func fails(t *testing.T, c net.Conn, want error) {
	t.Helper()
	is(t, read(c), want)
	_, err := c.Write([]byte("x"))
	is(t, err, want)
}

func timesOut(t *testing.T, err error) {
	t.Helper()
	is(t, err, os.ErrDeadlineExceeded)
	var timeout net.Error
	equal(t, errors.As(err, &timeout) && timeout.Timeout(), true)
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func equal[T comparable](t testing.TB, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func elapsed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func TestAConnectionCanBeClosedInOneDirection(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		send(t, near, "question")
		equal(t, near.(interface{ CloseWrite() error }).CloseWrite(), nil)
		_, err := near.Write([]byte("more"))
		is(t, err, syscall.EPIPE)
		receiveAll(t, far, "question")
		send(t, far, "answer")
		receive(t, near, "answer")
		near.Close()
		time.Sleep(latency)
		_, err = far.Write([]byte("more"))
		is(t, err, syscall.ECONNRESET)
	})
}

func TestAPipeTakesWhatItIsGivenWithoutATime(t *testing.T) {
	near, far := memnet.Pipe()
	send(t, near, string(make([]byte, 1<<20)))
	near.Close()
	receiveAll(t, far, string(make([]byte, 1<<20)))
}
