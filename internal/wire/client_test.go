package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
	"golang.org/x/sync/semaphore"
)

// newTestCaller makes calls from nodeA on lan.
func newTestCaller(t *testing.T, lan *memnet.Network) *Port {
	return newTestPort(t, lan, "a:1", nodeA, nil)
}

var peerB = roster.Peer{Server: nodeB.Server, Addr: "b:1"}

// readCall reads one call, of a caller that makes no other meanwhile.
func readCall(conn net.Conn) (Method, time.Duration, []byte, error) {
	q, refusal, err := newCallConn(conn, false, semaphore.NewWeighted(callBytes)).next()
	return q.method, q.timeout, q.payload, errors.Join(refusal, err)
}

// answering serves calls with f, which gets each call and answers a frame.
func answering(f func(m Method, timeout time.Duration, payload []byte) []byte) func(net.Conn, Hello) {
	return func(conn net.Conn, _ Hello) {
		for {
			m, timeout, payload, err := readCall(conn)
			if err != nil {
				return
			}
			if _, err := conn.Write(f(m, timeout, payload)); err != nil {
				return
			}
		}
	}
}

func answerFrame(code byte, payload string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{code}, uint32(len(payload))), payload...)
}

func callFrame(m Method, timeout time.Duration, payload string) []byte {
	frame := binary.BigEndian.AppendUint32([]byte{byte(m)}, uint32(timeout.Milliseconds()))
	return append(binary.BigEndian.AppendUint32(frame, uint32(len(payload))), payload...)
}

func (p *Port) idleTo(to roster.Peer) int {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	return len(p.pool.idle[to])
}

func TestACallCarriesItsMethodItsTimeAndItsPayload(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 1<<16)
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		var m Method
		var timeout time.Duration
		b := newTestPort(t, lan, "b:1", nodeB, answering(func(gotM Method, gotT time.Duration, payload []byte) []byte {
			m, timeout = gotM, gotT
			return answerFrame(0, "you said "+string(payload))
		}))
		p := newTestCaller(t, lan)
		short, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		long, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		for _, c := range []struct {
			ctx     context.Context
			timeout time.Duration
			payload string
		}{{t.Context(), MaxCall, ""}, {short, 1500 * time.Millisecond, "this"}, {long, MaxCall, large}} {
			answer, err := p.Call(c.ctx, peerB, CallWrite, []byte(c.payload))
			if err != nil || string(answer) != "you said "+c.payload {
				t.Errorf("%d bytes were answered with %d, %v", len(c.payload), len(answer), err)
			}
			if m != CallWrite || timeout != c.timeout {
				t.Errorf("call %d arrived with %v, want %d with %v", m, timeout, CallWrite, c.timeout)
			}
		}
		if n := b.accepted.Load(); n != 1 {
			t.Errorf("three calls took %d connections, want one", n)
		}
	})
}

func TestACallWithLessThanAMillisecondLeftStillHasATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memnet.Pipe()
		ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
		defer cancel()
		go func() { _, _, _ = exchange(ctx, near, question{CallGet, nil, 0}) }()
		if _, timeout, _, err := readCall(far); err != nil || timeout != time.Millisecond {
			t.Errorf("arrived with %v, %v, want 1ms", timeout, err)
		}
		synctest.Wait()
	})
}

func TestAnErrorThatIsAnsweredLeavesTheConnectionInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		code := byte(0)
		b := newTestPort(t, lan, "b:1", nodeB, answering(func(Method, time.Duration, []byte) []byte {
			code++
			return answerFrame(code, "no, and why")
		}))
		p := newTestCaller(t, lan)
		for known := range byte(11) { // the last: a code from the future
			want := errors.Unwrap(errs.Decode(known+1, ""))
			answer, err := p.Call(t.Context(), peerB, CallGet, nil)
			if answer != nil || !errors.Is(err, want) || !strings.Contains(err.Error(), "no, and why") {
				t.Errorf("code %d: %q, %v, want %v", code, answer, err, want)
			}
		}
		if n := b.accepted.Load(); n != 1 {
			t.Errorf("took %d connections, want one", n)
		}
	})
}

func TestACallThatCouldNotBeMadeIsUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		lan.Isolate("far")
		newTestPort(t, lan, "b:1", nodeB, func(net.Conn, Hello) { t.Error("served") })
		p := newTestCaller(t, lan)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, c := range []struct {
			name string
			ctx  context.Context
			to   roster.Peer
			want error // beside errs.Unsent; nil: any
		}{
			{"nobody listens", t.Context(), roster.Peer{Server: "c#3", Addr: "c:1"}, syscall.ECONNREFUSED},
			{"another node is there", t.Context(), roster.Peer{Server: "b#1", Addr: "b:1"}, nil},
			{"the context had ended", ended, peerB, context.Canceled},
			{"the dial hangs", short, roster.Peer{Server: "d#4", Addr: "far:1"}, context.DeadlineExceeded},
		} {
			_, err := p.Call(c.ctx, c.to, CallWrite, []byte("x"))
			if !errors.Is(err, errs.Unsent) || errors.Is(err, errs.Unknown) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want errs.Unsent and %v", c.name, err, c.want)
			}
		}
	})
}

func TestACallWhoseAnswerDoesNotArriveIsUnknownAndItsConnectionGone(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"it hangs up":                func(net.Conn) {},
		"it hangs up in the head":    func(conn net.Conn) { _, _ = conn.Write([]byte{0, 0, 0}) },
		"it hangs up in the payload": func(conn net.Conn) { _, _ = conn.Write(answerFrame(0, "answer")[:8]) },
		"it hangs up in an error":    func(conn net.Conn) { _, _ = conn.Write(answerFrame(1, "not sent")[:8]) },
		"it answers too much": func(conn net.Conn) {
			_, _ = conn.Write([]byte{0, 0xff, 0xff, 0xff, 0xff})
			serveUntilEnd(conn, Hello{})
		},
		"one byte too much": func(conn net.Conn) {
			_, _ = conn.Write(binary.BigEndian.AppendUint32([]byte{0}, maxAnswer+1))
			serveUntilEnd(conn, Hello{})
		},
		"it speaks HTTP": func(conn net.Conn) {
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			serveUntilEnd(conn, Hello{})
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			lan := newLAN()
			newTestPort(t, lan, "b:1", nodeB, func(conn net.Conn, _ Hello) {
				if _, _, _, err := readCall(conn); err != nil {
					t.Error(err)
				}
				serve(conn)
			})
			p := newTestCaller(t, lan)
			answer, err := p.Call(t.Context(), peerB, CallWrite, nil)
			if answer != nil || !errors.Is(err, errs.Unknown) || errors.Is(err, errs.Unsent) {
				t.Errorf("%s: %q, %v, want errs.Unknown", name, answer, err)
			}
			if p.idleTo(peerB) != 0 || p.Connections() != 0 {
				t.Errorf("%s: the connection is kept", name)
			}
		})
	}
}

// A late answer must not be taken for that of the next call.
func TestAConnectionIsNotUsedAgainWhenTheContextEndedInACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		b := newTestPort(t, lan, "b:1", nodeB, answering(func(_ Method, _ time.Duration, payload []byte) []byte {
			if string(payload) == "slow" {
				time.Sleep(2 * time.Second) // virtual
			}
			return answerFrame(0, string(payload))
		}))
		p := newTestCaller(t, lan)
		call := func(ctx context.Context, payload string) (string, error) {
			answer, err := p.Call(ctx, peerB, CallGet, []byte(payload))
			return string(answer), err
		}
		if got, err := call(t.Context(), "first"); got != "first" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := call(ctx, "slow")
		if !errors.Is(err, errs.Unknown) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v, want errs.Unknown and the context's error after 1s", time.Since(began), err)
		}
		for range 3 {
			if got, err := call(t.Context(), "next"); got != "next" || err != nil {
				t.Errorf("got %q, %v, want the answer to this call", got, err)
			}
			time.Sleep(time.Second) // virtual: the late answer comes
		}
		if n := b.accepted.Load(); n != 2 {
			t.Errorf("took %d connections, want a second one", n)
		}
	})
}

func TestAContextThatEndsBetweenCallsDoesNotHarmTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		b := newTestPort(t, lan, "b:1", nodeB, answering(func(_ Method, _ time.Duration, payload []byte) []byte {
			return answerFrame(0, string(payload))
		}))
		p := newTestCaller(t, lan)
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := p.Call(ctx, peerB, CallGet, []byte("x")); err != nil {
				t.Error(err)
			}
			cancel()
			time.Sleep(restLimit) // virtual
		}
		if n := b.accepted.Load(); n != 1 {
			t.Errorf("took %d connections, want one", n)
		}
	})
}

func TestIdleConnectionsAreBoundedAndKeptByNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		slow := answering(func(Method, time.Duration, []byte) []byte {
			time.Sleep(time.Second) // virtual
			return answerFrame(0, "")
		})
		newTestPort(t, lan, "b:1", nodeB, slow)
		newTestPort(t, lan, "c:1", Self{"c1", "c#3"}, slow)
		p := newTestCaller(t, lan)
		peerC := roster.Peer{Server: "c#3", Addr: "c:1"}
		var calls sync.WaitGroup
		call := func(to roster.Peer) {
			calls.Go(func() {
				if _, err := p.Call(t.Context(), to, CallGet, nil); err != nil {
					t.Error(err)
				}
			})
		}
		for range maxIdle + 4 {
			call(peerB)
		}
		call(peerC)
		calls.Wait()
		if b, c := p.idleTo(peerB), p.idleTo(peerC); b != maxIdle || c != 1 {
			t.Errorf("%d and %d connections are idle, want %d and 1", b, c, maxIdle)
		}
		if n := p.Connections(); n != maxIdle+1 {
			t.Errorf("%d connections are open, want the idle ones only", n)
		}
	})
}

func TestAFailedCallDropsTheIdleConnectionsToThatNodeOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		echo := answering(func(Method, time.Duration, []byte) []byte {
			time.Sleep(time.Second) // virtual
			return answerFrame(0, "")
		})
		b := newTestPort(t, lan, "b:1", nodeB, echo)
		newTestPort(t, lan, "c:1", Self{"c1", "c#3"}, echo)
		p := newTestCaller(t, lan)
		peerC := roster.Peer{Server: "c#3", Addr: "c:1"}
		var calls sync.WaitGroup
		for _, to := range []roster.Peer{peerB, peerB, peerB, peerC} {
			calls.Go(func() {
				if _, err := p.Call(t.Context(), to, CallGet, nil); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		b.Cut() // the node has died; its connections are still in the pool
		if _, err := p.Call(t.Context(), peerB, CallGet, nil); !errors.Is(err, errs.Unknown) {
			t.Errorf("on a connection that has died: %v, want errs.Unknown", err)
		}
		if _, err := p.Call(t.Context(), peerB, CallGet, nil); !errors.Is(err, errs.Unsent) {
			t.Errorf("after it: %v, want errs.Unsent by a new dial", err)
		}
		if n := p.idleTo(peerB); n != 0 {
			t.Errorf("%d dead connections are kept", n)
		}
		if n := p.idleTo(peerC); n != 1 || p.Connections() != 1 {
			t.Errorf("%d connections to the other node are idle, %d are open, want one", n, p.Connections())
		}
	})
}

func TestTheCutEndsACallThatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		newTestPort(t, lan, "b:1", nodeB, serveUntilEnd)
		p := newTestCaller(t, lan)
		time.AfterFunc(time.Second, p.Cut)
		if _, err := p.Call(t.Context(), peerB, CallWrite, nil); !errors.Is(err, errs.Unknown) {
			t.Errorf("got %v, want errs.Unknown", err)
		}
		if _, err := p.Call(t.Context(), peerB, CallWrite, nil); !errors.Is(err, errs.Unsent) {
			t.Errorf("after the cut: %v, want errs.Unsent", err)
		}
	})
}

func TestAnEndedContextHarmsNoIdleConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		newTestPort(t, lan, "b:1", nodeB, answering(func(_ Method, _ time.Duration, payload []byte) []byte {
			if len(payload) > 0 {
				time.Sleep(time.Second)
			}
			return answerFrame(0, "")
		}))
		p := newTestCaller(t, lan)
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() { _, _ = p.Call(t.Context(), peerB, CallGet, []byte("slow")) })
		}
		calls.Wait()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Call(ended, peerB, CallGet, nil); !errors.Is(err, errs.Unsent) {
			t.Errorf("an ended context: %v, want errs.Unsent", err)
		}
		if n := p.idleTo(peerB); n != 4 {
			t.Errorf("an ended context left %d of 4 idle connections", n)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		before := p.idleTo(peerB)
		_, _ = p.Call(short, peerB, CallGet, []byte("slow"))
		if n := p.idleTo(peerB); n != max(before-1, 0) || n == 0 {
			t.Errorf("one impatient caller left %d of %d idle connections", n, before)
		}
	})
}
