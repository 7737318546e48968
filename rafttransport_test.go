package kvraft_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// A snapshot whose sending took too long is sent again and installed, the follower
// acknowledges a write, and then the first message arrives after all. raft looks
// only at its term, and would delete what the follower acknowledged.
func TestASnapshotThatArrivesTwiceTakesNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sending := &logWatch{text: "installing snapshot on", seen: make(chan struct{})}
		c := kvrafttest.New(t, 3,
			kvraft.WithSnapshots(kvraft.Snapshots{TrailingBytes: 1}),
			kvraft.WithLogger(hclog.New(&hclog.LoggerOptions{Level: hclog.Info, Output: sending})))
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
		<-sending.seen
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

// logWatch is where a log goes, until a line holds a text.
type logWatch struct {
	text string
	seen chan struct{} // closed then

	mu   sync.Mutex
	then func() // guarded by mu: to be done before the line's writer goes on
}

func (w *logWatch) do(then func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.then = then
}

func (w *logWatch) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.then != nil && strings.Contains(string(line), w.text) {
		w.then()
		w.then = nil
		close(w.seen)
	}
	return len(line), nil
}
