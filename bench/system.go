package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// A system is what is measured: nodes in this process, each with a directory of
// its own on the disk under test, that speak TCP over loopback to each other.
type system struct {
	name string
	open func(context.Context, site) (cluster, error) // leaves nothing running when it fails
}

// A site is where a cluster lives. One that is opened there again finds its data.
type site struct {
	dirs    []string // of each node
	peers   []string // the address, host:port, at which each is reached by the others
	clients []string // likewise by clients, if the system has a port for them
}

func newSite(dir string, nodes int) (site, error) {
	addrs, err := freeAddrs(2 * nodes)
	if err != nil {
		return site{}, err
	}
	at := site{peers: addrs[:nodes], clients: addrs[nodes:]}
	for i := range nodes {
		at.dirs = append(at.dirs, filepath.Join(dir, nodeName(i)))
	}
	return at, nil
}

// levels are those that the system can read at. NATS has one: any replica answers.
func (s system) levels() []level {
	if s.name == nats.name || s.name == natsFsync.name {
		return []level{stale}
	}
	return []level{linearizable, stale}
}

func (s system) freshest() level { return s.levels()[0] }

func nodeName(i int) string { return fmt.Sprintf("n%d", i) }

// A cluster is a system that runs, with a leader.
type cluster interface {
	// clients returns n clients that call one node; they share what clients of one
	// process share.
	clients(on role, n int) ([]client, error)
	close() error
}

// A client makes one call after the other.
type client interface {
	set(ctx context.Context, key string, v value) error
	get(ctx context.Context, key string, l level) error // fails when the key is absent
}

// A loader writes many keys at once, for systems that have a call for it.
type loader interface {
	load(ctx context.Context, keys []string, v value) error // at most loadAtOnce keys
}

const loadAtOnce = 128 // what etcd takes in one transaction

type role string

const (
	leader   role = "leader"
	follower role = "follower"
)

type level string

const (
	linearizable level = "linearizable"
	stale        level = "stale" // etcd calls it serializable, NATS a direct get
)

// nothing is a cluster without any of it: what is measured is something else.
type nothing struct{}

func (nothing) clients(role, int) ([]client, error)         { return nil, errors.ErrUnsupported }
func (nothing) load(context.Context, []string, value) error { return nil }
func (nothing) close() error                                { return nil }

// value is the same bytes in both types, so that no client converts them for each
// call.
type value struct {
	bytes []byte
	text  string
}

// newValue returns n bytes of text that hardly compresses.
func newValue(n int) value {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(b) // never fails
	text := base64.StdEncoding.EncodeToString(b)[:n]
	return value{[]byte(text), text}
}

// newKeys returns n keys of 16 bytes in ascending order.
func newKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key%013d", i)
	}
	return keys
}

// preload writes every key once.
func preload(ctx context.Context, c cluster, keys []string, v value) error {
	if c, ok := c.(loader); ok {
		batches := slices.Collect(slices.Chunk(keys, loadAtOnce))
		return inParallel(ctx, 16, len(batches), func(_, i int) error { return c.load(ctx, batches[i], v) })
	}
	return setEach(ctx, c, keys, v)
}

// setEach is preload by one write for each key.
func setEach(ctx context.Context, c cluster, keys []string, v value) error {
	clients, err := c.clients(leader, 256)
	if err != nil {
		return err
	}
	return inParallel(ctx, len(clients), len(keys), func(worker, i int) error { return clients[worker].set(ctx, keys[i], v) })
}

// inParallel calls f with every i below n, from several workers.
func inParallel(ctx context.Context, workers, n int, f func(worker, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for worker := range workers {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := f(worker, i); err != nil {
					return fmt.Errorf("load keys: %w", err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// eventually waits for what can only be asked for. It is not part of a measurement
// of milliseconds.
func eventually(ctx context.Context, what string, holds func() bool) error {
	for !holds() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}

// freeAddrs returns loopback addresses that are free now, below the ports that
// outgoing connections get: no other connection takes one before its node does.
func freeAddrs(n int) (addrs []string, err error) {
	const from, to, attempts = 20_000, 32_000, 100
	for range n * attempts {
		if len(addrs) == n {
			return addrs, nil
		}
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", from+rand.IntN(to-from)))
		if err != nil {
			continue
		}
		defer ln.Close() // at the end: no address is given twice
		addrs = append(addrs, ln.Addr().String())
	}
	return nil, fmt.Errorf("find %d free ports between %d and %d", n, from, to)
}
