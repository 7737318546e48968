package main_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// onOnePort is alike, with one port for peers and clients each.
func onOnePort(t testing.TB, n int) []*node {
	nodes := alike(t, n)
	for _, node := range nodes {
		node.raddr = node.haddr
	}
	return nodes
}

// pester dials addrs again and again, with what neither peers nor HTTP clients send,
// until stop is called.
func pester(t *testing.T, nodes []*node) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, n := range nodes {
		for _, text := range []string{"", "kvraft", "kvraft\x00\x01\x00\x02[]", "\xff\x00", "GET / HTTP/1.1\r\nX-A:"} {
			running.Go(func() {
				for ctx.Err() == nil {
					conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.haddr)
					if err != nil {
						<-time.After(10 * time.Millisecond)
						continue
					}
					hangUp := context.AfterFunc(ctx, func() { conn.Close() })
					_, _ = io.WriteString(conn, text) // it may be hung up on
					_, _ = io.Copy(io.Discard, conn)
					hangUp()
					conn.Close()
				}
			})
		}
	}
	return func() { cancel(); running.Wait() }
}

func TestAClusterWhoseNodesHaveOnePortBearsTheLossOfItsLeader(t *testing.T) {
	nodes := onOnePort(t, 3)
	defer pester(t, nodes)()
	startTogether(t, nodes)
	for round := range 3 {
		leader := findLeader(t, nodes)
		leader.kill()
		for i, n := range without(leader, nodes) {
			if err := set(n, fmt.Sprint(round, i), leader.id); err != nil {
				t.Error(err)
			}
		}
		leader.process = startCommand(t, kvd, leader.dir)
		waitOneCluster(t, nodes)
		if err := check(leader, fmt.Sprint(round, 1), leader.id); err != nil {
			t.Error(err)
		}
	}
	waitSameState(t, nodes)
}

func TestOnePortMayBeSpelledInTwoWays(t *testing.T) {
	n := newNode(t, "node0")
	n.raddr = strings.Replace(n.haddr, "127.0.0.1", "localhost", 1)
	n.start(t)
	waitReady(t, n)
	n.waitOutput("peers reach it at " + n.raddr)
	joiner := newNode(t, "node1", "-join", n.raddr)
	joiner.start(t)
	waitReady(t, joiner)
	expectExit(t, 1, []string{"-haddr", n.haddr, "-raddr", n.haddr, t.TempDir()}, "kvd: -haddr "+n.haddr, "address already in use")
}

// It does not say that its port is closed, which the end of the store does.
func TestANodeWithOnePortThatIsRemovedSaysSo(t *testing.T) {
	nodes := startTogether(t, onOnePort(t, 2))
	if code, body, err := post(nodes[0].url("/remove"), `{"id": "node1"}`); err != nil || code != 200 {
		t.Fatalf("POST /remove: %d %s, %v", code, body, err)
	}
	if code := nodes[1].exitCode(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	nodes[1].waitOutput("kvd: the node has stopped: ")
	if out := nodes[1].output.String(); strings.Contains(out, net.ErrClosed.Error()) {
		t.Errorf("it speaks of its listener:\n%s", out)
	}
	nodes[0].signal(syscall.SIGTERM)
	if code := nodes[0].exitCode(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// All of them connect first, and speak at the same moment.
func TestACrowdOfClientsIsServedOnTheOnePort(t *testing.T) {
	n := newNode(t, "node0")
	n.raddr = n.haddr
	n.start(t)
	waitReady(t, n)
	conns := make([]net.Conn, 500) // and no more than one host may have that have said nothing
	for i := range conns {
		conn, err := net.Dial("tcp", n.haddr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		conns[i] = conn
	}
	for _, conn := range conns {
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	for i, conn := range conns {
		if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK") {
			t.Fatalf("client %d: %q, %v", i, answer, err)
		}
	}
}
