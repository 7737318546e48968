package kvraft

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAConnectionIsTrustedThatWasUsedSinceAnotherGotNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		newTestPort(t, lan, "b:1", nodeB, serveUntilEnd)
		a := newTestPort(t, lan, "a:1", nodeA, nil)
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
