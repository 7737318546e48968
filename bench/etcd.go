package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

var (
	etcd     = system{"etcd", openEtcdWith(false)}      // in the process of the node, no gRPC in between
	etcdGRPC = system{"etcd, gRPC", openEtcdWith(true)} // the same node over loopback
)

func openEtcdWith(grpc bool) func(context.Context, site) (cluster, error) {
	return func(ctx context.Context, at site) (cluster, error) { return openEtcd(ctx, at, grpc) }
}

type etcdCluster struct {
	grpc    bool
	servers []*embed.Etcd
	opened  []*clientv3.Client
	loading *clientv3.Client
}

// openEtcd starts members with etcd's defaults, but for a quota that the larger
// values would exceed.
func openEtcd(ctx context.Context, at site, grpc bool) (*etcdCluster, error) {
	c := &etcdCluster{grpc: grpc}
	if err := c.start(ctx, at); err != nil {
		return nil, errors.Join(fmt.Errorf("open etcd: %w", err), c.close())
	}
	c.loading = c.inProcess(leader)
	return c, nil
}

func (c *etcdCluster) start(ctx context.Context, at site) error {
	var members []string
	for i, addr := range at.peers {
		members = append(members, fmt.Sprintf("%s=http://%s", nodeName(i), addr))
	}
	for i := range at.dirs {
		config := etcdConfig(at, i)
		config.InitialCluster = strings.Join(members, ",")
		server, err := embed.StartEtcd(config)
		if err != nil {
			return err
		}
		c.servers = append(c.servers, server)
	}
	for _, s := range c.servers {
		select {
		case <-s.Server.ReadyNotify():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return eventually(ctx, "a leader of etcd", func() bool { return c.node(leader).Server.Leader() != 0 })
}

func etcdConfig(at site, node int) *embed.Config {
	config := embed.NewConfig()
	config.Name = nodeName(node)
	config.Dir = at.dirs[node]
	config.ListenPeerUrls = []url.URL{{Scheme: "http", Host: at.peers[node]}}
	config.AdvertisePeerUrls = config.ListenPeerUrls
	config.ListenClientUrls = []url.URL{{Scheme: "http", Host: at.clients[node]}}
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.QuotaBackendBytes = 16 << 30
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	return config
}

func (c *etcdCluster) node(on role) *embed.Etcd {
	for _, s := range c.servers {
		if leads := s.Server.MemberID() == s.Server.Leader(); leads == (on == leader) {
			return s
		}
	}
	return c.servers[0]
}

func (c *etcdCluster) inProcess(on role) *clientv3.Client {
	one := v3client.New(c.node(on).Server)
	c.opened = append(c.opened, one)
	return one
}

// clients share one client in process, and a connection for up to 64 of them over
// gRPC.
func (c *etcdCluster) clients(on role, n int) ([]client, error) {
	clients := make([]client, n)
	if !c.grpc {
		shared := c.inProcess(on)
		for i := range clients {
			clients[i] = etcdClient{shared}
		}
		return clients, nil
	}
	const perConn = 64
	endpoint := c.node(on).Config().ListenClientUrls[0].Host
	for i := range clients {
		if i%perConn > 0 {
			clients[i] = clients[i-1]
			continue
		}
		one, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
		if err != nil {
			return nil, fmt.Errorf("connect to etcd: %w", err)
		}
		c.opened = append(c.opened, one)
		clients[i] = etcdClient{one}
	}
	return clients, nil
}

func (c *etcdCluster) load(ctx context.Context, keys []string, v value) error {
	ops := make([]clientv3.Op, len(keys))
	for i, key := range keys {
		ops[i] = clientv3.OpPut(key, v.text)
	}
	_, err := c.loading.Txn(ctx).Then(ops...).Commit()
	return err
}

func (c *etcdCluster) close() error {
	for _, one := range c.opened {
		_ = one.Close() // it answers that its context was cancelled
	}
	for _, s := range c.servers {
		s.Server.HardStop() // without this each leader in turn would hand over to the next
	}
	for _, s := range c.servers {
		s.Close()
	}
	return nil
}

func (c *etcdCluster) closeLeader() error {
	c.take(leader).Close()
	return nil
}

// crashLeader is as near as a process comes to kill -9 of a part of itself: raft
// stops without a word, and then the listeners and connections go.
func (c *etcdCluster) crashLeader() error {
	s := c.take(leader)
	s.Server.HardStop()
	s.Close()
	return nil
}

// take is node, and leaves it to the caller to close it, which can be done once.
func (c *etcdCluster) take(on role) *embed.Etcd {
	s := c.node(on)
	c.servers = slices.DeleteFunc(c.servers, func(other *embed.Etcd) bool { return other == s })
	return s
}

type etcdClient struct{ kv *clientv3.Client }

func (c etcdClient) set(ctx context.Context, key string, v value) error {
	_, err := c.kv.Put(ctx, key, v.text)
	return err
}

func (c etcdClient) get(ctx context.Context, key string, l level) error {
	var opts []clientv3.OpOption
	if l == stale {
		opts = append(opts, clientv3.WithSerializable())
	}
	answer, err := c.kv.Get(ctx, key, opts...)
	if err == nil && len(answer.Kvs) != 1 {
		err = fmt.Errorf("etcd has no %s", key)
	}
	return err
}
