package kvraft_test

import (
	"bytes"
	"regexp"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// alarms collects the warnings and errors that nodes log.
type alarms struct {
	mu    sync.Mutex
	lines bytes.Buffer // guarded by mu
}

func (a *alarms) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lines.Write(line)
}

func (a *alarms) option() kvraft.Option {
	return kvraft.WithLogger(hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: a}))
}

// take returns what was logged since the last call.
func (a *alarms) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.lines.Reset()
	return a.lines.String()
}

func TestAHealthyClusterLogsNoWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen alarms
		c := kvrafttest.New(t, 3, seen.option(), kvraft.WithSnapshots(kvraft.Snapshots{TrailingBytes: 1}))
		quiet := func(what string) {
			t.Helper()
			time.Sleep(5 * time.Second)
			if lines := seen.take(); lines != "" {
				t.Errorf("%s:\n%s", what, lines)
			}
		}
		mustSet(t, c.Store(0), "key", "value")
		quiet("formed")
		for _, id := range []string{"n1", "n2", "n3", ""} {
			if err := c.Store(0).TransferLeadership(within(t, time.Minute), id); err != nil {
				t.Fatal(err)
			}
		}
		quiet("leadership was transferred")
		for i := range 3 {
			c.Stop(i)
			mustSet(t, c.Store((i+1)%3), "key", "value")
			time.Sleep(3 * time.Second)
			c.Restart(i)
			quiet("a node was stopped and came back")
			time.Sleep(15 * time.Second)
		}
		for i := range 3 {
			if err := c.Store(i).TakeSnapshot(); err != nil {
				t.Fatal(err)
			}
		}
		c.Add()
		quiet("a node has joined, by a snapshot")
		c.Abandon()
		var stops sync.WaitGroup
		for i := range c.Len() {
			stops.Go(func() { c.Store(i).Close() })
		}
		stops.Wait()
		quiet("all were stopped")
	})
}

func TestANodeThatIsAwayForLongIsAWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen alarms
		c := kvrafttest.New(t, 3, seen.option())
		leader := c.WaitLeader()
		gone := (leader + 1) % 3
		c.Stop(gone)
		time.Sleep(9 * time.Second)
		if lines := seen.take(); lines != "" {
			t.Errorf("it may be starting again:\n%s", lines)
		}
		time.Sleep(20 * time.Second)
		lines := seen.take()
		if want := regexp.MustCompile(`^\S+ \[WARN\]  raft: failed to .*` + c.Host(gone) + `:7000.* for=10s\n$`); !want.MatchString(lines) {
			t.Errorf("want one line that names it:\n%s", lines)
		}
	})
}
