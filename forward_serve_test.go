package kvraft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

// newTestServer is a store as far as calls on it need one: it has a state, no
// leader, and a raft that never starts.
func newTestServer(t testing.TB) *Store {
	s := newStore(options{
		timing: Timing{Heartbeat: time.Second, Election: time.Second},
		limits: Limits{KeyBytes: 1 << 10, ValueBytes: 1 << 20, BatchBytes: 8 << 20},
		logger: hclog.NewNullLogger(),
	})
	t.Cleanup(func() {
		s.life.End()
		s.lines.Close(logPatience)
	})
	s.raft, s.transport = new(raft.Raft), new(transport)
	s.placed.Store(true)
	var err error
	if s.logs, err = openLogStore(logStoreOptions{store: raft.NewInmemStore(), fail: func(err error) { t.Error(err) }}); err != nil {
		t.Fatal(err)
	}
	if err := s.logs.updateMeta(func(m *metadata) { m.ID, m.Identity, m.Cluster = "b", "2", "c1" }); err != nil {
		t.Fatal(err)
	}
	s.server = "b#2"
	s.fsm = newFSM(s.ctx, 1<<20, 1<<20, func() string { return "c1" }, func(err error) { t.Error(err) })
	s.court.reign = newTestReign(s, roster.Peer{}, false)
	return s
}

func newTestReign(s *Store, leader roster.Peer, leads bool) *reign {
	r := &reign{leader: leader, leads: leads}
	r.ctx, r.cancel = context.WithCancel(s.ctx)
	return r
}

// callOn makes one call on conn, as the other side of servePeer.
func callOn(t *testing.T, conn net.Conn, m method, timeout time.Duration, payload string) ([]byte, error) {
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
func servedBy(t *testing.T, s *Store, h hello) net.Conn {
	near, far := memnet.Pipe()
	go func() {
		s.servePeer(far, h)
		far.Close()
	}()
	t.Cleanup(func() { near.Close() })
	return near
}

// farAhead asks for a log index that is never reached.
const farAhead = `{"target":1000}`

var helloB = hello{For: forRPC, Cluster: "c1", From: "a#1", To: "b#2"}

func TestOneConnectionServesCallAfterCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		s.fsm.publish(&applied{index: 5, view: s.fsm.now.Load().view})
		conn := servedBy(t, s, helloB)
		for index := range uint64(6) {
			time.Sleep(idleLimit - time.Millisecond) // virtual: it may be idle that long
			answer, err := callOn(t, conn, callCatchUp, time.Minute, fmt.Sprintf(`{"target":%d}`, index))
			if at, _ := decodeUint64(answer); err != nil || at != 5 {
				t.Errorf("await index %d: %q, %v", index, answer, err)
			}
		}
	})
}

func TestACallThatIsUnknownHereIsInvalidAndTheConnectionGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := servedBy(t, newTestServer(t), helloB)
		for _, m := range []method{0, callWitness + 1, 255} {
			if _, err := callOn(t, conn, m, time.Minute, "payload"); !errors.Is(err, ErrInvalid) {
				t.Errorf("call %d: %v, want ErrInvalid", m, err)
			}
		}
	})
}

func TestAKnockMayAskForAdmissionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := servedBy(t, newTestServer(t), hello{For: forRPC, From: "a#1"})
		for m := range method(255) {
			_, err := callOn(t, conn, m, time.Minute, "not JSON")
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("call %d: %v, want ErrInvalid", m, err)
			}
			allowed := m == callJoin || m == callAdmit || m == callFound || m == callClaim
			if refused := strings.Contains(err.Error(), "without naming the node"); refused == allowed {
				t.Errorf("call %d: %v", m, err)
			}
		}
	})
}

func TestAPayloadThatMakesNoSenseIsInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := servedBy(t, newTestServer(t), helloB)
		for m, payloads := range map[method][]string{
			callWrite:     {"", "x", "\x02\x00", "\x01\x01"},
			callGet:       {"", "\x02key", "key"},
			callReadIndex: {"", "\x02", "x"},
			callConfirm:   {"", "1234567", "123456789"},
			callCatchUp:   {"", "x", "[]"},
			callJoin:      {"", "x", "[]"},
			callAdmit:     {"", "x", "[]"},
			callRemove:    {"", "x", "[]"},
			callTransfer:  {"", "x", "[]"},
			callFound:     {"", "x", "[]"},
			callWitness:   {"", "x", "[]"},
		} {
			for _, payload := range payloads {
				if _, err := callOn(t, conn, m, time.Minute, payload); !errors.Is(err, ErrInvalid) {
					t.Errorf("call %d with %q: %v, want ErrInvalid", m, payload, err)
				}
			}
		}
	})
}

func TestACallEndsJustBeforeTheTimeOfItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		conn := servedBy(t, s, helloB)
		if _, err := conn.Write(callFrame(callCatchUp, 1500*time.Millisecond, farAhead)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		head := make([]byte, 5)
		if _, err := io.ReadFull(conn, head); err != nil || head[0] != 2 {
			t.Errorf("answered %v, %v, want the code of ErrUnknown", head, err)
		}
		if took := time.Since(began); took != 1400*time.Millisecond {
			t.Errorf("answered after %v, want 1.4s", took)
		}
		if n := len(s.fsm.waiters); n != 0 {
			t.Errorf("%d waiters are left", n)
		}
	})
}

func TestNoCallLastsLongerThanTheLongest(t *testing.T) {
	near, far := memnet.Pipe()
	if _, err := far.Write(callFrame(callCatchUp, 49*24*time.Hour, "")); err != nil {
		t.Fatal(err)
	}
	if _, timeout, _, err := readCall(near); err != nil || timeout != maxCall {
		t.Errorf("a call of 49 days may take %v, %v, want %v", timeout, err, maxCall)
	}
}

func TestACallEndsWhenTheStoreStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		conn := servedBy(t, s, helloB)
		time.AfterFunc(time.Second, func() { s.life.End() })
		began := time.Now()
		if _, err := callOn(t, conn, callCatchUp, time.Hour, farAhead); !errors.Is(err, ErrUnknown) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v, want ErrUnknown after 1s", time.Since(began), err)
		}
	})
}

func TestACallThatStallsInItsMiddleEndsTheConnection(t *testing.T) {
	whole := callFrame(callCatchUp, time.Minute, farAhead)
	for n := 1; n < len(whole); n++ {
		synctest.Test(t, func(t *testing.T) {
			conn := servedBy(t, newTestServer(t), helloB)
			time.Sleep(idleLimit - time.Millisecond) // virtual
			if _, err := conn.Write(whole[:n]); err != nil {
				t.Fatal(err)
			}
			endsWithin(t, conn, messageTimeout, messageTimeout+time.Millisecond)
		})
	}
}

func TestACallOverTheLimitEndsTheConnectionAtOnce(t *testing.T) {
	for _, size := range []uint32{maxFrame + 1, 1<<32 - 1} {
		synctest.Test(t, func(t *testing.T) {
			conn := servedBy(t, newTestServer(t), helloB)
			frame := callFrame(callWrite, time.Minute, "")
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
	blockedConn
}

func (c *stuckConn) Write(b []byte) (int, error) { return c.blockedConn.Write(b) }
func (c *stuckConn) SetWriteDeadline(limit time.Time) error {
	return c.blockedConn.SetWriteDeadline(limit)
}

func TestAnAnswerThatNobodyTakesEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memnet.Pipe()
		if _, err := far.Write(callFrame(0, time.Minute, "")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		newTestServer(t).servePeer(&stuckConn{Conn: near}, helloB)
		if took := time.Since(began); took < messageTimeout || took > messageTimeout+time.Millisecond {
			t.Errorf("gave up after %v, want %v", took, messageTimeout)
		}
	})
}

func TestAWriteOnANodeThatTakesNoMoreWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		s.life.Stop(ErrClosed)
		s.futures.Drain(time.Second)
		conn := servedBy(t, s, helloB)
		group := command.Append(nil, []command.Request{{Origin: command.Own, Ops: []command.Op{{Kind: command.Set, Key: "k"}}}})
		if _, err := callOn(t, conn, callWrite, time.Minute, string(group)); !errors.Is(err, errs.Unsent) {
			t.Errorf("got %v, want errs.Unsent", err)
		}
	})
}

func TestANodeThatDoesNotLeadAnswersNoRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		conn := servedBy(t, s, helloB)
		for m, payload := range map[method]string{
			callGet:       "\x00key", // Linearizable
			callReadIndex: "\x01",    // LeaderLocal
			callNodes:     "",
		} {
			if _, err := callOn(t, conn, m, time.Minute, payload); !errors.Is(err, errs.Unsent) {
				t.Errorf("call %d: %v, want errs.Unsent", m, err)
			}
		}
	})
}

func TestANodeConfirmsATermUnlessItHasSeenALaterOne(t *testing.T) {
	s := newTestServer(t) // its raft is in term 0
	for term, want := range map[uint64]byte{0: 1, 1: 1, 1 << 63: 1} {
		answer, err := s.serveConfirm(binary.BigEndian.AppendUint64(nil, term))
		if err != nil || len(answer) != 1 || answer[0] != want {
			t.Errorf("term %d: %v, %v, want %d", term, answer, err, want)
		}
	}
}

// Whatever a peer sends, the node that serves it answers each whole call once,
// in order, and ends the connection at the first thing that is none; and the
// node that called it takes a whole answer, or gives the connection up.
func FuzzCall(f *testing.F) {
	group := command.Append(nil, []command.Request{{Origin: command.Own, Born: 1, Ops: []command.Op{{Kind: command.Set, Key: "k", Value: []byte("v")}}}})
	f.Add(callFrame(callWrite, time.Second, string(group)), true)
	f.Add(callFrame(callGet, time.Second, "\x00key"), true)
	f.Add(callFrame(callReadIndex, time.Second, "\x01"), true)
	f.Add(append(callFrame(callConfirm, 0, "12345678"), callFrame(callCatchUp, maxCall, `{"target":0}`)...), true)
	f.Add(append(callFrame(callNodes, 0, ""), callFrame(callLastIndex, 0, "")[:5]...), true)
	f.Add(callFrame(callJoin, time.Minute, `{"id":"x","addr":"x:1"}`), false)
	f.Add(callFrame(callJoin, time.Minute, `{"id":"x","addr":"x:1","forwarded":false}`), true)
	f.Add(callFrame(callJoin, time.Minute, `{"id":"x","addr":"x:1","forwarded":true}`), true)
	f.Add(callFrame(callAdmit, time.Minute, `{"cluster":"c1","server":"b#2"}`), false)
	f.Add(callFrame(callAdmit, time.Minute, `{"cluster":"c2","server":"b#2"}`), false)
	f.Add(callFrame(99, time.Minute, "x"), false)
	f.Add(callFrame(callWrite, time.Minute, ""), false)
	f.Add([]byte{1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, true)
	f.Add(answerFrame(0, "answer"), true)
	f.Add(answerFrame(4, "too large"), true)
	f.Add(answerFrame(200, ""), false)
	f.Fuzz(func(t *testing.T, data []byte, meant bool) {
		h := hello{For: forRPC, Cluster: "c1", From: "a#1"}
		if meant {
			h.To = "b#2"
		}
		checkServing(t, data, h, answersTo(data, h.To == ""))
		checkCalling(t, data)
	})
}

// answersTo counts the whole calls in data, and one over its limit, which is the last.
func answersTo(data []byte, knock bool) (answers int) {
	for len(data) >= 9 {
		m, n := method(data[0]), binary.BigEndian.Uint32(data[5:])
		if data = data[9:]; n > m.limit(knock) {
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

func checkServing(t *testing.T, data []byte, h hello, calls int) {
	s := newTestServer(t)
	s.life.Stop(ErrClosed) // so that nothing waits for a leader
	s.futures.Drain(time.Second)
	s.life.End()
	near, far := memnet.Pipe()
	if _, err := far.Write(data); err != nil {
		t.Fatal(err)
	}
	closeWrite(far)
	s.servePeer(near, h)
	near.Close()
	s.life.Wait()
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
	answer, alive, err := exchange(t.Context(), near, question{callGet, []byte("key"), 0})
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
		frame := callFrame(callWrite, time.Minute, strings.Repeat("x", 8<<20)) // one batch of the default limit
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
	frame := callFrame(callWrite, time.Minute, "")
	binary.BigEndian.PutUint32(frame[5:], maxFrame)
	if _, err := far.Write(frame); err != nil {
		t.Fatal(err)
	}
	closeWrite(far)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	newTestServer(t).servePeer(near, helloB)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("9 bytes of a stranger allocate %d KiB", n>>10)
	}
}

func TestAnAdmissionNamesACluster(t *testing.T) {
	s := newTestServer(t)
	if err := s.logs.updateMeta(func(m *metadata) { m.Cluster = "" }); err != nil {
		t.Fatal(err)
	}
	if err := s.acceptAdmission(admission{Server: "b#2"}); err == nil {
		t.Error("admitted to nothing")
	}
}

func TestAMemberIsNotAdmittedToASecondCluster(t *testing.T) {
	s := newTestServer(t)
	mine := s.self()
	if err := s.acceptAdmission(admission{Cluster: "another", Server: mine.server}); !errors.Is(err, ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	if err := s.acceptAdmission(admission{Cluster: mine.cluster, Server: "another#1"}); !errors.Is(err, ErrRefused) {
		t.Errorf("an admission of another node: %v, want ErrRefused", err)
	}
	if err := s.acceptAdmission(admission{Cluster: mine.cluster, Server: mine.server}); err != nil {
		t.Errorf("the same once more: %v", err)
	}
	if s.self() != mine {
		t.Errorf("it became %+v", s.self())
	}
}
