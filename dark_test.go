package kvraft_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// darkening is a network behind a firewall that loses its table: connections that were
// made before that swallow what is sent, and new ones work.
type darkening struct {
	*kvrafttest.Host
	lost  *atomic.Int64 // how often it has
	dials atomic.Int64
}

type darkConn struct {
	net.Conn
	lost *atomic.Int64
	made int64 // as many times had it lost its table when the connection was made
	shut atomic.Bool
}

type darkListener struct {
	net.Listener
	lost *atomic.Int64
}

func (n *darkening) Dial(ctx context.Context, addr string) (net.Conn, error) {
	n.dials.Add(1)
	conn, err := n.Host.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &darkConn{Conn: conn, lost: n.lost, made: n.lost.Load()}, nil
}

func (n *darkening) Listen(addr string) (net.Listener, error) {
	l, err := n.Host.Listen(addr)
	return darkListener{l, n.lost}, err
}

func (l darkListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &darkConn{Conn: conn, lost: l.lost, made: l.lost.Load()}, nil
}

func (c *darkConn) dark() bool { return c.lost.Load() > c.made }

func (c *darkConn) Write(b []byte) (int, error) {
	if c.shut.Load() {
		return 0, net.ErrClosed
	}
	if c.dark() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *darkConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.shut.Load() {
		return 0, net.ErrClosed
	}
	return n, err
}

// Close is not heard of at the other end either.
func (c *darkConn) Close() error {
	if !c.dark() {
		return c.Conn.Close()
	}
	if c.shut.CompareAndSwap(false, true) {
		return c.SetDeadline(time.Unix(1, 0))
	}
	return net.ErrClosed
}

// openDarkening opens three nodes, which know a leader.
func openDarkening(t *testing.T, opts ...kvraft.Option) (stores []*kvraft.Store, networks []*darkening, lose func()) {
	lost := new(atomic.Int64)
	network := kvrafttest.NewNetwork()
	for i := range 3 {
		id := fmt.Sprint("n", i+1)
		n := &darkening{Host: network.Host(id), lost: lost}
		own := []kvraft.Option{kvraft.WithID(id), kvraft.WithAddr(id + ":7000"), kvraft.WithNetwork(n), kvraft.WithInMemory()}
		if i > 0 {
			own = append(own, kvraft.WithJoin("n1:7000"))
		}
		s := open(t, t.TempDir(), append(own, opts...)...)
		eventually(t, id+" is ready", ready(s))
		stores, networks = append(stores, s), append(networks, n)
	}
	return stores, networks, func() { lost.Add(1) }
}

func manyReads(t *testing.T, s *kvraft.Store, opts ...kvraft.ReadOption) {
	t.Helper()
	var readers sync.WaitGroup
	for range 64 {
		readers.Go(func() {
			if _, err := s.Get(within(t, time.Minute), "key", opts...); err != nil {
				t.Error(err)
			}
		})
	}
	readers.Wait()
}

func TestConnectionsThatGoDarkCostOneTimeout(t *testing.T) {
	for _, alone := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			stores, _, lose := openDarkening(t)
			mustSet(t, stores[0], "key", "value")
			time.Sleep(time.Second) // virtual: the followers have it
			for _, s := range stores[1:] {
				for range 4 { // what it needs at one time is kept
					manyReads(t, s)
					manyReads(t, s, kvraft.LeaderLocal)
				}
			}
			lose()
			began := time.Now()
			var callers sync.WaitGroup
			for _, s := range stores[1:] {
				callers.Go(func() { mustSet(t, s, "key", "value") })
				if !alone {
					callers.Go(func() { wantValue(t, s, "key", "value") })
					callers.Go(func() { wantValue(t, s, "key", "value", kvraft.LeaderLocal) })
				}
			}
			callers.Wait()
			if took := time.Since(began); took > 6*time.Second {
				t.Errorf("alone %v: it took %v until the followers' callers had their answers", alone, took)
			}
			for _, most := range []time.Duration{6 * time.Second, time.Second} { // each node has to find out once
				began = time.Now()
				for _, s := range stores {
					mustSet(t, s, "key", "value")
				}
				if took := time.Since(began); took > most {
					t.Errorf("alone %v: later writes took %v", alone, took)
				}
			}
		})
	}
}

func TestAnAddressThatAMemberHasLeftKeepsNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		other := (leader + 1) % 3
		had := 0
		for move := range few(6) {
			mustSet(t, c.Store(other), "key", "value")
			manyReads(t, c.Store(other))
			time.Sleep(2 * time.Minute) // virtual
			switch now := c.Store(leader).Connections(); {
			case move == 0:
				had = now
			case now > had+2:
				t.Fatalf("%d connections after %d moves, %d before", now, move, had)
			}
			c.Crash(other)
			c.Move(other)
			c.Restart(other)
			c.WaitReady(other)
		}
	})
}

func TestManyWeakReadsOnAFollowerShareItsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stores, networks, _ := openDarkening(t)
		mustSet(t, stores[0], "key", "value")
		time.Sleep(time.Second) // virtual
		for i, s := range stores {
			manyReads(t, s, kvraft.LeaderLocal)
			before := networks[i].dials.Load()
			for range 20 {
				manyReads(t, s, kvraft.LeaderLocal)
			}
			if n := networks[i].dials.Load() - before; n > 2 {
				t.Errorf("node %d dialed %d times for 1280 reads", i+1, n)
			}
		}
	})
}

// A follower that lags behind asks for its entries: the reads wait for a connection.
func TestReadsThatAFollowerPassesOnWaitForAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		follower := (leader + 1) % 3
		mustSet(t, c.Store(leader), "key", "old")
		c.WaitConverged()
		release := c.Store(follower).HoldStateMachine()
		defer release()
		mustSet(t, c.Store(leader), "key", "value")
		before := c.Store(leader).Connections()
		var readers sync.WaitGroup
		for range 500 {
			readers.Go(func() { wantValue(t, c.Store(follower), "key", "value") })
		}
		most := 0
		for range 100 {
			most = max(most, c.Store(leader).Connections())
			time.Sleep(time.Millisecond) // virtual
		}
		readers.Wait()
		if most > before+20 {
			t.Errorf("500 readers opened %d connections", most-before)
		}
	})
}

func TestALargeValueArrivesThroughAFollowerOverASlowLink(t *testing.T) {
	for _, link := range []struct {
		bytes int
		rate  string
		delay time.Duration // over a window of 64 KiB
		most  time.Duration
	}{
		{16 << 20, "3 MB/s", 10 * time.Millisecond, 8 * time.Second},
		{4 << 20, "300 KB/s", 100 * time.Millisecond, 20 * time.Second}, // too slow to be asked for
	} {
		synctest.Test(t, func(t *testing.T) {
			c := kvrafttest.New(t, 3, kvraft.WithLimits(kvraft.Limits{ValueBytes: 16 << 20, BatchBytes: 20 << 20}), kvraft.WithTiming(kvraft.Timing{Heartbeat: time.Second}))
			leader := c.WaitLeader()
			follower := (leader + 1) % 3
			mustSet(t, c.Store(leader), "big", string(make([]byte, link.bytes)))
			c.WaitConverged()
			c.Network().SetDelay(c.Host(leader), c.Host(follower), link.delay)
			c.Network().SetDelay(c.Host(follower), c.Host(leader), link.delay)
			began := time.Now()
			entry, err := c.Store(follower).Get(within(t, time.Minute), "big")
			if took := time.Since(began); err != nil || len(entry.Value) != link.bytes || took > link.most {
				t.Errorf("%d bytes over %s: %d, %v after %v", link.bytes, link.rate, len(entry.Value), err, took)
			}
		})
	}
}
