package kvraft_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// Whatever fails may do so for long, such as a disk that is full: each try reads the
// whole state, and writes as much of it as there is room for.
func TestSnapshotsThatFailAreTriedLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		m := newMachine(t, kvrafttest.NewNetwork())
		s := m.start(t, "n1", "n1", kvraft.WithSnapshots(kvraft.Snapshots{EveryBytes: 1 << 10}),
			kvraft.WithLogger(hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Warn})))
		defer closeStore(t, s)
		eventually(t, "it is ready", ready(s))
		if err := os.Remove(filepath.Join(m.dir, "snapshots")); err != nil { // nothing can be made below it
			t.Fatal(err)
		}
		for i := range 20 {
			mustSet(t, s, fmt.Sprint(i), strings.Repeat("v", 100))
		}
		time.Sleep(time.Hour)
		if n := strings.Count(log.String(), "take a snapshot"); n < 10 || n > 70 {
			t.Errorf("it has tried %d times in an hour", n)
		}
		if err := s.Err(); err != nil {
			t.Error(err)
		}
	})
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
