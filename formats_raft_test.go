//lint:file-ignore SA1019 raft still sends the fields that it calls deprecated

package kvraft

import (
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

// tapeStream is raft's stream layer over recorded connections.
type tapeStream struct {
	tape     *wireTape
	accepted chan net.Conn
	closed   chan struct{}
}

func (s *tapeStream) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) { return s.tape, nil }
func (s *tapeStream) Addr() net.Addr                                           { return addrOf("10.0.0.1:7000") }
func (s *tapeStream) Close() error                                             { close(s.closed); return nil }

func (s *tapeStream) Accept() (net.Conn, error) {
	select {
	case conn := <-s.accepted:
		return conn, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// raft's messages are encoded by raft. Two versions of it that encode them differently
// must not stand in one cluster, so that its own encoding is pinned as well.
func TestRaftEncodesItsMessagesAsItEverDid(t *testing.T) {
	stream := &tapeStream{tape: &wireTape{}, accepted: make(chan net.Conn), closed: make(chan struct{})}
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: stream, Logger: hclog.NewNullLogger(), Timeout: time.Minute})
	defer trans.Close()

	head := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("n1#a"), Addr: []byte("10.0.0.1:7000")}
	entry := raft.Log{Index: 300, Term: 9, Type: raft.LogCommand, Data: []byte("data"), AppendedAt: time.Unix(1<<30, 5).UTC()}
	withChecksum(&entry)
	const to, at = raft.ServerID("n2#b"), raft.ServerAddress("10.0.0.2:7000")
	send := func(message, answer any) (err error) {
		switch m := message.(type) {
		case *raft.AppendEntriesRequest:
			return trans.AppendEntries(to, at, m, answer.(*raft.AppendEntriesResponse))
		case *raft.RequestVoteRequest:
			return trans.RequestVote(to, at, m, answer.(*raft.RequestVoteResponse))
		case *raft.RequestPreVoteRequest:
			return trans.RequestPreVote(to, at, m, answer.(*raft.RequestPreVoteResponse))
		case *raft.TimeoutNowRequest:
			return trans.TimeoutNow(to, at, m, answer.(*raft.TimeoutNowResponse))
		case *raft.InstallSnapshotRequest:
			return trans.InstallSnapshot(to, at, m, answer.(*raft.InstallSnapshotResponse), strings.NewReader("state"))
		}
		panic("unknown message")
	}
	for _, c := range []struct {
		name            string
		message, answer any
	}{
		{"raft-append-entries", &raft.AppendEntriesRequest{
			RPCHeader: head, Term: 9, Leader: []byte("10.0.0.1:7000"), PrevLogEntry: 299, PrevLogTerm: 8, Entries: []*raft.Log{&entry}, LeaderCommitIndex: 298,
		}, &raft.AppendEntriesResponse{RPCHeader: head, Term: 9, LastLog: 300, Success: true, NoRetryBackoff: true}},
		{"raft-heartbeat", &raft.AppendEntriesRequest{RPCHeader: head, Term: 9, Leader: []byte("10.0.0.1:7000")},
			&raft.AppendEntriesResponse{RPCHeader: head, Term: 9, LastLog: 300, Success: true}},
		{"raft-request-vote", &raft.RequestVoteRequest{
			RPCHeader: head, Term: 9, Candidate: []byte("10.0.0.1:7000"), LastLogIndex: 300, LastLogTerm: 9, LeadershipTransfer: true,
		}, &raft.RequestVoteResponse{RPCHeader: head, Term: 9, Granted: true}},
		{"raft-request-pre-vote", &raft.RequestPreVoteRequest{RPCHeader: head, Term: 9, LastLogIndex: 300, LastLogTerm: 9},
			&raft.RequestPreVoteResponse{RPCHeader: head, Term: 9, Granted: true}},
		{"raft-timeout-now", &raft.TimeoutNowRequest{RPCHeader: head}, &raft.TimeoutNowResponse{RPCHeader: head}},
		{"raft-install-snapshot", &raft.InstallSnapshotRequest{
			RPCHeader: head, SnapshotVersion: 1, Term: 9, Leader: []byte("10.0.0.1:7000"), LastLogIndex: 300, LastLogTerm: 9,
			Configuration: []byte("configuration"), ConfigurationIndex: 2, Size: 5,
		}, &raft.InstallSnapshotResponse{RPCHeader: head, Term: 9, Success: true}},
	} {
		blank := reflect.New(reflect.TypeOf(c.answer).Elem()).Interface()
		*stream.tape = wireTape{}
		if err := send(c.message, blank); !errors.Is(err, io.EOF) { // there is no answer on the tape yet
			t.Fatalf("%s: %v", c.name, err)
		}
		wantGolden(t, c.name, stream.tape.written.Bytes())

		near, far := memnet.Pipe()
		stream.accepted <- far
		if _, err := near.Write(golden(t, c.name, nil)); err != nil {
			t.Fatal(err)
		}
		rpc := <-trans.Consumer()
		if !reflect.DeepEqual(rpc.Command, c.message) {
			t.Errorf("%s reads as %+v, want %+v", c.name, rpc.Command, c.message)
		}
		if rpc.Reader != nil {
			if state, err := io.ReadAll(rpc.Reader); string(state) != "state" || err != nil {
				t.Errorf("%s carries %q, %v", c.name, state, err)
			}
		}
		rpc.Respond(c.answer, nil)
		answer := make([]byte, 1<<10)
		n, err := near.Read(answer) // it is sent in one piece
		if err != nil {
			t.Fatal(err)
		}
		near.Close()
		wantGolden(t, c.name+"-answer", answer[:n])

		*stream.tape = wireTape{}
		stream.tape.answer.Reset(golden(t, c.name+"-answer", nil))
		if err := send(c.message, blank); err != nil || !reflect.DeepEqual(blank, c.answer) {
			t.Errorf("%s is answered by %+v, %v, want %+v", c.name, blank, err, c.answer)
		}
	}
}
