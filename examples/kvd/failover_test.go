package main_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// How long clients of the other nodes, which write one key after the other, wait
// between two acknowledged writes when the leader is killed, and when it is stopped
// in order. An iteration is one leader that goes:
//
//	go test -run '^$' -bench Failover -benchtime 20x ./examples/kvd
func BenchmarkFailover(b *testing.B) {
	for name, signal := range map[string]syscall.Signal{"kill -9": syscall.SIGKILL, "stop": syscall.SIGTERM} {
		b.Run(name, func(b *testing.B) {
			nodes := startTogether(b, alike(b, 3))
			var pauses []time.Duration
			failed := 0
			for b.Loop() {
				leader := findLeader(b, nodes)
				w := keepWriting(without(leader, nodes))
				w.goOn(b, 200)
				leader.signal(signal)
				<-leader.exited
				w.goOn(b, 200)
				pause, errs := w.stop()
				pauses, failed = append(pauses, pause), failed+errs
				leader.start(b)
				waitReady(b, nodes...)
			}
			slices.Sort(pauses)
			b.ReportMetric(float64(pauses[len(pauses)/2].Microseconds())/1000, "median-ms")
			b.ReportMetric(float64(pauses[len(pauses)-1].Microseconds())/1000, "worst-ms")
			b.ReportMetric(float64(failed), "failed-calls")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// writing is a client on each of some nodes that writes one key after the other.
type writing struct {
	cancel  context.CancelFunc
	running sync.WaitGroup
	count   atomic.Int64 // of acknowledged writes
	failed  atomic.Int64

	mu      sync.Mutex
	longest time.Duration // guarded by mu: between two acknowledged writes of a client
}

func keepWriting(nodes []*node) *writing {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writing{cancel: cancel}
	for i, n := range nodes {
		w.running.Go(func() { w.write(ctx, n, i) })
	}
	return w
}

func (w *writing) write(ctx context.Context, n *node, client int) {
	last := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		code, _, err := post(n.url("/key"), fmt.Sprintf(`{"client-%d": "%d"}`, client, i))
		if err != nil || code != http.StatusOK {
			w.failed.Add(1)
			continue
		}
		w.count.Add(1)
		now := time.Now()
		w.mu.Lock()
		w.longest = max(w.longest, now.Sub(last))
		w.mu.Unlock()
		last = now
	}
}

// goOn waits for so many more acknowledged writes.
func (w *writing) goOn(tb testing.TB, writes int64) {
	tb.Helper()
	want := w.count.Load() + writes
	eventually(tb, "the writes to go on", func() string {
		if n := w.count.Load(); n < want {
			return fmt.Sprintf("%d to go", want-n)
		}
		return ""
	})
}

func (w *writing) stop() (longest time.Duration, failed int) {
	w.cancel()
	w.running.Wait()
	return w.longest, int(w.failed.Load())
}

// A leader that is killed costs the other nodes' clients a pause and no failed call.
func TestTheDeathOfTheLeaderFailsNoCallOnTheOtherNodes(t *testing.T) {
	nodes := startTogether(t, alike(t, 3))
	var said strings.Builder // by all that were not killed
	for range 3 {
		leader := findLeader(t, nodes)
		rest := without(leader, nodes)
		w := keepWriting(rest)
		w.goOn(t, 100)
		leader.kill()
		w.goOn(t, 100)
		if pause, failed := w.stop(); failed > 0 {
			t.Errorf("%d calls failed; the longest pause was %v", failed, pause)
		}
		for _, n := range rest {
			said.WriteString(n.output.String())
		}
		leader.start(t)
		waitReady(t, nodes...)
	}
	if !strings.Contains(said.String(), "the leader's process is gone") { // once: a busy machine may make a follower miss it
		t.Error("nobody took over because the process was gone")
	}
	waitSameState(t, nodes)
}
