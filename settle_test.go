package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// named is a network with names for its hosts, of which one may stand for several, as
// that of a headless service in Kubernetes does.
type named struct {
	*kvrafttest.Host
	dns *dns
}

type dns struct {
	mu    sync.Mutex
	names map[string][]string // guarded by mu
}

func (d *dns) set(name string, hosts ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[name] = hosts
}

func (n named) LookupHost(_ context.Context, host string) ([]string, error) {
	n.dns.mu.Lock()
	defer n.dns.mu.Unlock()
	if hosts := n.dns.names[host]; len(hosts) > 0 {
		return append([]string(nil), hosts...), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Dial is what a net.Dialer does with a name.
func (n named) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if host, port, err := net.SplitHostPort(addr); err == nil {
		if hosts, err := n.LookupHost(ctx, host); err == nil {
			addr = net.JoinHostPort(hosts[0], port)
		}
	}
	return n.Host.Dial(ctx, addr)
}

func TestANameInDNSStandsForAllItsAddressesEachTimeItIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, service := kvrafttest.NewNetwork(), &dns{names: map[string][]string{}}
		start := func(id string) *kvraft.Store {
			return open(t, t.TempDir(), kvraft.WithID(id), kvraft.WithAddr(id+":7000"), kvraft.WithLogStore(kvrafttest.NewDisk().Open()),
				kvraft.WithNetwork(named{network.Host(id), service}),
				kvraft.WithJoin("dns://kv:7000"), kvraft.WithBootstrapExpect(3))
		}
		first := start("a")
		time.Sleep(10 * time.Second)
		if reason := first.Status().Reason; !strings.Contains(reason, "no such host") {
			t.Errorf("the reason is %q", reason)
		}
		service.set("kv", "a")
		second := start("b")
		time.Sleep(10 * time.Second)
		service.set("kv", "b", "a")
		third := start("c") // which DNS does not know yet, and which dials the others
		for _, s := range []*kvraft.Store{first, second, third} {
			eventually(t, "it is ready", ready(s))
		}
		if ids := memberIDs(t, first); ids != "a b c" {
			t.Errorf("members %s", ids)
		}
	})
}

// A container that is started again may have another IP and the same name.
func TestAMemberIsFoundWhereverItsNameLeadsNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, service := kvrafttest.NewNetwork(), &dns{names: map[string][]string{}}
		machines := map[string]machine{"a": newMachine(t, network), "b": newMachine(t, network)}
		start := func(id, ip string) *kvraft.Store {
			service.set(id, ip)
			return machines[id].start(t, id, ip, kvraft.WithAdvertise(id+":7000"), kvraft.WithNetwork(named{network.Host(ip), service}),
				kvraft.WithBootstrapExpect(2), kvraft.WithJoin("a:7000", "b:7000"))
		}
		a, b := start("a", "10.0.0.1"), start("b", "10.0.0.2")
		for n := range 4 {
			eventually(t, "a is ready", ready(a))
			eventually(t, "b is ready", ready(b))
			mustSet(t, a, "key", fmt.Sprint(n)) // it takes both
			wantValue(t, b, "key", fmt.Sprint(n))
			if nodes := a.Status().Nodes; len(nodes) != 2 || nodes[1].Addr != "b:7000" {
				t.Errorf("members %v", nodes)
			}
			closeStore(t, b)
			network.Isolate(fmt.Sprint("10.0.0.", 2+n)) // nobody answers there any more, not even that nobody listens
			b = start("b", fmt.Sprint("10.0.0.", 3+n))
		}
		closeStore(t, b)
		closeStore(t, a)
	})
}

func wantReason(t *testing.T, s *kvraft.Store, words ...string) {
	t.Helper()
	var last string
	eventuallyOr(t, func() bool {
		st := s.Status()
		last = st.Reason
		for _, word := range words {
			if !strings.Contains(last, word) {
				return false
			}
		}
		return !st.Ready
	}, func() { t.Errorf("the reason is %q, want it to say %q", last, words) })
	if strings.Contains(last, "\n") {
		t.Errorf("the reason is more than one line: %q", last)
	}
}

// eventuallyOr is eventually with a complaint of the caller's own.
func eventuallyOr(t *testing.T, cond func() bool, complain func()) {
	t.Helper()
	for range 60_000 {
		if cond() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	complain()
}

func TestTheStatusSaysWhyInOneSentence(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, c *kvrafttest.Cluster){
		"two of three are dead": func(t *testing.T, c *kvrafttest.Cluster) {
			c.Crash(1)
			c.Crash(2)
			wantReason(t, c.Store(0), "no leader", "2 of 3 voters do not answer", "n2 at n2:7000", "n3 at n3:7000", "connection refused")
			c.Restart(1)
			c.Restart(2)
		},
		"two of three are cut off": func(t *testing.T, c *kvrafttest.Cluster) {
			c.Isolate(0)
			wantReason(t, c.Store(0), "no leader", "2 of 3 voters do not answer", "n2 at n2:7000", "deadline exceeded")
		},
		"nobody answers at the addresses to join at": func(t *testing.T, c *kvrafttest.Cluster) {
			s := on(t, c.Network(), "x", "x", kvraft.WithJoin("nowhere:7000", "n9:7000"))
			wantReason(t, s, "waiting to be admitted", "nowhere:7000", "n9:7000", "connection refused")
		},
		"the leader cannot reach the address": func(t *testing.T, c *kvrafttest.Cluster) {
			s := on(t, c.Network(), "x", "x", kvraft.WithAdvertise("nowhere:7000"), kvraft.WithJoin("n1:7000"))
			wantReason(t, s, "waiting to be admitted", "join node x at nowhere:7000", "unreachable from the leader, n", "connection refused")
		},
		"the leader does not hear a member, and a member not the leader": func(t *testing.T, c *kvrafttest.Cluster) {
			leader := c.WaitLeader()
			follower := (leader + 1) % 3
			c.Block(leader, follower)
			wantReason(t, c.Store(follower), "no leader", fmt.Sprintf("join node n%d", follower+1), "unreachable from the leader")
		},
		"the id is taken": func(t *testing.T, c *kvrafttest.Cluster) {
			s := on(t, c.Network(), "n2", "x", kvraft.WithJoin("n1:7000"))
			wantReason(t, s, "waiting to be admitted", "the id n2 is taken by the live member at n2:7000")
		},
		"the id belongs to a member that is down": func(t *testing.T, c *kvrafttest.Cluster) {
			c.Stop(1)
			s := on(t, c.Network(), "n2", "x", kvraft.WithJoin("n1:7000"))
			wantReason(t, s, "waiting to be admitted", "the id n2 belongs to a member at n2:7000 that does not answer")
		},
		"an HTTP server is where a peer should be": func(t *testing.T, c *kvrafttest.Cluster) {
			ln, err := c.Network().Host("web").Listen("web:80")
			if err != nil {
				t.Fatal(err)
			}
			serving := serveHTTP(ln)
			s := on(t, c.Network(), "x", "x", kvraft.WithJoin("web:80"))
			wantReason(t, s, "waiting to be admitted", "not a kvraft peer, but an HTTP server")
			began := time.Now()
			if err := c.Store(0).Join(within(t, time.Minute), "web", "web:80"); !errors.Is(err, kvraft.ErrUnreachable) || time.Since(began) > time.Second {
				t.Errorf("join: %v after %v", err, time.Since(began))
			}
			ln.Close()
			<-serving
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, kvrafttest.New(t, 3)) })
		})
	}
}

// Two clusters, each of which is told to join the other: they stay apart.
func TestNodesWithDataStayInTheirClusterWhateverTheyAreToldToJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		machines := map[string]machine{}
		stores := map[string]*kvraft.Store{}
		for _, cluster := range []string{"a", "b"} {
			for i := range 3 {
				id := fmt.Sprint(cluster, i)
				machines[id] = newMachine(t, network)
				stores[id] = machines[id].start(t, id, id, kvraft.WithBootstrapExpect(3), kvraft.WithJoin(cluster+"0:7000", cluster+"1:7000", cluster+"2:7000"))
			}
		}
		ids := map[string]string{}
		for id, s := range stores {
			eventually(t, id+" is ready", ready(s))
			ids[id] = s.Status().Cluster
		}
		mustSet(t, stores["a0"], "key", "of a")
		mustSet(t, stores["b0"], "key", "of b")
		var log syncBuffer
		for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}} {
			for i := range 3 {
				id := fmt.Sprint(pair[0], i)
				closeStore(t, stores[id])
				stores[id] = machines[id].start(t, id, id, kvraft.WithLogger(log.logger()),
					kvraft.WithBootstrapExpect(3), kvraft.WithJoin(pair[1]+"0:7000", pair[1]+"1:7000", pair[1]+"2:7000"))
				eventually(t, id+" is ready", ready(stores[id]))
			}
		}
		time.Sleep(time.Minute)
		for id, s := range stores {
			wantValue(t, s, "key", "of "+id[:1])
			if now := s.Status().Cluster; now != ids[id] || memberIDs(t, s) != fmt.Sprintf("%[1]s0 %[1]s1 %[1]s2", id[:1]) {
				t.Errorf("%s is in cluster %s of %s, was in %s", id, now, memberIDs(t, s), ids[id])
			}
		}
		if n := strings.Count(log.String(), "belongs to another cluster"); n != 6 {
			t.Errorf("%d warnings, want one of each node:\n%s", n, log.String())
		}
		for _, s := range stores {
			closeStore(t, s)
		}
	})
}

// A node of another cluster stands where a member was: what is meant for the member
// does not reach it, and both sides say why.
func TestWhoeverIsMistakenForAMemberIsRefusedAndBothLogsSayWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ours, theirs syncBuffer
		c := kvrafttest.New(t, 3, kvraft.WithLogger(ours.logger()))
		mustSet(t, c.Store(0), "key", "value")
		c.Crash(2)
		stranger := open(t, t.TempDir(), kvraft.WithID("n3"), kvraft.WithAddr("n3:7000"), kvraft.WithNetwork(c.Network().Host("n3")),
			kvraft.WithLogStore(kvrafttest.NewDisk().Open()), kvraft.WithLogger(theirs.logger())) // it forms a cluster of its own
		eventually(t, "the stranger leads itself", func() bool { return stranger.Status().State == kvraft.Leading })
		term := stranger.Status().Term
		time.Sleep(time.Minute)
		if st := stranger.Status(); st.Term != term || len(st.Nodes) != 1 {
			t.Errorf("the stranger was changed: %+v", st)
		}
		for name, log := range map[string]*syncBuffer{"the members'": &ours, "the stranger's": &theirs} {
			if !strings.Contains(log.String(), "this is node n3#") {
				t.Errorf("%s log does not say that another node is there:\n%.2000s", name, log.String())
			}
		}
		closeStore(t, stranger)
	})
}
