package kvraft_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// One message takes one node far ahead of the others: they follow it there, whatever
// part it has in the cluster, and do not lose it, nor their leader again and again. raft
// does not ask a node without a vote for one, and so would not learn its term.
func TestOneMessageOfAFarTermTakesTheClusterThere(t *testing.T) {
	const beyond = 1 << 32
	for _, target := range []string{"replica", "leader", "voter"} {
		t.Run(target, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := kvrafttest.New(t, 3)
				replica := c.Add(kvraft.WithReplica())
				leader := c.WaitLeader()
				c.WaitReady()
				to := map[string]int{"leader": leader, "voter": (leader + 1) % 3, "replica": replica}[target]
				sender := c.Store((leader + 2) % 3)
				far := sender.Raft().CurrentTerm() + beyond
				message := &raft.AppendEntriesRequest{
					RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte(sender.ServerID()), Addr: []byte("peer#0@p:1")},
					Term:      far,
				}
				answer := new(raft.AppendEntriesResponse)
				if err := sender.Transport().AppendEntries(c.Store(to).ServerID(), raft.ServerAddress(c.Store(to).Status().Addr), message, answer); err != nil || answer.Term != far {
					t.Fatalf("the message was answered with term %d, %v", answer.Term, err)
				}
				time.Sleep(10 * time.Second)
				next := c.WaitLeader()
				mustSet(t, c.Store(next), "key", "value")
				term := c.Store(next).Raft().CurrentTerm()
				if term <= far || term > far+20 {
					t.Errorf("after a message of term %d the cluster is in term %d", far, term)
				}
				time.Sleep(10 * time.Second)
				for i := range c.Len() {
					if now := c.Store(i).Raft().CurrentTerm(); now != term {
						t.Errorf("node %d is in term %d, the leader was in term %d", i, now, term)
					}
				}
			})
		})
	}
}
