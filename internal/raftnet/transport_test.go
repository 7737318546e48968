package raftnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/raftrpc"
	"github.com/kvraft/kvraft/internal/wire"
	"github.com/kvraft/kvraft/internal/wire/wiretest"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

// openFilter lets every message through as it is.
type openFilter struct{}

func (openFilter) Node() raftrpc.Node {
	return raftrpc.Node{Voter: true, TermAt: func(uint64) (uint64, bool) { return 0, false }, Checksum: func(*raft.Log) error { return nil }}
}
func (openFilter) Term() uint64                                                  { return 9 }
func (openFilter) Leads() bool                                                   { return false }
func (openFilter) IsPlaced() bool                                                { return true }
func (openFilter) AlreadyHave(*raft.InstallSnapshotRequest) (bool, error)        { return false, nil }
func (openFilter) AsVoter(candidate []byte) []byte                               { return candidate }
func (openFilter) AwaitStored(uint64) error                                      { return nil }
func (openFilter) MayElect(raft.ServerID, uint64, uint64, uint64) (bool, uint64) { return true, 0 }
func (openFilter) HoldsBack(raft.ServerID, raft.ServerAddress) bool              { return false }
func (openFilter) Reached(raft.ServerID, raft.ServerAddress)                     {}

// The two sides in most tests.
var nodeA, nodeB = wire.Self{Cluster: "c1", Server: "a#1"}, wire.Self{Cluster: "c1", Server: "b#2"}

func TestADialThatIsNotAnsweredEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := wiretest.LAN()
		lan.Isolate("b")
		a := wiretest.Port(t, lan, "a:1", nodeA)
		began := time.Now()
		_, err := stream{port: a}.Dial(meant(nodeB.Server, "b:1"), 3*time.Second)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("gave up after %v with %v, want 3s", time.Since(began), err)
		}
		time.AfterFunc(time.Second, a.Cut)
		if _, err := (stream{port: a}).Dial(meant(nodeB.Server, "b:1"), time.Hour); err == nil || time.Since(began) != 4*time.Second {
			t.Errorf("%v after the first dial: %v, want the cut to end it after 4s", time.Since(began), err)
		}
	})
}

func TestRaftDialsTheNodeThatIsMeant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := wiretest.LAN()
		at := wire.Self{Cluster: "c1", Server: "ops@site#2"} // an id may have an @ of its own
		arrived := make(chan string)
		b := wiretest.Port(t, lan, "b:1", at)
		b.HandleConn(wire.ForRaft, func(conn net.Conn, _ wire.Hello) {
			got := make([]byte, 4)
			_, _ = io.ReadFull(conn, got)
			arrived <- string(got)
		})
		b.Start()
		stream := stream{port: wiretest.Port(t, lan, "a:1", nodeA)}

		out, err := stream.Dial(meant(at.Server, "b:1"), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write([]byte("vote")); err != nil {
			t.Fatal(err)
		}
		if got := <-arrived; got != "vote" {
			t.Errorf("raft's first bytes arrived as %q", got)
		}
		out.Close()
		if _, err := stream.Dial("b:1", time.Second); err == nil || !strings.Contains(err.Error(), "no node is named") {
			t.Errorf("a target without a node: %v", err)
		}
		if _, err := stream.Dial(meant(nodeB.Server, "b:1"), time.Second); err == nil || !strings.Contains(err.Error(), "this is node ops@site#2") {
			t.Errorf("a target that is another node: %v", err)
		}
		if stream.Addr().String() != "a:1" {
			t.Errorf("raft's own address is %s", stream.Addr())
		}
	})
}

func TestARaftMessageThatStallsInItsMiddleEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw, far := memnet.Pipe()
		conn := &messageConn{Conn: raw}
		buf := make([]byte, 16)
		send := func(after time.Duration) {
			time.AfterFunc(after, func() { _, _ = far.Write([]byte("x")) })
			if _, err := conn.Read(buf); err != nil {
				t.Fatalf("a byte that came after %v: %v", after, err)
			}
		}
		send(wire.IdleLimit - time.Millisecond) // the first message may be long in coming
		send(wire.MessageTimeout - time.Second) // slow, and not stalled
		if _, err := conn.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		send(wire.IdleLimit - time.Millisecond) // so may the next
		began := time.Now()
		if _, err := conn.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != wire.MessageTimeout {
			t.Errorf("after %v: %v, want a timeout after %v", time.Since(began), err, wire.MessageTimeout)
		}
	})
}

// raft reads what is left of a snapshot that it could not read. Its main goroutine waits for
// that.
func TestNobodyWaitsTwiceForARaftMessageThatStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw, far := memnet.Pipe()
		conn := &messageConn{Conn: raw}
		const arrives = 5 * leastRate
		var sending sync.WaitGroup
		sending.Go(func() { _, _ = far.Write(make([]byte, arrives)) })
		defer func() { raw.Close(); far.Close(); sending.Wait() }()
		if _, err := io.ReadFull(conn, make([]byte, arrives)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for range 2 {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != wire.MessageTimeout {
				t.Errorf("after %v: %v, want a timeout after %v", time.Since(began), err, wire.MessageTimeout)
			}
		}
	})
}

func TestARaftMessageThatDripsEndsTheConnection(t *testing.T) {
	for name, c := range map[string]struct {
		bytes int           // in a piece
		every time.Duration // one comes
		after time.Duration // the connection ends; 0: it does not
	}{
		"a byte now and then":            {1, 5 * time.Second, wire.MessageTimeout},
		"a byte often":                   {1, time.Millisecond, 10600 * time.Millisecond},
		"less than the least rate":       {leastRate / 4, time.Second / 2, 2 * wire.MessageTimeout},
		"a little more":                  {leastRate/2 + 1, time.Second / 2, 0},
		"much, with a reader that rests": {leastRate, time.Second / 4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				raw, far := memnet.Pipe()
				conn := &messageConn{Conn: raw}
				var sending sync.WaitGroup
				sending.Go(func() {
					for {
						if _, err := far.Write(make([]byte, c.bytes)); err != nil {
							return
						}
						time.Sleep(c.every)
					}
				})
				defer func() { raw.Close(); far.Close(); sending.Wait() }()
				began := time.Now()
				var err error
				for buf := make([]byte, 64<<10); err == nil && time.Since(began) < 10*time.Minute; {
					_, err = conn.Read(buf)
					if c.bytes == leastRate {
						time.Sleep(2 * time.Second)
					}
				}
				took := time.Since(began)
				if c.after == 0 {
					if err != nil {
						t.Errorf("after %v: %v", took, err)
					}
					return
				}
				if !errors.Is(err, os.ErrDeadlineExceeded) || took < c.after-time.Second || took > c.after+time.Second {
					t.Errorf("after %v: %v, want a timeout after %v", took, err, c.after)
				}
			})
		})
	}
}

// blockedConn writes nothing before its deadline.
type blockedConn struct {
	net.Conn
	limit time.Time
}

func (c *blockedConn) SetWriteDeadline(limit time.Time) error { c.limit = limit; return nil }

func (c *blockedConn) Write([]byte) (int, error) {
	time.Sleep(time.Until(c.limit)) // virtual
	return 0, os.ErrDeadlineExceeded
}

func TestARaftAnswerThatNobodyTakesEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &messageConn{Conn: new(blockedConn)}
		began := time.Now()
		_, err := conn.Write([]byte("answer"))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != wire.MessageTimeout {
			t.Errorf("after %v: %v, want a timeout after %v", time.Since(began), err, wire.MessageTimeout)
		}
	})
}

// A heartbeat on raft's fast path changes the term beside its main goroutine
// (hashicorp/raft issue 695).
func TestHeartbeatsTakeRaftsMainPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := wiretest.LAN()
		log := hclog.NewNullLogger()
		ta := wiretest.Port(t, lan, "a:1", nodeA)
		tb := wiretest.Port(t, lan, "b:1", nodeB)
		a, b := New(ta, time.Second, log, openFilter{}), New(tb, time.Second, log, openFilter{})
		ta.Start()
		tb.Start()
		defer func() {
			for _, r := range []Transport{a, b} {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
			ta.Close()
			tb.Close()
		}()
		var transport raft.Transport = b
		transport.SetHeartbeatHandler(func(raft.RPC) { t.Error("a heartbeat took the fast path") })
		if _, ok := transport.(raft.WithPreVote); !ok {
			t.Error("the transport has lost pre-vote")
		}

		header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("a#1"), Addr: []byte("a:1")}
		go func() {
			rpc := <-b.Consumer()
			rpc.Respond(&raft.AppendEntriesResponse{Term: 7, Success: true}, nil)
		}()
		var resp raft.AppendEntriesResponse
		heartbeat := &raft.AppendEntriesRequest{RPCHeader: header, Term: 7}
		if err := a.AppendEntries("b#2", "b:1", heartbeat, &resp); err != nil || resp.Term != 7 {
			t.Errorf("heartbeat: %+v, %v", resp, err)
		}
	})
}

func TestEveryRaftMessageNamesTheNodeThatIsMeant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := wiretest.LAN()
		ta := wiretest.Port(t, lan, "a:1", nodeA)
		tb := wiretest.Port(t, lan, "b:1", nodeB)
		a := New(ta, time.Second, hclog.NewNullLogger(), openFilter{})
		b := New(tb, time.Second, hclog.NewNullLogger(), openFilter{})
		ta.Start()
		tb.Start()
		defer func() {
			if err := errors.Join(a.Close(), b.Close()); err != nil {
				t.Error(err)
			}
			ta.Close()
			tb.Close()
		}()
		// b came back at its address with another identity
		const id, addr = "b#1", "b:1"
		for name, err := range map[string]error{
			"AppendEntries":   a.AppendEntries(id, addr, new(raft.AppendEntriesRequest), new(raft.AppendEntriesResponse)),
			"RequestVote":     a.RequestVote(id, addr, new(raft.RequestVoteRequest), new(raft.RequestVoteResponse)),
			"RequestPreVote":  a.RequestPreVote(id, addr, new(raft.RequestPreVoteRequest), new(raft.RequestPreVoteResponse)),
			"TimeoutNow":      a.TimeoutNow(id, addr, new(raft.TimeoutNowRequest), new(raft.TimeoutNowResponse)),
			"InstallSnapshot": a.InstallSnapshot(id, addr, new(raft.InstallSnapshotRequest), new(raft.InstallSnapshotResponse), strings.NewReader("")),
		} {
			if err == nil || !strings.Contains(err.Error(), "this is node b#2, not b#1") {
				t.Errorf("%s: %v, want a refusal by the node that is there", name, err)
			}
		}
	})
}

func TestANodeThatNeedsSnapshotsAgainAndAgainIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		i := newInstalls(hclog.New(&hclog.LoggerOptions{Output: &log}))
		reports := func() int { return strings.Count(log.String(), "again and again") }
		for range 5 {
			i.count("a#1")
			i.count("b#2")
			time.Sleep(6 * time.Minute) // two within ten minutes: it may happen
		}
		if n := reports(); n != 0 {
			t.Errorf("%d reports of what may happen", n)
		}
		for range 3 {
			i.count("a#1")
		}
		if n := reports(); n != 1 || !strings.Contains(log.String(), "a#1") {
			t.Errorf("%d reports, want one:\n%s", n, &log)
		}
	})
}

// raft keeps connections for its next messages, and a vote that fails because one of
// them was closed is a vote less.
func TestAConnectionOfRaftsThatHasRestedIsMadeAnewForTheNextMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := wiretest.LAN()
		ta := wiretest.Port(t, lan, "a:1", nodeA)
		tb := wiretest.Port(t, lan, "b:1", nodeB)
		log := hclog.NewNullLogger()
		a, b := New(ta, time.Second, log, openFilter{}), New(tb, time.Second, log, openFilter{})
		ta.Start()
		tb.Start()
		go func() {
			for {
				select {
				case rpc := <-b.Consumer():
					rpc.Respond(&raft.RequestVoteResponse{Granted: true}, nil)
				case <-tb.Context().Done():
					return
				}
			}
		}()
		head := raft.RPCHeader{ProtocolVersion: 3, ID: []byte(nodeA.Server), Addr: []byte(meant(nodeA.Server, "a:1"))}
		vote := func(dials uint64) {
			t.Helper()
			var answer raft.RequestVoteResponse
			if err := a.RequestVote(nodeB.Server, "b:1", &raft.RequestVoteRequest{RPCHeader: head, Term: 9}, &answer); err != nil || !answer.Granted {
				t.Errorf("%+v, %v", answer, err)
			}
			if n, _ := tb.Accepting(time.Now()); n != dials {
				t.Errorf("%d dials, want %d", n, dials)
			}
		}
		const rest = 30 * time.Second // for which a connection may
		vote(1)
		time.Sleep(rest - time.Millisecond) // virtual
		ta.KeepOnly(map[raft.ServerID]bool{nodeB.Server: true})
		vote(1)
		time.Sleep(rest + time.Millisecond) // virtual
		vote(2)
		time.Sleep(rest + time.Millisecond) // virtual
		ta.KeepOnly(map[raft.ServerID]bool{nodeB.Server: true})
		synctest.Wait()
		if n := ta.Connections() + tb.Connections(); n != 0 {
			t.Errorf("%d ends of connections that nobody uses are open", n)
		}
		vote(3)
		conn, _, err := ta.Dial(t.Context(), "b:1", wire.ForRPC, nodeB.Server)
		if err != nil {
			t.Fatal(err)
		}
		conn.Distrust(time.Now()) // another call on b gets no answer
		conn.Close()
		vote(5)
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
		ta.Close()
		tb.Close()
	})
}

// Two candidates of three nodes, each with its own vote, would wait out an election.
func TestACandidateGivesNoPreVoteForItsTermToWhomItAsksForAVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := wiretest.LAN()
		ta := wiretest.Port(t, lan, "a:1", nodeA)
		tb := wiretest.Port(t, lan, "b:1", nodeB)
		a := New(ta, time.Second, hclog.NewNullLogger(), openFilter{})
		b := New(tb, time.Second, hclog.NewNullLogger(), openFilter{})
		ta.Start()
		tb.Start()
		voted := make(chan error)
		go func() {
			head := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a#1"), Addr: []byte("a#1@a:1")}
			voted <- a.RequestVote("b#2", "b:1", &raft.RequestVoteRequest{RPCHeader: head, Term: 9}, new(raft.RequestVoteResponse))
		}()
		question := <-b.Consumer()

		preVote := func(term uint64) (granted bool) {
			resp := new(raft.RequestPreVoteResponse)
			head := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("b#2"), Addr: []byte("b#2@b:1")}
			if err := b.RequestPreVote("a#1", "a:1", &raft.RequestPreVoteRequest{RPCHeader: head, Term: term}, resp); err != nil {
				t.Errorf("pre-vote in term %d: %v", term, err)
			}
			return resp.Granted
		}
		go func() {
			for {
				select {
				case rpc := <-a.Consumer():
					rpc.Respond(&raft.RequestPreVoteResponse{Term: rpc.Command.(*raft.RequestPreVoteRequest).Term, Granted: true}, nil)
				case <-ta.Context().Done():
					return
				}
			}
		}()
		if preVote(9) || !preVote(10) {
			t.Error("it has given one for its own term, or none for the next")
		}
		question.Respond(&raft.RequestVoteResponse{Term: 9}, nil)
		if err := <-voted; err != nil || !preVote(9) {
			t.Errorf("it gives none when it has its answer, %v", err)
		}
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
		ta.Close()
		tb.Close()
	})
}

// answeredWith is a raft whose peer gives each answer a term.
func answeredWith(t *testing.T, lan *memnet.Network, term uint64) (asker Transport) {
	t.Helper()
	log := hclog.NewNullLogger()
	ta := wiretest.Port(t, lan, "a:1", nodeA)
	tb := wiretest.Port(t, lan, "b:1", nodeB)
	asker = New(ta, time.Second, log, openFilter{})
	answerer := New(tb, time.Second, log, openFilter{})
	ta.Start()
	tb.Start()
	go func() {
		for {
			select {
			case rpc := <-answerer.Consumer():
				switch rpc.Command.(type) {
				case *raft.AppendEntriesRequest:
					rpc.Respond(&raft.AppendEntriesResponse{Term: term}, nil)
				case *raft.RequestVoteRequest:
					rpc.Respond(&raft.RequestVoteResponse{Term: term}, nil)
				case *raft.RequestPreVoteRequest:
					rpc.Respond(&raft.RequestPreVoteResponse{Term: term}, nil)
				case *raft.InstallSnapshotRequest:
					rpc.Respond(&raft.InstallSnapshotResponse{Term: term}, nil)
				}
			case <-tb.Context().Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		if err := errors.Join(asker.Close(), answerer.Close()); err != nil {
			t.Error(err)
		}
		ta.Close()
		tb.Close()
	})
	return asker
}

// A peer that answers with a term beyond all terms does not depose a leader, nor take a
// candidate there.
func TestAnAnswerOfATermFarBeyondIsNotBelieved(t *testing.T) {
	for term, believed := range map[uint64]bool{9: true, 9 + 1<<32: true, 10 + 1<<32: false, math.MaxUint64: false} {
		synctest.Test(t, func(t *testing.T) {
			a := answeredWith(t, wiretest.LAN(), term)
			head := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a#1"), Addr: []byte("a#1@a:1")}
			installed := new(raft.InstallSnapshotResponse)
			for what, err := range map[string]error{
				"AppendEntries":   a.AppendEntries("b#2", "b:1", &raft.AppendEntriesRequest{RPCHeader: head, Term: 9}, new(raft.AppendEntriesResponse)),
				"RequestVote":     a.RequestVote("b#2", "b:1", &raft.RequestVoteRequest{RPCHeader: head, Term: 9}, new(raft.RequestVoteResponse)),
				"RequestPreVote":  a.RequestPreVote("b#2", "b:1", &raft.RequestPreVoteRequest{RPCHeader: head, Term: 9}, new(raft.RequestPreVoteResponse)),
				"InstallSnapshot": a.InstallSnapshot("b#2", "b:1", &raft.InstallSnapshotRequest{RPCHeader: head, Term: 9, LastLogIndex: 1, LastLogTerm: 1, SnapshotVersion: 1, Configuration: someConfiguration, ConfigurationIndex: 1}, installed, strings.NewReader("")),
			} {
				if (err == nil) != believed {
					t.Errorf("%s was answered with term %d: %v", what, term, err)
				}
			}
		})
	}
}

var someConfiguration = raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a#1", Address: "a:1"}}})

// The other side of a dialed connection may be anybody's by now.
func TestAnAnswerWithoutEndIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := wiretest.LAN()
		b := wiretest.Port(t, lan, "b:1", nodeB)
		b.HandleConn(wire.ForRaft, func(conn net.Conn, _ wire.Hello) { _, _ = conn.Write(make([]byte, 1<<20)) })
		b.Start()
		conn, err := stream{port: wiretest.Port(t, lan, "a:1", nodeA)}.Dial(meant(nodeB.Server, "b:1"), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 2 {
			if err := conn.SetDeadline(time.Time{}); err != nil { // as raft does before each message
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, conn)
			if n != 64<<10 || err == nil {
				t.Errorf("read %d bytes, %v", n, err)
			}
		}
	})
}
