package serf_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
	"github.com/kvraft/kvraft/serf"
)

// ports counts those that freeAddr has given.
var ports atomic.Uint32

// freeAddr returns a loopback address of which the port is free for TCP and UDP,
// below those that the system gives to outgoing connections, and not among those that
// the tests of kvd use, or as a rule another run of these: they may run beside.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 8000+300*(os.Getpid()%9)+int(ports.Add(1)%300))
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", addr)
		tcp.Close()
		if err == nil {
			udp.Close()
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

// eventually polls; missing says what is missing, and "" that nothing is.
func eventually(t *testing.T, what string, missing func() string) {
	t.Helper()
	const limit = 2 * time.Minute
	end := time.After(limit)
	for reason := missing(); reason != ""; reason = missing() {
		select {
		case <-end:
			t.Fatalf("waited %v for %s: %s", limit, what, reason)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// node is a store and its gossip.
type node struct {
	*kvraft.Store
	gossip *serf.Gossip
}

// start starts a node that knows one gossip address; healing takes a second.
func start(t *testing.T, id, dir, addr, known string, opts ...kvraft.Option) node {
	t.Helper()
	n := startApart(t, id, dir, addr, known, opts...)
	n.gossip.Attach(n.Store)
	return n
}

// logUnlessPassed is shown if the test fails.
func logUnlessPassed(t *testing.T, id string) hclog.Logger {
	var mu sync.Mutex
	var lines bytes.Buffer
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		if t.Failed() {
			t.Logf("the log of %s:\n%s", id, &lines)
		}
	})
	return hclog.New(&hclog.LoggerOptions{Name: id, Mutex: &mu, Output: &lines})
}

// startApart is start without Attach.
func startApart(t *testing.T, id, dir, addr, known string, opts ...kvraft.Option) node {
	t.Helper()
	log := logUnlessPassed(t, id)
	gossip, err := serf.Start(serf.Config{Addr: addr, Join: []string{known}, HealAfter: time.Second, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	store, err := kvraft.Open(dir, append(opts, kvraft.WithID(id), kvraft.WithAddr("127.0.0.1:0"), kvraft.WithLogger(log),
		kvraft.WithBootstrapExpect(3), kvraft.WithJoinFunc(gossip.Find))...)
	if err != nil {
		t.Fatal(err)
	}
	n := node{store, gossip}
	t.Cleanup(func() { n.stop(t) })
	return n
}

func (n node) stop(t *testing.T) {
	t.Helper()
	if err := errors.Join(n.Store.Close(), n.gossip.Close()); err != nil {
		t.Error(err)
	}
}

func ids(nodes []kvraft.Node) string {
	var ids []string
	for _, n := range nodes {
		ids = append(ids, n.ID)
	}
	return strings.Join(ids, " ")
}

// The nodes know one gossip address among them, and each other by that. One is
// stopped in order, and stays a member.
func TestNodesFindEachOtherByGossipAndOneThatStopsInOrderStaysAMember(t *testing.T) {
	known := freeAddr(t)
	var nodes []node
	for i := range 3 {
		addr := known
		if i > 0 {
			addr = freeAddr(t)
		}
		nodes = append(nodes, start(t, fmt.Sprint("n", i+1), t.TempDir(), addr, known))
	}
	for _, n := range nodes {
		eventually(t, "a cluster", func() string { return n.Status().Reason })
		if got := ids(n.Status().Nodes); got != "n1 n2 n3" {
			t.Errorf("members %s", got)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := nodes[0].Set(ctx, "key", []byte("value")); err != nil {
		t.Fatal(err)
	}
	nodes[2].stop(t)
	eventually(t, "the gossip to know that it left", func() string {
		peers, err := nodes[0].gossip.Find(ctx)
		if err != nil || len(peers) != 1 {
			return fmt.Sprint(peers, err)
		}
		return ""
	})
	if got, err := nodes[0].Nodes(ctx); err != nil || ids(got) != "n1 n2 n3" {
		t.Errorf("members %s, %v", ids(got), err)
	}
}

// A disk fails. The program goes on, or closes what has ended; the process itself does
// not fail.
func TestANodeWhoseStoreHasStoppedByItselfIsHealedAround(t *testing.T) {
	for name, end := range map[string]func(node){
		"the program goes on":     func(node) {},
		"the program closes both": func(n node) { n.stop(t) },
	} {
		t.Run(name, func(t *testing.T) {
			known, disk := freeAddr(t), kvrafttest.NewDisk()
			n1 := start(t, "n1", t.TempDir(), known, known)
			n2 := start(t, "n2", t.TempDir(), freeAddr(t), known)
			n3 := start(t, "n3", t.TempDir(), freeAddr(t), known, kvraft.WithLogStore(disk.Open()))
			for _, n := range []node{n1, n3} {
				eventually(t, "a cluster", func() string { return n.Status().Reason })
			}
			for _, n := range []node{n1, n2} { // else they would not know which member the process was
				eventually(t, "the gossip to know the others", func() string {
					peers, err := n.gossip.Find(t.Context())
					if err != nil || len(peers) != 2 {
						return fmt.Sprint(peers, err)
					}
					return ""
				})
			}
			disk.SetFault(func(kvrafttest.Operation) error { return errors.New("the disk is broken") })
			if _, err := n1.Set(t.Context(), "key", []byte("value")); err != nil {
				t.Fatal(err)
			}
			<-n3.Done()
			end(n3)
			eventually(t, "the others to heal", func() string {
				if got := ids(n1.Status().Nodes); got != "n1 n2" {
					return "the members are " + got
				}
				return ""
			})
		})
	}
}

// slandered is a store of which the gossip says that it has stopped.
type slandered struct{ *kvraft.Store }

func (slandered) Err() error { return errors.New("hearsay") }

// overheard is a store that passes on what becomes of removals.
type overheard struct {
	*kvraft.Store
	outcomes chan<- error
}

func (s overheard) Remove(ctx context.Context, id string, opts ...kvraft.RemoveOption) error {
	err := s.Store.Remove(ctx, id, opts...)
	s.outcomes <- err
	return err
}

func TestAMemberThatAnswersIsNotRemovedWhateverTheGossipSays(t *testing.T) {
	known, outcomes := freeAddr(t), make(chan error, 100)
	n1 := startApart(t, "n1", t.TempDir(), known, known)
	n2 := startApart(t, "n2", t.TempDir(), freeAddr(t), known)
	n3 := startApart(t, "n3", t.TempDir(), freeAddr(t), known)
	n1.gossip.Attach(overheard{n1.Store, outcomes})
	n2.gossip.Attach(overheard{n2.Store, outcomes})
	n3.gossip.Attach(slandered{n3.Store})
	for _, n := range []node{n1, n2, n3} {
		eventually(t, "a cluster", func() string { return n.Status().Reason })
	}
	if n3.Status().State == kvraft.Leading {
		if err := n3.TransferLeadership(t.Context(), "n1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-outcomes; !errors.Is(err, kvraft.ErrRefused) || !strings.Contains(err.Error(), "it answers") {
		t.Errorf("removed while it answers: %v", err)
	}
	if err := n3.Store.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the others to heal", func() string {
		if got := ids(n1.Status().Nodes); got != "n1 n2" {
			return "the members are " + got
		}
		return ""
	})
}

func TestWithoutAnybodyElseFindSaysSo(t *testing.T) {
	gossip, err := serf.Start(serf.Config{Addr: freeAddr(t), Join: []string{freeAddr(t)}})
	if err != nil {
		t.Fatal(err)
	}
	defer gossip.Close()
	eventually(t, "the reason", func() string {
		_, err := gossip.Find(t.Context())
		if err == nil || !strings.Contains(err.Error(), "no other node") || !strings.Contains(err.Error(), "connection refused") {
			return fmt.Sprint(err)
		}
		return ""
	})
}

func TestAWrongConfigurationIsReportedAllAtOnce(t *testing.T) {
	_, err := serf.Start(serf.Config{Addr: "nowhere", Join: []string{"127.0.0.1:1", "127.0.0.1"}, Advertise: "127.0.0.1:0", Key: make([]byte, 7)})
	for _, word := range []string{"Addr", "Join", "Advertise", "Key"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("it does not name %s: %v", word, err)
		}
	}
	busy, err := net.Listen("tcp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if _, err := serf.Start(serf.Config{Addr: busy.Addr().String()}); err == nil || !strings.Contains(err.Error(), busy.Addr().String()) {
		t.Errorf("an address in use: %v", err)
	}
}

// gossipOnly starts gossip without a store.
func gossipOnly(t *testing.T, addr string, known ...string) *serf.Gossip {
	t.Helper()
	gossip, err := serf.Start(serf.Config{Addr: addr, Join: known})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gossip.Close() })
	return gossip
}

// waitMet waits until each of them knows that all of them are alive.
func waitMet(t *testing.T, all ...*serf.Gossip) {
	t.Helper()
	for _, g := range all {
		eventually(t, "them to meet", func() string {
			if n := g.Alive(); n != len(all) {
				return fmt.Sprint(n, " are alive")
			}
			return ""
		})
	}
}

// The address that all know is that of a node which starts again: they meet anew.
func TestTheGossipReunitesAfterTheKnownNodeWasAway(t *testing.T) {
	known, other := freeAddr(t), freeAddr(t)
	first, second := gossipOnly(t, known, known), gossipOnly(t, other, known)
	waitMet(t, first, second)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	waitMet(t, gossipOnly(t, known, known), second)
}

// Two find each other while the other two are not there, and those each other by
// themselves.
func TestGossipThatHasBegunInTwoHalvesReunites(t *testing.T) {
	a, b, c, d := freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t)
	inC, inD := gossipOnly(t, c, a, b, c, d), gossipOnly(t, d, a, b, c, d)
	waitMet(t, inC, inD)
	waitMet(t, gossipOnly(t, a, b), gossipOnly(t, b, a), inC, inD)
}

// The addresses to join at accept and never answer, as processes do that hang.
func TestACloseWaitsForOneAttemptToJoinAtMost(t *testing.T) {
	const patience = 3 * time.Second // for one of them
	var addrs []string
	accepted := make(chan struct{}, 100)
	for range 10 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { conn.Close() })
				accepted <- struct{}{}
			}
		}()
		addrs = append(addrs, ln.Addr().String())
	}
	g, err := serf.Start(serf.Config{Addr: freeAddr(t), Join: addrs})
	if err != nil {
		t.Fatal(err)
	}
	<-accepted
	began := time.Now()
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*patience/2 { // all of them would be ten times that
		t.Errorf("it took %v", took)
	}
}

// The address behind the one that has a wrong name tells when both were tried.
func TestAWarningOfTheGossipIsLoggedOnceHoweverOftenItIsMet(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var out bytes.Buffer
	var mu sync.Mutex // guards out
	gossip, err := serf.Start(serf.Config{Addr: freeAddr(t), Join: []string{"not a name:1", "not one either:1", ln.Addr().String()},
		Logger: hclog.New(&hclog.LoggerOptions{Output: &out, Mutex: &mu})})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if err := gossip.Close(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, name := range []string{"not a name", "not one either"} {
		if n := strings.Count(out.String(), "Failed to resolve "+name); n != 1 {
			t.Errorf("%s was logged %d times:\n%s", name, n, &out)
		}
	}
}

func TestAWildcardIsNotWhatTheOthersAreTold(t *testing.T) {
	_, port, _ := net.SplitHostPort(freeAddr(t))
	for _, host := range []string{"", "0.0.0.0", "::"} {
		gossip, err := serf.Start(serf.Config{Addr: net.JoinHostPort(host, port)})
		if err != nil {
			if !strings.Contains(err.Error(), "name one, or set Advertise") {
				t.Errorf("on %q: %v", host, err)
			}
			continue // this host has none, or several
		}
		if ip := gossip.Advertised(); !ip.IsGlobalUnicast() {
			t.Errorf("on %q it tells %v", host, ip)
		}
		if err := gossip.Close(); err != nil {
			t.Error(err)
		}
	}
}
