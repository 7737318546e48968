package kvraft

import (
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/place"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
	"github.com/kvraft/kvraft/internal/wire/wiretest"
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
		s.node.Life.End()
		s.lines.Close(logPatience)
	})
	s.node.Raft = new(raft.Raft)
	s.node.TakePlace()
	var err error
	if s.node.Logs, err = disk.Open(disk.Options{Store: raft.NewInmemStore(), Fail: func(err error) { t.Error(err) }}); err != nil {
		t.Fatal(err)
	}
	if err := s.node.Stable().Update(func(m *disk.Record) { m.ID, m.Identity, m.Cluster = "b", "2", "c1" }); err != nil {
		t.Fatal(err)
	}
	s.node.Server = "b#2"
	s.fsm.every, s.fsm.keep, s.fsm.fail = 1<<20, 1<<20, func(err error) { t.Error(err) }
	host := wiretest.LAN().Host("b")
	if s.opts.listener, err = host.Listen("b:1"); err != nil {
		t.Fatal(err)
	}
	s.opts.network, s.opts.advertise = host, "b:1"
	s.node.Port = s.newPort()
	t.Cleanup(s.node.Port.Close)
	return s
}

// The two sides in most tests of calls.
var (
	testA, testB = wire.Self{Cluster: "c1", Server: "a#1"}, wire.Self{Cluster: "c1", Server: "b#2"}
	testPeerB    = roster.Peer{Server: testB.Server, Addr: "b:1"}
)

// callOf makes calls on s, as another node does.
func callOf(t *testing.T, s *Store) func(m wire.Method, payload string) ([]byte, error) {
	s.node.Port.Start()
	a := wire.New(t.Context(), wire.Config{Network: s.opts.network, Listener: s.opts.listener, Log: s.node.Log}, wiretest.Node{Me: testA})
	t.Cleanup(a.Close)
	return func(m wire.Method, payload string) ([]byte, error) {
		return a.Call(t.Context(), testPeerB, m, []byte(payload))
	}
}

func TestAPayloadThatMakesNoSenseIsInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call := callOf(t, newTestServer(t))
		for m, payloads := range map[wire.Method][]string{
			wire.CallWrite:     {"", "x", "\x02\x00", "\x01\x01"},
			wire.CallGet:       {"", "\x02key", "key"},
			wire.CallReadIndex: {"", "\x02", "x"},
			wire.CallConfirm:   {"", "1234567", "123456789"},
			wire.CallCatchUp:   {"", "x", "[]"},
			wire.CallJoin:      {"", "x", "[]"},
			wire.CallAdmit:     {"", "x", "[]"},
			wire.CallRemove:    {"", "x", "[]"},
			wire.CallTransfer:  {"", "x", "[]"},
			wire.CallFound:     {"", "x", "[]"},
			wire.CallSuspicion: {"", "x", "[]"},
			wire.CallClaim:     {"", "x", "[]"},
			wire.CallStart:     {"", "x", "[]"},
		} {
			for _, payload := range payloads {
				if _, err := call(m, payload); !errors.Is(err, ErrInvalid) {
					t.Errorf("call %d with %q: %v, want ErrInvalid", m, payload, err)
				}
			}
		}
	})
}

func TestAWriteOnANodeThatTakesNoMoreWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		s.node.Life.Stop(ErrClosed)
		s.node.Futures.Drain(time.Second)
		call := callOf(t, s)
		group := command.Append(nil, []command.Request{{Origin: command.Own, Ops: []command.Op{{Kind: command.Set, Key: "k"}}}})
		if _, err := call(wire.CallWrite, string(group)); !errors.Is(err, errs.Unsent) {
			t.Errorf("got %v, want errs.Unsent", err)
		}
	})
}

func TestANodeThatDoesNotLeadAnswersNoRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		call := callOf(t, s)
		for m, payload := range map[wire.Method]string{
			wire.CallGet:       "\x00key", // Linearizable
			wire.CallReadIndex: "\x01",    // LeaderLocal
			wire.CallNodes:     "",
		} {
			if _, err := call(m, payload); !errors.Is(err, errs.Unsent) {
				t.Errorf("call %d: %v, want errs.Unsent", m, err)
			}
		}
	})
}

func TestANodeConfirmsATermUnlessItHasSeenALaterOne(t *testing.T) {
	s := newTestServer(t) // its raft is in term 0
	for term, want := range map[uint64]byte{0: 1, 1: 1, 1 << 63: 1} {
		answer, err := s.lead.ServeConfirm(t.Context(), binary.BigEndian.AppendUint64(nil, term))
		if err != nil || len(answer) != 1 || answer[0] != want {
			t.Errorf("term %d: %v, %v, want %d", term, answer, err, want)
		}
	}
}

func TestAnAdmissionNamesACluster(t *testing.T) {
	s := newTestServer(t)
	if err := s.node.Stable().Update(func(m *disk.Record) { m.Cluster = "" }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.joiner.AcceptAdmission(t.Context(), place.Admission{Server: "b#2"}); err == nil {
		t.Error("admitted to nothing")
	}
}

func TestAMemberIsNotAdmittedToASecondCluster(t *testing.T) {
	s := newTestServer(t)
	mine := s.node.Self()
	if _, err := s.joiner.AcceptAdmission(t.Context(), place.Admission{Cluster: "another", Server: mine.Server}); !errors.Is(err, ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	if _, err := s.joiner.AcceptAdmission(t.Context(), place.Admission{Cluster: mine.Cluster, Server: "another#1"}); !errors.Is(err, ErrRefused) {
		t.Errorf("an admission of another node: %v, want ErrRefused", err)
	}
	if _, err := s.joiner.AcceptAdmission(t.Context(), place.Admission{Cluster: mine.Cluster, Server: mine.Server}); err != nil {
		t.Errorf("the same once more: %v", err)
	}
	if s.node.Self() != mine {
		t.Errorf("it became %+v", s.node.Self())
	}
}
