package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var (
	nats      = system{"NATS, no fsync", openNATSWith(false)} // its default: fsync every two minutes
	natsFsync = system{"NATS, fsync", openNATSWith(true)}     // SyncAlways
)

func openNATSWith(fsync bool) func(context.Context, site) (cluster, error) {
	return func(ctx context.Context, at site) (cluster, error) { return openNATS(ctx, at, fsync) }
}

const bucket = "bench"

type natsCluster struct {
	servers []*server.Server
	conns   []*natsgo.Conn
	leads   string // the server that leads the bucket's stream
}

// openNATS starts a JetStream cluster with one bucket that is replicated to all.
func openNATS(ctx context.Context, at site, fsync bool) (*natsCluster, error) {
	c := &natsCluster{}
	if err := c.start(ctx, at, fsync); err != nil {
		return nil, errors.Join(fmt.Errorf("open NATS: %w", err), c.close())
	}
	return c, nil
}

func (c *natsCluster) start(ctx context.Context, at site, fsync bool) error {
	var routes []*url.URL
	for _, addr := range at.peers {
		routes = append(routes, &url.URL{Scheme: "nats", Host: addr})
	}
	for i, dir := range at.dirs {
		opts := &server.Options{
			ServerName: nodeName(i),
			Host:       "127.0.0.1",
			Port:       server.RANDOM_PORT, // not used, but without it there would be no routes
			JetStream:  true,
			StoreDir:   dir,
			SyncAlways: fsync,
			NoLog:      true,
			NoSigs:     true,
		}
		if len(routes) > 1 {
			peers := netip.MustParseAddrPort(at.peers[i])
			opts.Cluster = server.ClusterOpts{Name: "bench", Host: peers.Addr().String(), Port: int(peers.Port())}
			opts.Routes = routes
		}
		s, err := server.NewServer(opts)
		if err != nil {
			return err
		}
		go s.Start() // returns when the server is shut down
		c.servers = append(c.servers, s)
	}
	for _, s := range c.servers {
		if !s.ReadyForConnections(10 * time.Second) {
			return errors.New("a server is not ready within 10 s")
		}
	}
	return c.findBucket(ctx)
}

// findBucket creates the bucket if need be, and waits until its stream has a leader.
func (c *natsCluster) findBucket(ctx context.Context) error {
	js, err := c.connect(c.servers[0])
	if err != nil {
		return err
	}
	err = eventually(ctx, "a leader of JetStream", func() bool {
		return len(c.servers) == 1 || slices.ContainsFunc(c.servers, (*server.Server).JetStreamIsLeader)
	})
	if err != nil {
		return err
	}
	last := errors.New("not tried yet")
	err = eventually(ctx, "a bucket", func() bool {
		ctx, cancel := context.WithTimeout(ctx, time.Second) // a request that nobody was there for is not answered
		defer cancel()
		_, last = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket, Replicas: len(c.servers), Storage: jetstream.FileStorage})
		return last == nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return eventually(ctx, "a leader of the bucket's stream", func() bool {
		stream, err := js.Stream(ctx, "KV_"+bucket)
		if err != nil {
			return false
		}
		c.leads = c.servers[0].Name() // alone
		if info := stream.CachedInfo().Cluster; len(c.servers) > 1 {
			c.leads = info.Leader
		}
		return c.leads != ""
	})
}

func (c *natsCluster) node(on role) *server.Server {
	for _, s := range c.servers {
		if leads := s.Name() == c.leads; leads == (on == leader) {
			return s
		}
	}
	return c.servers[0]
}

func (c *natsCluster) connect(s *server.Server) (jetstream.JetStream, error) {
	conn, err := natsgo.Connect("", natsgo.InProcessServer(s))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	c.conns = append(c.conns, conn)
	return jetstream.New(conn)
}

// clients share one connection, which is a pipe in this process.
func (c *natsCluster) clients(on role, n int) ([]client, error) {
	js, err := c.connect(c.node(on))
	if err != nil {
		return nil, err
	}
	kv, err := js.KeyValue(context.Background(), bucket)
	if err != nil {
		return nil, fmt.Errorf("find the bucket: %w", err)
	}
	clients := make([]client, n)
	for i := range clients {
		clients[i] = natsClient{kv}
	}
	return clients, nil
}

func (c *natsCluster) close() error {
	for _, conn := range c.conns {
		conn.Close()
	}
	for _, s := range c.servers {
		s.Shutdown()
		s.WaitForShutdown()
	}
	return nil
}

func (c *natsCluster) closeLeader() error {
	s := c.node(leader)
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// crashLeader cannot be done in this process.
func (c *natsCluster) crashLeader() error { return errors.ErrUnsupported }

type natsClient struct{ kv jetstream.KeyValue }

func (c natsClient) set(ctx context.Context, key string, v value) error {
	_, err := c.kv.Put(ctx, key, v.bytes)
	return err
}

// get is answered by any replica: NATS has no linearizable get.
func (c natsClient) get(ctx context.Context, key string, l level) error {
	if l != stale {
		return fmt.Errorf("a %s get of NATS: %w", l, errors.ErrUnsupported)
	}
	_, err := c.kv.Get(ctx, key)
	return err
}
