package kvraft_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/internal/raftrpc"
	"github.com/kvraft/kvraft/kvrafttest"
)

// A snapshot whose sending took too long is sent again and installed, the follower
// acknowledges a write, and then the first message arrives after all. raft looks
// only at its term, and would delete what the follower acknowledged.
func TestASnapshotThatArrivesTwiceTakesNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 0, kvraft.WithSnapshots(kvraft.Snapshots{TrailingBytes: 1}))
		sending := &sending{began: make(chan struct{})}
		for i := range 3 {
			c.Add(kvraft.WithNetwork(sendingFrom{c.Network(), fmt.Sprint("n", i+1), sending}))
		}
		leader := c.WaitLeader()
		follower, third := (leader+1)%3, (leader+2)%3
		l, f := fmt.Sprint("n", leader+1), fmt.Sprint("n", follower+1)
		mustSet(t, c.Store(leader), "warm", "")
		c.Crash(follower)
		for i := range 20 {
			mustSet(t, c.Store(leader), "key", fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		if err := c.Store(leader).TakeSnapshot(); err != nil {
			t.Fatal(err)
		}
		sending.do(func() { c.Network().SetDelay(l, f, 9*time.Second) }) // what is sent from then on arrives in 9 s
		c.Restart(follower)
		<-sending.began
		time.Sleep(2500 * time.Millisecond)
		c.Network().SetDelay(l, f, time.Millisecond) // and the next attempt before
		eventually(t, "the follower has caught up", func() bool {
			return c.Store(follower).Raft().LastIndex() == c.Store(leader).Raft().LastIndex()
		})
		c.Crash(third)
		if c.Store(leader).Raft().State() != raft.Leader {
			t.Fatal("the leader has changed: the test shows nothing")
		}
		mustSet(t, c.Store(leader), "key", "acknowledged") // by the leader and the follower
		reached := c.Store(follower).Raft().LastIndex()
		time.Sleep(10 * time.Second)
		if err := c.Store(follower).Err(); err != nil {
			t.Fatalf("the follower has stopped: %v", err)
		}
		if now := c.Store(follower).Raft().LastIndex(); now < reached {
			t.Errorf("the follower's log went from %d to %d", reached, now)
		}
		c.Crash(leader)
		c.Crash(follower)
		c.Restart(follower)
		c.Restart(third)
		next := c.WaitLeaderOtherThan(leader)
		wantValue(t, c.Store(next), "key", "acknowledged")
	})
}

// sending tells when a snapshot begins to be sent.
type sending struct {
	began chan struct{} // closed then

	mu   sync.Mutex
	then func() // guarded by mu: to be done before it goes on
}

func (s *sending) do(then func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.then = then
}

func (s *sending) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.then != nil {
		s.then()
		s.then = nil
		close(s.began)
	}
}

// sendingFrom is the network of one node.
type sendingFrom struct {
	network *kvrafttest.Network
	host    string
	sending *sending
}

func (n sendingFrom) Listen(addr string) (net.Listener, error) {
	return n.network.Host(n.host).Listen(addr)
}

func (n sendingFrom) Dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := n.network.Host(n.host).Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return sendingConn{conn, n.sending}, nil
}

type sendingConn struct {
	net.Conn
	sending *sending
}

func (c sendingConn) Write(b []byte) (int, error) {
	if len(b) > 0 && b[0] == byte(raftrpc.InstallSnapshot) { // the first byte of what raft sends
		c.sending.begin()
	}
	return c.Conn.Write(b)
}
