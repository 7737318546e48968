package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

// callOn makes one call on conn, as the other side of serveCalls.
func callOn(t *testing.T, conn net.Conn, m Method, timeout time.Duration, payload string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	answer, alive, err := exchange(ctx, conn, question{m, []byte(payload), 0})
	if !alive {
		t.Fatalf("call %d ended the connection: %v", m, err)
	}
	return answer, err
}

// servedBy is a connection on which s answers.
func servedBy(t *testing.T, s *callServer, h Hello) net.Conn {
	near, far := memnet.Pipe()
	go func() {
		s.serveCalls(far, h)
		far.Close()
	}()
	t.Cleanup(func() { near.Close() })
	return near
}

// callServer is a port on b that answers calls.
type callServer struct {
	*Port
	waiting atomic.Int32 // calls that ask for forever
}

// forever asks for what never comes; all else is answered with itself.
const forever = "forever"

func newCallServer(t testing.TB) *callServer {
	listener, err := newLAN().Host("b").Listen("b:1")
	if err != nil {
		t.Fatal(err)
	}
	s := &callServer{Port: New(t.Context(), Config{Listener: listener, Log: hclog.NewNullLogger()}, solo{nodeB})}
	t.Cleanup(s.Close)
	for m := CallWrite; m <= CallStart; m++ {
		s.Handle(m, s.echo)
	}
	HandleJSON(s.Port, CallJoin, func(_ context.Context, req map[string]string) (Raw, error) { return Raw(req["echo"]), nil })
	return s
}

func (s *callServer) echo(ctx context.Context, payload []byte) ([]byte, error) {
	if string(payload) == forever {
		s.waiting.Add(1)
		defer s.waiting.Add(-1)
		<-ctx.Done()
		return nil, errs.Ended(ctx)
	}
	return payload, nil
}

var helloB = Hello{For: ForRPC, Cluster: "c1", From: "a#1", To: "b#2"}

func TestOneConnectionServesCallAfterCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := servedBy(t, newCallServer(t), helloB)
		for index := range 6 {
			time.Sleep(IdleLimit - time.Millisecond) // virtual: it may be idle that long
			want := fmt.Sprint(index)
			if answer, err := callOn(t, conn, CallCatchUp, time.Minute, want); err != nil || string(answer) != want {
				t.Errorf("%q, %v, want %q", answer, err, want)
			}
		}
	})
}

func TestACallThatIsUnknownHereIsInvalidAndTheConnectionGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := servedBy(t, newCallServer(t), helloB)
		for _, m := range []Method{0, CallStart + 1, 255} {
			if _, err := callOn(t, conn, m, time.Minute, "payload"); !errors.Is(err, errs.Invalid) {
				t.Errorf("call %d: %v, want errs.Invalid", m, err)
			}
		}
	})
}

func TestAKnockMayAskForAdmissionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := servedBy(t, newCallServer(t), Hello{For: ForRPC, From: "a#1"})
		for m := range Method(255) {
			_, err := callOn(t, conn, m, time.Minute, `{}`)
			allowed := m == CallJoin || m == CallAdmit || m == CallFound || m == CallClaim
			if refused := errors.Is(err, errs.Invalid) && strings.Contains(err.Error(), "without naming the node"); refused == allowed {
				t.Errorf("call %d: %v", m, err)
			}
		}
	})
}

// Messages are JSON, or what they are.
func TestAMessageThatIsNoJSONIsInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		b := newTestPort(t, lan, "b:1", nodeB, nil)
		var from Hello
		HandleJSON(b, CallFound, func(ctx context.Context, numbers []int) (map[string]int, error) {
			from = CallerOf(ctx)
			return map[string]int{"numbers": len(numbers)}, nil
		})
		b.Handle(CallAdmit, func(_ context.Context, payload []byte) ([]byte, error) { return append(payload, '!'), nil })
		b.Start()
		a := newTestPort(t, lan, "a:1", nodeA, nil)
		answer, err := AskJSON[map[string]int](t.Context(), a, "b:1", CallFound, []int{1, 2, 3})
		if err != nil || answer["numbers"] != 3 || from.From != nodeA.Server || from.To != "" {
			t.Errorf("%v, %v, from %+v", answer, err, from)
		}
		if answer, err = CallJSON[map[string]int](t.Context(), a, peerB, CallFound, []int{1}); err != nil || answer["numbers"] != 1 || from.To != nodeB.Server {
			t.Errorf("%v, %v, from %+v", answer, err, from)
		}
		for _, payload := range []string{"", "x", "{}"} {
			if _, err := AskJSON[Raw](t.Context(), a, "b:1", CallFound, Raw(payload)); !errors.Is(err, errs.Invalid) {
				t.Errorf("%q: %v, want errs.Invalid", payload, err)
			}
		}
		if answer, err := AskJSON[Raw](t.Context(), a, "b:1", CallAdmit, "x"); err != nil || string(answer) != `"x"!` {
			t.Errorf("%q, %v", answer, err)
		}
		if answer, err := AskJSON[string](t.Context(), a, "b:1", CallAdmit, Raw("x")); err == nil {
			t.Errorf("no JSON is %q", answer)
		}
		if _, err := AskJSON[Raw](t.Context(), a, "c:1", CallAdmit, "x"); !errors.Is(err, errs.Unreachable) {
			t.Errorf("nobody is there: %v", err)
		}
	})
}

func TestACallEndsJustBeforeTheTimeOfItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCallServer(t)
		conn := servedBy(t, s, helloB)
		if _, err := conn.Write(callFrame(CallCatchUp, 1500*time.Millisecond, forever)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		head := make([]byte, 5)
		if _, err := io.ReadFull(conn, head); err != nil || head[0] != 2 {
			t.Errorf("answered %v, %v, want the code of errs.Unknown", head, err)
		}
		if took := time.Since(began); took != 1400*time.Millisecond {
			t.Errorf("answered after %v, want 1.4s", took)
		}
		if n := s.waiting.Load(); n != 0 {
			t.Errorf("%d waiters are left", n)
		}
	})
}

func TestNoCallLastsLongerThanTheLongest(t *testing.T) {
	near, far := memnet.Pipe()
	if _, err := far.Write(callFrame(CallCatchUp, 49*24*time.Hour, "")); err != nil {
		t.Fatal(err)
	}
	if _, timeout, _, err := readCall(near); err != nil || timeout != MaxCall {
		t.Errorf("a call of 49 days may take %v, %v, want %v", timeout, err, MaxCall)
	}
}

func TestACallEndsWithThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCallServer(t)
		conn := servedBy(t, s, helloB)
		time.AfterFunc(time.Second, s.Cut)
		began := time.Now()
		if _, err := callOn(t, conn, CallCatchUp, time.Hour, forever); !errors.Is(err, errs.Unknown) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v, want errs.Unknown after 1s", time.Since(began), err)
		}
	})
}

func TestACallThatStallsInItsMiddleEndsTheConnection(t *testing.T) {
	whole := callFrame(CallCatchUp, time.Minute, forever)
	for n := 1; n < len(whole); n++ {
		synctest.Test(t, func(t *testing.T) {
			conn := servedBy(t, newCallServer(t), helloB)
			time.Sleep(IdleLimit - time.Millisecond) // virtual
			if _, err := conn.Write(whole[:n]); err != nil {
				t.Fatal(err)
			}
			endsWithin(t, conn, MessageTimeout, MessageTimeout+time.Millisecond)
		})
	}
}

func TestACallOverTheLimitEndsTheConnectionAtOnce(t *testing.T) {
	for _, size := range []uint32{MaxFrame + 1, 1<<32 - 1} {
		synctest.Test(t, func(t *testing.T) {
			conn := servedBy(t, newCallServer(t), helloB)
			frame := callFrame(CallWrite, time.Minute, "")
			binary.BigEndian.PutUint32(frame[5:], size)
			if _, err := conn.Write(frame); err != nil {
				t.Fatal(err)
			}
			endsAt(t, conn, 0)
		})
	}
}

// stuckConn is a connection whose other side reads nothing.
type stuckConn struct {
	net.Conn
	limit time.Time
}

func (c *stuckConn) SetWriteDeadline(limit time.Time) error { c.limit = limit; return nil }
func (c *stuckConn) Write([]byte) (int, error) {
	time.Sleep(time.Until(c.limit)) // virtual
	return 0, os.ErrDeadlineExceeded
}

func TestAnAnswerThatNobodyTakesEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memnet.Pipe()
		if _, err := far.Write(callFrame(0, time.Minute, "")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		newCallServer(t).serveCalls(&stuckConn{Conn: near}, helloB)
		if took := time.Since(began); took < MessageTimeout || took > MessageTimeout+time.Millisecond {
			t.Errorf("gave up after %v, want %v", took, MessageTimeout)
		}
	})
}

// Whatever a peer sends, the node that serves it answers each whole call once,
// in order, and ends the connection at the first thing that is none; and the
// node that called it takes a whole answer, or gives the connection up.
func FuzzCall(f *testing.F) {
	f.Add(callFrame(CallWrite, time.Second, "group"), true)
	f.Add(append(callFrame(CallConfirm, 0, "12345678"), callFrame(CallCatchUp, MaxCall, `{"target":0}`)...), true)
	f.Add(append(callFrame(CallNodes, 0, ""), callFrame(CallLastIndex, 0, "")[:5]...), true)
	f.Add(callFrame(CallJoin, time.Minute, `{"echo":"x"}`), false)
	f.Add(callFrame(CallJoin, time.Minute, `{`), true)
	f.Add(callFrame(CallAdmit, time.Minute, forever), false)
	f.Add(callFrame(99, time.Minute, "x"), false)
	f.Add(callFrame(CallWrite, time.Minute, ""), false)
	f.Add([]byte{1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, true)
	f.Add(answerFrame(0, "answer"), true)
	f.Add(answerFrame(4, "too large"), true)
	f.Add(answerFrame(200, ""), false)
	f.Fuzz(func(t *testing.T, data []byte, meant bool) {
		h := Hello{For: ForRPC, Cluster: "c1", From: "a#1"}
		if meant {
			h.To = "b#2"
		}
		checkServing(t, data, h, answersTo(data, h.To == ""))
		checkCalling(t, data)
	})
}

// answersTo counts the whole calls in data, and one over its limit, which is the last.
func answersTo(data []byte, unnamed bool) (answers int) {
	for len(data) >= 9 {
		m, n := Method(data[0]), binary.BigEndian.Uint32(data[5:])
		if data = data[9:]; n > m.limit(unnamed) {
			return answers + 1
		} else if n > uint32(len(data)) {
			return answers
		}
		answers++
		data = data[n:]
	}
	return answers
}

// countAnswers counts the whole answers in data.
func countAnswers(data []byte) (whole int) {
	for ; len(data) >= 5; whole++ {
		n := binary.BigEndian.Uint32(data[1:])
		if data = data[5:]; n > uint32(len(data)) {
			return whole
		}
		data = data[n:]
	}
	return whole
}

func checkServing(t *testing.T, data []byte, h Hello, calls int) {
	s := newCallServer(t)
	s.Cut() // so that no call waits
	near, far := memnet.Pipe()
	if _, err := far.Write(data); err != nil {
		t.Fatal(err)
	}
	closeWrite(far)
	s.serveCalls(near, h)
	near.Close()
	answers, err := io.ReadAll(far)
	if err != nil {
		t.Fatal(err)
	}
	if n := countAnswers(answers); n != calls {
		t.Fatalf("%d calls got %d answers", calls, n)
	}
}

func checkCalling(t *testing.T, data []byte) {
	near, far := memnet.Pipe()
	if _, err := far.Write(data); err != nil {
		t.Fatal(err)
	}
	closeWrite(far)
	answer, alive, err := exchange(t.Context(), near, question{CallGet, []byte("key"), 0})
	whole := countAnswers(data)
	switch {
	case alive != (whole > 0):
		t.Fatalf("%d whole answers, and the connection is alive: %v, %v", whole, alive, err)
	case alive && data[0] == 0 && (err != nil || !bytes.HasPrefix(data[5:], answer)):
		t.Fatalf("%q was taken as %q, %v", data, answer, err)
	case !(alive && data[0] == 0) && err == nil:
		t.Fatalf("%q was taken as success", data)
	}
}

func TestALargeCallOverASlowLinkArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memnet.Pipe()
		frame := callFrame(CallWrite, time.Minute, strings.Repeat("x", 8<<20)) // one batch of the default limit
		go func() {
			for len(frame) > 0 {
				n := min(len(frame), 500<<10) // 500 KB/s
				if _, err := far.Write(frame[:n]); err != nil {
					return
				}
				frame = frame[n:]
				time.Sleep(time.Second)
			}
		}()
		if _, _, _, err := readCall(near); err != nil {
			t.Errorf("no second went by without a byte, and: %v", err)
		}
		near.Close()
		time.Sleep(time.Minute)
	})
}

func TestAHeadDoesNotAllocateWhatItAnnounces(t *testing.T) {
	near, far := memnet.Pipe()
	frame := callFrame(CallWrite, time.Minute, "")
	binary.BigEndian.PutUint32(frame[5:], MaxFrame)
	if _, err := far.Write(frame); err != nil {
		t.Fatal(err)
	}
	closeWrite(far)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	newCallServer(t).serveCalls(near, helloB)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("9 bytes of a stranger allocate %d KiB", n>>10)
	}
}
