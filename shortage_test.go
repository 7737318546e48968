package kvraft_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// strangersConnect has somebody wait at a node to be accepted.
func strangersConnect(t *testing.T, c *kvrafttest.Cluster, node int) {
	t.Helper()
	conn, err := c.Network().Host("stranger").Dial(t.Context(), c.Host(node)+":7000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
}

// A follower that has connections to the leader goes on with them; one that was started
// anew needs them.
func TestALeaderThatCanAcceptNoConnectionHandsOver(t *testing.T) {
	for name, test := range map[string]struct {
		dials           bool
		needConnections func(t *testing.T, c *kvrafttest.Cluster, leader, follower int)
	}{
		"a stranger":              {false, func(t *testing.T, c *kvrafttest.Cluster, leader, _ int) { strangersConnect(t, c, leader) }},
		"a severed follower":      {true, func(_ *testing.T, c *kvrafttest.Cluster, leader, f int) { c.Network().Sever(c.Host(leader), c.Host(f)) }},
		"a follower that returns": {true, func(_ *testing.T, c *kvrafttest.Cluster, _, f int) { c.Crash(f); c.Restart(f) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log syncBuffer
				c := kvrafttest.New(t, 3, kvraft.WithLogger(log.logger()))
				leader := c.WaitLeader()
				follower := (leader + 1) % 3
				mustSet(t, c.Store(follower), "before", "")
				c.Exhaust(leader, test.dials)
				test.needConnections(t, c, leader, follower)
				took := writesWithin(t, c.Store(follower), "key", nil, 10*time.Second)
				time.Sleep(10 * time.Second)
				if now, ok := c.Leader(); !ok || now == leader {
					t.Errorf("written after %v; %v leads, %v", took, now, ok)
				}
				st := c.Store(leader).Status()
				if st.Ready || st.Reason != "this node can accept no connection: accept mem n1:7000: too many open files" {
					t.Errorf("%+v", st)
				}
				if !strings.Contains(log.String(), "this leader can accept no connection; handing leadership over") {
					t.Error("the log does not tell")
				}
				for i := range 30 { // its shortage lasts
					time.Sleep(time.Second)
					writesWithin(t, c.Store(follower), fmt.Sprint(i), nil, time.Second)
				}
				c.Heal()
				eventually(t, "it is ready again", ready(c.Store(leader)))
			})
		})
	}
}

// The other two of three could elect one of them without it, and one could not.
func TestALeaderThatCanAcceptNoConnectionStaysIfNobodyCanTakeItsPlace(t *testing.T) {
	for nodes, says := range map[int]string{
		2: `"a majority of the 2 voters is needed without it, which reaches 1"`,
		3: `"a majority of the 3 voters is needed without it, which reaches 1; node n3: dial mem n3:7000: connection refused"`,
	} {
		synctest.Test(t, func(t *testing.T) {
			var log syncBuffer
			c := kvrafttest.New(t, nodes, kvraft.WithLogger(log.logger()))
			leader := c.WaitLeader()
			follower := (leader + 1) % nodes
			mustSet(t, c.Store(follower), "key", "")
			before := c.Store(leader).Status()
			if nodes > 2 {
				c.Crash((leader + 2) % nodes)
				time.Sleep(5 * time.Second) // the follower has the connections that it needs
			}
			c.Exhaust(leader, true)
			strangersConnect(t, c, leader)
			for i := range 30 {
				time.Sleep(time.Second)
				writesWithin(t, c.Store(follower), fmt.Sprint(i), nil, time.Second)
			}
			if st := c.Store(leader).Status(); st.Ready || st.State != kvraft.Leading || st.Term != before.Term || !strings.HasPrefix(st.Reason, "this node can accept no connection: ") {
				t.Errorf("%+v", st)
			}
			if !strings.Contains(log.String(), "none can take its place") || !strings.Contains(log.String(), "because="+says) {
				t.Errorf("the log does not tell %s:\n%s", says, log.String())
			}
		})
	}
}
