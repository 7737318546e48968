package raftlog

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

func TestTwoFailuresWithAnAnswerBetweenThemAreNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := New(hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: &out}), func() bool { return false })
		fail := func() {
			l.Error("failed to heartbeat to", "peer", raft.ServerAddress("b:1"))
			l.Error("failed to appendEntries to", "peer", raft.Server{ID: "b#1", Address: "b:1"})
			l.Warn("failed to contact", "server-id", raft.ServerID("b#1"))
			l.Warn("failed to contact", "server-id", raft.ServerID("c#1"))
		}
		fail()
		time.Sleep(8 * time.Second)
		l.Reached("b#1", "b:1")
		l.Reached("c#1", "c:1")
		time.Sleep(4 * time.Second)
		fail()
		if out.Len() > 0 {
			t.Errorf("logged: %s", &out)
		}
		time.Sleep(11 * time.Second)
		fail()
		for _, line := range []string{"failed to heartbeat to: peer=b:1", `failed to contact: server-id="b#1"`, `failed to contact: server-id="c#1"`} {
			if strings.Count(out.String(), line) != 1 {
				t.Errorf("%q is not logged once: %s", line, &out)
			}
		}
	})
}
