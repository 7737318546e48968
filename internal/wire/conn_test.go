package wire

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
		var conns [3]*Conn
		for i := range conns {
			conn, _, err := a.Dial(t.Context(), "b:1", ForRPC, nodeB.Server)
			if err != nil {
				t.Fatal(err)
			}
			conns[i] = conn
		}
		silent, before, after := conns[0], conns[1], conns[2]
		before.Rest()
		time.Sleep(time.Second) // virtual
		asked := time.Now()
		time.Sleep(time.Second) // virtual
		after.Rest()
		silent.Distrust(asked)
		if before.Reuse() || !before.isClosed() {
			t.Error("one is used again that was idle since before the question")
		}
		if !after.Reuse() {
			t.Error("one that was used since is not")
		}
		silent.Distrust(asked.Add(-time.Hour))
		if after.Rest(); !after.Reuse() {
			t.Error("an older question takes back what is known")
		}
	})
}
