package kvraft_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// fullPipe is where a logger writes that nobody reads: each Write waits.
type fullPipe struct{ drained chan struct{} }

func (p fullPipe) Write(b []byte) (int, error) {
	<-p.drained
	return len(b), nil
}

func TestAClusterWhoseLogsAreNotReadGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipe := fullPipe{make(chan struct{})}
		defer close(pipe.drained)        // first of all: the goroutines that are left end
		unread := func() kvraft.Option { // one for each: a logger has a lock, and virtual time waits for locks
			return kvraft.WithLogger(hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: pipe}))
		}
		c := kvrafttest.New(t, 0)
		for range 3 {
			c.Add(unread())
		}
		for i := range 30 {
			mustSet(t, c.Store(i%3), fmt.Sprint(i), "value")
		}
		leader := c.WaitLeader()
		c.Crash(leader) // of which the others have much to log
		next := c.WaitLeaderOtherThan(leader)
		for i := range 30 {
			mustSet(t, c.Store(next), fmt.Sprint(i), "again")
		}
		began := time.Now()
		c.Stop((leader + 1) % 3)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("Close took %v", took)
		}
	})
}

// Lines are logged by the time that Open has failed or Close has returned.
func TestTheLastLinesAreLogged(t *testing.T) {
	var log syncBuffer
	s := open(t, t.TempDir(), kvraft.WithLogger(log.logger()))
	eventually(t, "it is ready", ready(s))
	closeStore(t, s)
	if !strings.Contains(log.String(), "leadership") {
		t.Error(log.String())
	}
	dir := t.TempDir()
	s = open(t, dir)
	defer closeStore(t, s)
	if _, err := kvraft.Open(dir, kvraft.WithAddr("127.0.0.1:0"), kvraft.WithLogger(log.logger())); err == nil {
		t.Error("a directory was opened twice")
	}
}
