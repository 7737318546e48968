package kvraft

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// raft keeps connections for its next messages, and a vote that fails because one of
// them was closed is a vote less.
func TestAConnectionOfRaftsThatHasRestedIsMadeAnewForTheNextMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		ta := newTestTransport(t, lan, "a:1", nodeA, serveNothing)
		tb := newTestTransport(t, lan, "b:1", nodeB, serveNothing)
		log := hclog.NewNullLogger()
		a, b := newRaftTransport(ta, time.Second, log, openSieve), newRaftTransport(tb, time.Second, log, openSieve)
		go func() {
			for {
				select {
				case rpc := <-b.Consumer():
					rpc.Respond(&raft.RequestVoteResponse{Granted: true}, nil)
				case <-tb.ctx.Done():
					return
				}
			}
		}()
		head := raft.RPCHeader{ProtocolVersion: 3, ID: []byte(nodeA.server), Addr: []byte(meant(nodeA.server, "a:1"))}
		vote := func(dials uint64) {
			t.Helper()
			var answer raft.RequestVoteResponse
			if err := a.RequestVote(nodeB.server, "b:1", &raft.RequestVoteRequest{RPCHeader: head, Term: 9}, &answer); err != nil || !answer.Granted {
				t.Errorf("%+v, %v", answer, err)
			}
			if n := tb.accepted.Load(); n != dials {
				t.Errorf("%d dials, want %d", n, dials)
			}
		}
		vote(1)
		time.Sleep(restLimit - time.Millisecond) // virtual
		ta.sweep()
		vote(1)
		time.Sleep(restLimit + time.Millisecond) // virtual
		vote(2)
		time.Sleep(restLimit + time.Millisecond) // virtual
		ta.sweep()
		synctest.Wait()
		if n := ta.tracked() + tb.tracked(); n != 0 {
			t.Errorf("%d ends of connections that nobody uses are open", n)
		}
		vote(3)
		conn, _, err := ta.dial(t.Context(), "b:1", forRPC, nodeB.server)
		if err != nil {
			t.Fatal(err)
		}
		conn.distrust(time.Now()) // another call on b gets no answer
		conn.Close()
		vote(5)
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
		ta.close()
		tb.close()
	})
}

func TestAConnectionIsTrustedThatWasUsedSinceAnotherGotNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		newTestTransport(t, lan, "b:1", nodeB, serveUntilEnd)
		a := newTestTransport(t, lan, "a:1", nodeA, nil)
		var conns [3]*peerConn
		for i := range conns {
			conn, _, err := a.dial(t.Context(), "b:1", forRPC, nodeB.server)
			if err != nil {
				t.Fatal(err)
			}
			conns[i] = conn
		}
		silent, before, after := conns[0], conns[1], conns[2]
		before.rest()
		time.Sleep(time.Second) // virtual
		asked := time.Now()
		time.Sleep(time.Second) // virtual
		after.rest()
		silent.distrust(asked)
		if before.take() || !before.isClosed() {
			t.Error("one is used again that was idle since before the question")
		}
		if !after.take() {
			t.Error("one that was used since is not")
		}
		silent.distrust(asked.Add(-time.Hour))
		if after.rest(); !after.take() {
			t.Error("an older question takes back what is known")
		}
	})
}
