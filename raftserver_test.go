package kvraft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/raftrpc"
	"github.com/kvraft/kvraft/internal/wire"
	"github.com/kvraft/kvraft/internal/wire/wiretest"
)

// peerOf sends a node what no node sends. It has shaken hands as one of the cluster's.
type peerOf struct {
	t    testing.TB
	port *wire.Port
	node *Store
}

// openAlone is a cluster of one with 20 keys, and a peer of it.
func openAlone(t testing.TB, dir string, opts ...Option) (*Store, *peerOf) {
	t.Helper()
	if dir == "" {
		opts = append(opts, WithInMemory())
	}
	lan := wiretest.LAN()
	s, err := Open(dir, append(opts, WithNetwork(lan.Host("a")), WithAddr("a:1"))...)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if _, err := s.Set(t.Context(), fmt.Sprint(i), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	peer := wire.New(context.Background(), wire.Config{Network: lan.Host("peer"), Listener: noListener{}}, wiretest.Node{Me: wire.Self{Cluster: s.node.Self().Cluster, Server: "peer#0"}})
	return s, &peerOf{t, peer, s}
}

// openSettled is openAlone in virtual time, with nothing that is still to be written.
func openSettled(t testing.TB, opts ...Option) (*Store, *peerOf) {
	t.Helper()
	s, peer := openAlone(t, "", opts...)
	time.Sleep(time.Second)
	synctest.Wait()
	return s, peer
}

// connect is a connection to the node's raft.
func (p *peerOf) connect() net.Conn {
	p.t.Helper()
	conn, _, err := p.port.Dial(p.t.Context(), "a:1", wire.ForRaft, p.node.node.Server)
	if err != nil {
		p.t.Fatal(err)
	}
	return conn
}

// encodeRaft is a message as raft writes it.
func encodeRaft(t testing.TB, kind raftrpc.Kind, req any) []byte {
	t.Helper()
	b := bytes.NewBuffer([]byte{byte(kind)})
	var handle codec.MsgpackHandle
	handle.TimeNotBuiltin = true
	if err := codec.NewEncoder(b, &handle).Encode(req); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// send sends a message, and what follows it, and returns the error in the answer; or
// how the connection ended.
func (p *peerOf) send(kind raftrpc.Kind, req any, behind ...byte) error {
	p.t.Helper()
	conn := p.connect()
	defer conn.Close()
	if _, err := conn.Write(append(encodeRaft(p.t, kind, req), behind...)); err != nil {
		return err
	}
	wiretest.CloseWrite(conn)
	var text string
	if err := codec.NewDecoder(conn, &codec.MsgpackHandle{}).Decode(&text); err != nil {
		return err
	}
	if text != "" {
		return errors.New(text)
	}
	return nil
}

// header names a member, as which anybody can pose: the messages are not refused for their
// sender.
func (p *peerOf) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: 3, ID: []byte(p.node.node.Server), Addr: []byte("peer#0@p:1")}
}

// hostile are requests to a node that leads in a term and has a log up to last.
func (p *peerOf) hostile(term, last uint64) map[string]struct {
	kind raftrpc.Kind
	req  any
} {
	type message = struct {
		kind raftrpc.Kind
		req  any
	}
	head := p.header()
	config := raft.EncodeConfiguration(p.node.node.Configuration())
	entry := func(change func(*raft.Log)) message {
		e := &raft.Log{Index: last + 1, Term: term + 1, Type: raft.LogNoop}
		change(e)
		return message{raftrpc.AppendEntries, &raft.AppendEntriesRequest{RPCHeader: head, Term: term + 1, PrevLogEntry: last, PrevLogTerm: term, Entries: []*raft.Log{e}, LeaderCommitIndex: last + 1}}
	}
	entries := func(prev, prevTerm uint64, all ...*raft.Log) message {
		return message{raftrpc.AppendEntries, &raft.AppendEntriesRequest{RPCHeader: head, Term: term + 1, PrevLogEntry: prev, PrevLogTerm: prevTerm, Entries: all, LeaderCommitIndex: math.MaxUint64}}
	}
	install := func(change func(*raft.InstallSnapshotRequest)) message {
		req := &raft.InstallSnapshotRequest{RPCHeader: head, SnapshotVersion: 1, Term: term + 1, LastLogIndex: 1000, LastLogTerm: term, Configuration: config, ConfigurationIndex: 1}
		change(req)
		return message{raftrpc.InstallSnapshot, req}
	}
	return map[string]message{
		"the last term in AppendEntries":   {raftrpc.AppendEntries, &raft.AppendEntriesRequest{RPCHeader: head, Term: math.MaxUint64}},
		"the last term in RequestVote":     {raftrpc.RequestVote, &raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte(p.node.node.Server), Addr: head.Addr}, Term: math.MaxUint64, LeadershipTransfer: true}},
		"the last term, from nobody":       {raftrpc.RequestVote, &raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3}, Term: term + 1, LeadershipTransfer: true}},
		"the last term in RequestPreVote":  {raftrpc.RequestPreVote, &raft.RequestPreVoteRequest{RPCHeader: head, Term: math.MaxUint64}},
		"the last term in InstallSnapshot": install(func(r *raft.InstallSnapshotRequest) { r.Term = math.MaxUint64 }),
		"a nil entry":                      entries(last, term, nil),
		"the last index":                   entries(0, 0, &raft.Log{Index: math.MaxUint64, Term: term + 1, Type: raft.LogNoop}),
		"a gap":                            entry(func(e *raft.Log) { e.Index++ }),
		"an entry of a later term":         entry(func(e *raft.Log) { e.Term += 5 }),
		"an entry of no term":              entry(func(e *raft.Log) { e.Term = 0 }),
		"a wrong checksum":                 entry(func(e *raft.Log) { e.Extensions = []byte("wrong") }),
		"a garbage configuration":          entry(func(e *raft.Log) { e.Type, e.Data = raft.LogConfiguration, []byte("x") }),
		"a configuration of nobody": entry(func(e *raft.Log) {
			e.Type, e.Data = raft.LogConfiguration, raft.EncodeConfiguration(raft.Configuration{})
		}),
		"a garbage command":    entry(func(e *raft.Log) { e.Type, e.Data = raft.LogCommand, []byte("x") }),
		"a type of old":        entry(func(e *raft.Log) { e.Type = raft.LogAddPeerDeprecated }),
		"a type of the future": entry(func(e *raft.Log) { e.Type = 200 }),
		"a cut":                entries(1, 1, &raft.Log{Index: 2, Term: term + 1, Type: raft.LogNoop}),
		"a snapshot with a garbage configuration": install(func(r *raft.InstallSnapshotRequest) { r.Configuration = []byte("x") }),
		"a snapshot of peers of old":              install(func(r *raft.InstallSnapshotRequest) { r.SnapshotVersion, r.Peers = 0, []byte("x") }),
		"a snapshot up to the last index":         install(func(r *raft.InstallSnapshotRequest) { r.LastLogIndex = math.MaxUint64 }),
		"a snapshot of less than nothing":         install(func(r *raft.InstallSnapshotRequest) { r.Size = -1 }),
	}
}

// A refusal, a line in the log, and the node is as it was: it leads, in the same term,
// with the same log.
func TestWhatNoNodeSendsDoesNotReachRaft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines bytes.Buffer
		var mu sync.Mutex // guards lines
		told := func(text string) int {
			synctest.Wait() // lines are written by a goroutine of their own
			mu.Lock()
			defer mu.Unlock()
			return strings.Count(lines.String(), text)
		}
		s, peer := openSettled(t, WithLogger(hclog.New(&hclog.LoggerOptions{Output: &lines, Mutex: &mu, Level: hclog.Info})))
		defer s.Close()
		term, last := s.node.Raft.CurrentTerm(), s.node.Raft.LastIndex()
		for name, m := range peer.hostile(term, last) {
			if err := peer.send(m.kind, m.req); err == nil || !strings.HasPrefix(err.Error(), "refused: ") {
				t.Errorf("%s: the answer is %v, want a refusal", name, err)
			}
			if s.node.Raft.State() != raft.Leader || s.node.Raft.CurrentTerm() != term || s.node.Raft.LastIndex() != last || s.Err() != nil {
				t.Fatalf("%s: %v in term %d with %d entries, %v; before it led in term %d with %d", name, s.node.Raft.State(), s.node.Raft.CurrentTerm(), s.node.Raft.LastIndex(), s.Err(), term, last)
			}
		}
		if _, err := s.Set(t.Context(), "k", []byte("v")); err != nil {
			t.Error(err)
		}
		if n := told("refused a message of raft"); n != 4 {
			t.Errorf("%d lines tell of them, want one for each kind of message in a minute", n)
		}
		time.Sleep(time.Minute)
		_ = peer.send(raftrpc.AppendEntries, &raft.AppendEntriesRequest{})
		if told("others=12") != 1 {
			t.Error("the next line does not tell how many there were")
		}
	})
}

// A term that is far, and not too far, is one to follow.
func TestATermThatElectionsMayLeadToIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer := openSettled(t)
		defer s.Close()
		far := s.node.Raft.CurrentTerm() + 1<<32
		if err := peer.send(raftrpc.AppendEntries, &raft.AppendEntriesRequest{RPCHeader: peer.header(), Term: far}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Set(t.Context(), "k", []byte("v")); err != nil {
			t.Fatal(err)
		}
		if term := s.node.Raft.CurrentTerm(); term <= far {
			t.Errorf("it leads in term %d, after %d", term, far)
		}
	})
}

// One that is further is refused, and reached all the same by a node of its cluster
// that goes on sending.
func TestATermThatIsFurtherIsReachedInSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer := openSettled(t)
		defer s.Close()
		far := s.node.Raft.CurrentTerm() + 5<<32
		heartbeat := &raft.AppendEntriesRequest{RPCHeader: peer.header(), Term: far}
		refused := 0
		for ; peer.send(raftrpc.AppendEntries, heartbeat) != nil && refused < 100; refused++ {
			synctest.Wait()
		}
		if term := s.node.Raft.CurrentTerm(); refused != 4 || term != far {
			t.Errorf("after %d refusals in term %d, want 4 and %d", refused, term, far)
		}
	})
}

// raft would read all that comes, as slowly as it comes, to refuse it then.
func TestASnapshotOfAnOldTermIsRefusedUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer := openSettled(t)
		defer s.Close()
		began := time.Now()
		err := peer.send(raftrpc.InstallSnapshot, &raft.InstallSnapshotRequest{RPCHeader: peer.header(), SnapshotVersion: 1, Term: 1, LastLogIndex: 1000, LastLogTerm: 1,
			Configuration: raft.EncodeConfiguration(s.node.Configuration()), ConfigurationIndex: 1, Size: 1 << 40}, []byte("a few bytes of it")...)
		if s.node.Raft.CurrentTerm() < 2 {
			t.Fatal("there is no term before this")
		}
		if err != nil || time.Since(began) > 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// Who is no member ends nobody's term: neither with a message of a higher one, near or
// far, nor with a snapshot that drips.
func TestAStrangerEndsNoTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer := openSettled(t)
		defer s.Close()
		stranger := peer.header()
		stranger.ID = []byte("peer#0")
		began, term := time.Now(), s.node.Raft.CurrentTerm()
		for _, later := range []uint64{1, 1 << 10, 1 << 40} {
			for kind, req := range map[raftrpc.Kind]any{
				raftrpc.AppendEntries: &raft.AppendEntriesRequest{RPCHeader: stranger, Term: term + later},
				raftrpc.TimeoutNow:    &raft.TimeoutNowRequest{RPCHeader: stranger},
				raftrpc.RequestVote:   &raft.RequestVoteRequest{RPCHeader: stranger, Term: term + later, LeadershipTransfer: true},
				raftrpc.InstallSnapshot: &raft.InstallSnapshotRequest{RPCHeader: stranger, SnapshotVersion: 1, Term: term + later, LastLogIndex: 1000, LastLogTerm: term,
					Configuration: raft.EncodeConfiguration(s.node.Configuration()), ConfigurationIndex: 1, Size: 1 << 40},
			} {
				_ = peer.send(kind, req, 1, 2, 3)
			}
		}
		synctest.Wait()
		if s.node.Raft.State() != raft.Leader || s.node.Raft.CurrentTerm() != term || time.Since(began) > 0 {
			t.Errorf("%v in term %d after %v, it led in term %d", s.node.Raft.State(), s.node.Raft.CurrentTerm(), time.Since(began), term)
		}
	})
}

func TestManyUnfinishedMessagesTakeBoundedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer := openSettled(t)
		defer s.Close()
		head := append([]byte{byte(raftrpc.AppendEntries), 0x81, 0xa6}, "Leader"...)
		head = append(head, 0xc6, 0x03, 0, 0, 0) // 48 MiB
		var conns []net.Conn
		for range 10 {
			conn := peer.connect()
			if _, err := conn.Write(append(head, make([]byte, 16<<20)...)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			conns = append(conns, conn)
		}
		open := 0
		for _, conn := range conns {
			if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				open++
			}
		}
		if open == 0 || open > 5 {
			t.Errorf("%d of 10 messages with 16 MiB each are still being read", open)
		}
		for _, conn := range conns {
			conn.Close()
		}
		if _, err := s.Set(t.Context(), "k", []byte("v")); err != nil {
			t.Error(err)
		}
	})
}

// Whatever brought it about: what is in the state stays in the log, or the node stops.
func TestALogIsNotCutWithinTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := openSettled(t)
		defer s.Close()
		at, last := s.Index(), s.node.Raft.LastIndex()
		if err := s.node.Logs.DeleteRange(at+1, last); err != nil {
			t.Fatalf("behind the state, %d to %d: %v", at+1, last, err)
		}
		if err := s.node.Logs.DeleteRange(at, last); err == nil || !strings.Contains(err.Error(), "what is committed is not deleted") {
			t.Errorf("got %v", err)
		}
		if _, now := s.node.Logs.Bounds(); now != at || s.Err() == nil {
			t.Errorf("the log ends at %d, the state at %d, and the node says %v", now, at, s.Err())
		}
	})
}

// A stranger who has shaken hands may send whatever he likes: no process ends, no node
// stops, and the log is one that the next start accepts.
func FuzzBytesForRaft(f *testing.F) {
	s, peer := openAlone(f, "")
	term, last := s.node.Raft.CurrentTerm(), s.node.Raft.LastIndex()
	for _, m := range peer.hostile(term, last) {
		f.Add(encodeRaft(f, m.kind, m.req))
	}
	legal := &raft.AppendEntriesRequest{RPCHeader: peer.header(), Term: term + 1, PrevLogEntry: last, PrevLogTerm: term, LeaderCommitIndex: last + 1,
		Entries: []*raft.Log{{Index: last + 1, Term: term + 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(s.node.Configuration())}}}
	f.Add(encodeRaft(f, raftrpc.AppendEntries, legal))
	f.Add(append(encodeRaft(f, raftrpc.AppendEntries, legal), encodeRaft(f, raftrpc.TimeoutNow, &raft.TimeoutNowRequest{RPCHeader: peer.header()})...))
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		base := raft.NewInmemStore()
		s, peer := openAlone(t, t.TempDir(), WithLogStore(base))
		conn := peer.connect()
		_, err := conn.Write(in)
		wiretest.CloseWrite(conn)
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
		if fault := errors.Join(s.Err(), s.node.Logs.Err()); fault != nil {
			t.Errorf("the node has stopped: %v", fault)
		}
		if err = errors.Join(err, s.Close()); err != nil {
			t.Error(err)
		}
		if s.fsm.failed != nil {
			t.Errorf("the state machine has stopped: %v", s.fsm.failed)
		}
		if _, err := disk.Open(disk.Options{Store: base, Fail: disktest.FailTest(t)}); err != nil {
			t.Errorf("the next start: %v", err)
		}
	})
}

// A follower's log may go on with entries of a leader that has lost its place. The next
// one tells how far it has committed its own, and has yet to send those.
func TestWhatALeaderHasNotSentIsNotCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer := openSettled(t)
		defer s.Close()
		term, last := s.node.Raft.CurrentTerm(), s.node.Raft.LastIndex()
		lost := &raft.AppendEntriesRequest{RPCHeader: peer.header(), Term: term + 1, PrevLogEntry: last, PrevLogTerm: term,
			Entries: []*raft.Log{{Index: last + 1, Term: term + 1, Type: raft.LogNoop}}}
		next := &raft.AppendEntriesRequest{RPCHeader: peer.header(), Term: term + 2, PrevLogEntry: last, PrevLogTerm: term, LeaderCommitIndex: last + 1}
		for _, req := range []*raft.AppendEntriesRequest{lost, next} {
			if err := peer.send(raftrpc.AppendEntries, req); err != nil {
				t.Fatal(err)
			}
		}
		if now := s.node.Raft.LastIndex(); now != last+1 {
			t.Fatalf("the log ends at %d, want %d", now, last+1)
		}
		if commit := s.node.Raft.CommitIndex(); commit != last {
			t.Errorf("entries up to %d are committed, and the leader has vouched for those up to %d", commit, last)
		}
	})
}
