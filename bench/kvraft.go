package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

const kvraftName = "kvraft"

// kvraftDefault is kvraft as a program opens it.
var kvraftDefault = kvraftWith(func(int) []kvraft.Option { return nil })

// kvraftWith is kvraft with options for each node.
func kvraftWith(opts func(node int) []kvraft.Option) system {
	return system{kvraftName, func(ctx context.Context, at site) (cluster, error) { return openKvraft(ctx, at, opts) }}
}

type kvraftCluster struct {
	stores []*kvraft.Store
	opts   func(node int) []kvraft.Option
}

func openKvraft(ctx context.Context, at site, opts func(node int) []kvraft.Option) (*kvraftCluster, error) {
	c := &kvraftCluster{opts: opts}
	for i := range at.dirs {
		store, err := c.openNode(at, i)
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		c.stores = append(c.stores, store)
	}
	if err := eventually(ctx, "a kvraft cluster", c.ready); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *kvraftCluster) openNode(at site, i int) (*kvraft.Store, error) {
	opts := []kvraft.Option{kvraft.WithID(nodeName(i)), kvraft.WithAddr(at.peers[i])}
	if len(at.dirs) > 1 {
		opts = append(opts, kvraft.WithJoin(at.peers...), kvraft.WithBootstrapExpect(len(at.dirs)))
	}
	return kvraft.Open(at.dirs[i], append(opts, c.opts(i)...)...)
}

func (c *kvraftCluster) ready() bool {
	for _, s := range c.stores {
		if st := s.Status(); !st.Ready || len(st.Nodes) < len(c.stores) {
			return false
		}
	}
	return true
}

func (c *kvraftCluster) node(on role) *kvraft.Store {
	for _, s := range c.stores {
		if leads := s.Status().State == kvraft.Leading; leads == (on == leader) {
			return s
		}
	}
	return c.stores[0] // alone, or an election is under way: any node takes any call
}

func (c *kvraftCluster) clients(on role, n int) ([]client, error) {
	clients := make([]client, n)
	for i := range clients {
		clients[i] = kvraftClient{c.node(on)}
	}
	return clients, nil
}

func (c *kvraftCluster) load(ctx context.Context, keys []string, v value) error {
	ops := make([]kvraft.Op, len(keys))
	for i, key := range keys {
		ops[i] = kvraft.SetOp(key, v.bytes)
	}
	_, err := c.node(leader).Batch(ctx, ops...)
	return err
}

// handler is what kvd serves, on the leader.
func (c *kvraftCluster) handler() http.Handler {
	return kvhttp.Handler(c.node(leader))
}

// close stops the followers first, so that no leadership has to move.
func (c *kvraftCluster) close() error {
	var errs []error
	for _, last := range []bool{false, true} {
		for _, s := range c.stores {
			if leads := s.Status().State == kvraft.Leading; leads == last {
				errs = append(errs, s.Close())
			}
		}
	}
	for _, s := range c.stores { // whose role has changed meanwhile; a second Close does nothing
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

func (c *kvraftCluster) closeLeader() error { return c.node(leader).Close() }

// crashLeader cannot be done in this process: see killed.
func (c *kvraftCluster) crashLeader() error { return errors.ErrUnsupported }

type kvraftClient struct{ store *kvraft.Store }

func (c kvraftClient) set(ctx context.Context, key string, v value) error {
	_, err := c.store.Set(ctx, key, v.bytes)
	return err
}

func (c kvraftClient) get(ctx context.Context, key string, l level) (err error) {
	if l == stale {
		_, err = c.store.Get(ctx, key, kvraft.Stale)
	} else {
		_, err = c.store.Get(ctx, key)
	}
	return err
}
