package kvraft

import (
	"bufio"
	"bytes"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/state"
)

// Benchmarks of one node without a disk: what the store itself costs. bench/ has the
// whole of it beside other systems.

// openBench is a node in memory that leads and holds n keys with 100-byte values.
func openBench(b *testing.B, n int) *Store {
	b.Helper()
	s, err := Open("", WithInMemory(), WithAddr("127.0.0.1:0"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	for from := 0; from < n; from += 1000 {
		var ops []Op
		for i := from; i < min(from+1000, n); i++ {
			ops = append(ops, SetOp(benchKey(i), make([]byte, 100)))
		}
		if _, err := s.Batch(b.Context(), ops...); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := s.Get(b.Context(), benchKey(0)); err != nil { // it leads
		b.Fatal(err)
	}
	return s
}

func benchKey(i int) string { return fmt.Sprintf("key%013d", i) }

func BenchmarkGet(b *testing.B) {
	s := openBench(b, 100_000)
	for name, level := range map[string]ReadOption{"stale": Stale, "linearizable": Linearizable} {
		b.Run(name, func(b *testing.B) {
			key := benchKey(50_000)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Get(b.Context(), key, level); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSet(b *testing.B) {
	s := openBench(b, 100_000)
	key, value := benchKey(50_000), make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Set(b.Context(), key, value); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkView goes through all keys.
func BenchmarkView(b *testing.B) {
	const keys = 100_000
	s := openBench(b, keys)
	b.ReportAllocs()
	for b.Loop() {
		view, err := s.View(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for range view.All() {
			n++
		}
		if n != keys {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*keys), "ns/key")
}

// BenchmarkSet256 writes from 256 goroutines, which are answered in groups.
func BenchmarkSet256(b *testing.B) {
	s := openBench(b, 100_000)
	value := make([]byte, 100)
	var next atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(max(256/runtime.GOMAXPROCS(0), 1))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		key := benchKey(int(next.Add(1)) * 97)
		for pb.Next() {
			if _, err := s.Set(b.Context(), key, value); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkApply256 decodes and applies an entry of 256 writes to 100,000 keys, and
// publishes the state.
func BenchmarkApply256(b *testing.B) {
	const keys = 100_000
	f, faults := newTestFSM(b, 1<<60)
	f.state = benchState(b, keys)
	ids, index := command.NewIDs(), uint64(1)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		requests := make([]command.Request, 256)
		for i := range requests {
			requests[i] = command.Request{Ops: []command.Op{{Kind: command.Set, Key: benchKey(i * 97), Value: make([]byte, 100)}}}
			ids.Stamp(&requests[i], index)
		}
		index++
		entry := &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: command.Append(nil, requests)}
		b.StartTimer()
		f.Apply(entry)
	}
	if len(*faults) > 0 {
		b.Fatal(*faults)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*256), "ns/write")
}

func benchState(b *testing.B, n int) *state.State {
	b.Helper()
	l := state.NewLoader(uint64(n), 0)
	for i := range n {
		if err := l.Add(benchKey(i), make([]byte, 100), uint64(i+1)); err != nil {
			b.Fatal(err)
		}
	}
	return l.State()
}

// BenchmarkFSMSnapshot is what Apply waits for.
func BenchmarkFSMSnapshot(b *testing.B) {
	f, _ := newTestFSM(b, 1<<60)
	f.state = benchState(b, 1_000_000)
	f.publish(&applied{index: 1, term: 1, view: f.state.View()})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Snapshot(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteSnapshot(b *testing.B) {
	view := benchState(b, 100_000).View()
	b.ReportAllocs()
	for b.Loop() {
		var n counter
		if err := writeSnapshot(b.Context(), &n, snapshotHeader{}, view); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(n))
	}
}

type counter int

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func BenchmarkReadSnapshot(b *testing.B) {
	var out bytes.Buffer
	if err := writeSnapshot(b.Context(), &out, snapshotHeader{}, benchState(b, 100_000).View()); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(out.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := readSnapshot(bufio.NewReaderSize(bytes.NewReader(out.Bytes()), 1<<20)); err != nil {
			b.Fatal(err)
		}
	}
}
