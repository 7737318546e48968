package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	raftwal "github.com/hashicorp/raft-wal"
	"go.etcd.io/bbolt"

	"github.com/kvraft/kvraft/internal/wal"
)

// Logs alone, without raft: each takes batches of entries one after the other.
var (
	segments = system{kvraftName, openLogWith(func(dir string) (closableLog, error) { return wal.Create(filepath.Join(dir, "log"), wal.Options{}) })}
	raftBolt = system{"raft-boltdb", openLogWith(func(dir string) (closableLog, error) { return openBolt(dir) })}
	raftWAL  = system{"raft-wal", openLogWith(func(dir string) (closableLog, error) {
		return raftwal.Open(dir, raftwal.WithLogger(hclog.NewNullLogger()))
	})}
	logSystems = []system{segments, raftBolt, raftWAL, appended, written}
)

// openBolt opens raft-boltdb as fast as it gets: the list of free pages is not written.
func openBolt(dir string) (*raftboltdb.BoltStore, error) {
	return raftboltdb.New(raftboltdb.Options{
		Path:        filepath.Join(dir, "raft.db"),
		BoltOptions: &bbolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
	})
}

// batches are those of a lone writer, of many whose writes are entries of their own, and of
// large values.
var batches = []batch{{1, 100}, {64, 100}, {16, 64 << 10}}

// A batch is what raft stores at once: so many entries of so many bytes.
type batch struct{ entries, bytes int }

func (b batch) String() string { return fmt.Sprintf("log: %d × %s", b.entries, size(b.bytes)) }

func (b batch) make() []*raft.Log {
	entries := make([]*raft.Log, b.entries)
	for i := range entries {
		entries[i] = &raft.Log{Term: 1, Data: newValue(b.bytes).bytes}
	}
	return entries
}

func (b batch) run(ctx context.Context, c cluster, _ []string, warmUp, d time.Duration) (run, error) {
	entries, log := b.make(), c.(storing)
	return measure(ctx, []call{func(context.Context) error { return log.store(entries) }}, warmUp, d)
}

// storing is a cluster that is a log, and gives entries their indexes itself.
type storing interface {
	store(entries []*raft.Log) error
}

type closableLog interface {
	raft.LogStore
	io.Closer
}

type logCluster struct {
	nothing
	closableLog
	last  uint64
	since int // bytes since older entries were deleted
}

// openLogWith opens a log and writes to it until it has deleted entries a few times: one of
// a node that has run for a while has space that was written before.
func openLogWith(open func(dir string) (closableLog, error)) func(context.Context, site) (cluster, error) {
	return func(_ context.Context, at site) (cluster, error) {
		if err := os.Mkdir(at.dirs[0], 0o700); err != nil {
			return nil, err
		}
		log, err := open(at.dirs[0])
		if err != nil {
			return nil, err
		}
		c := &logCluster{closableLog: log}
		for entries := (batch{16, 64 << 10}).make(); c.last < 4*keptBytes/(64<<10); {
			if err := c.store(entries); err != nil {
				return nil, errors.Join(err, c.close())
			}
		}
		return c, nil
	}
}

func (c *logCluster) close() error { return c.Close() }

// keptBytes is how many bytes of entries a log has at the most.
const keptBytes = 16 << 20

func (c *logCluster) store(entries []*raft.Log) error {
	for _, e := range entries {
		c.last++
		e.Index = c.last
		c.since += len(e.Data)
	}
	if err := c.StoreLogs(entries); err != nil || c.since < keptBytes {
		return err
	}
	c.since = 0
	first, err := c.FirstIndex()
	if err != nil {
		return err
	}
	return c.DeleteRange(first, c.last-uint64(len(entries)))
}

// logs measures logs, and the disk, in turn.
func (b *bench) logs(ctx context.Context) error {
	var visits []visit
	for _, s := range logSystems {
		v := visit{system: s, nodes: 1}
		for _, l := range batches {
			v.loads = append(v.loads, l)
		}
		visits = append(visits, v)
	}
	return b.interleave(ctx, visits)
}
