package kvraft

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/ownaddr"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

// The handshake's two sides in most tests: a dialer and the node that it means.
var (
	nodeA = self{"c1", "a#1"}
	nodeB = self{"c1", "b#2"}
)

// serveNothing is a node that hangs up after the handshake.
func serveNothing(net.Conn, hello) {}

// serveUntilEnd keeps an RPC connection until it ends.
func serveUntilEnd(conn net.Conn, _ hello) { _, _ = io.Copy(io.Discard, conn) }

// newTestTransport gives me a transport on lan at addr, closed with the test.
// Without a serve it does not accept.
func newTestTransport(t *testing.T, lan *memnet.Network, addr string, me self, serve func(net.Conn, hello)) *transport {
	t.Helper()
	listener, err := hostOf(lan, addr).Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	tr := newTransport(&options{network: hostOf(lan, addr), advertise: addr, logger: hclog.NewNullLogger()}, listener, func() self { return me })
	if serve != nil {
		tr.start(serve)
	}
	t.Cleanup(tr.close)
	return tr
}

// newLAN is a network without latency. The node at x:1 is on the host x.
func newLAN() *memnet.Network {
	return memnet.New(memnet.WithLatency(0), memnet.WithWindow(1<<30))
}

func hostOf(lan *memnet.Network, addr string) *memnet.Host {
	host, _, _ := strings.Cut(addr, ":")
	return lan.Host(host)
}

// closeWrite ends what the other side reads.
func closeWrite(conn net.Conn) { _ = conn.(interface{ CloseWrite() error }).CloseWrite() }

// dialRaw connects to addr without a handshake.
func dialRaw(t *testing.T, lan *memnet.Network, addr string) net.Conn {
	t.Helper()
	conn, err := lan.Host("stranger").Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// shake is dialRaw with a handshake.
func shake(t *testing.T, lan *memnet.Network, addr string, h hello) net.Conn {
	t.Helper()
	conn := dialRaw(t, lan, addr)
	if err := writeHandshake(conn, h); err != nil {
		t.Fatal(err)
	}
	var w welcome
	if err := readHandshake(conn, &w); err != nil || w.Refused != "" {
		t.Fatalf("handshake: %v %s", err, w.Refused)
	}
	return conn
}

// endsAt reads from conn until it ends, and wants that after d.
func endsAt(t *testing.T, conn net.Conn, d time.Duration) {
	t.Helper()
	endsWithin(t, conn, d, d)
}

func endsWithin(t *testing.T, conn net.Conn, least, most time.Duration) {
	t.Helper()
	began := time.Now()
	if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v", err)
	}
	if took := time.Since(began); took < least || took > most {
		t.Errorf("the connection ended after %v, want %v", took, most)
	}
}

func (t *transport) tracked() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conns)
}

func TestADialThatIsNotAnsweredEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		lan.Isolate("b")
		a := newTestTransport(t, lan, "a:1", nodeA, nil)
		began := time.Now()
		_, err := raftStream{transport: a}.Dial(meant(nodeB.server, "b:1"), 3*time.Second)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("gave up after %v with %v, want 3s", time.Since(began), err)
		}
		time.AfterFunc(time.Second, a.cut)
		if _, err := (raftStream{transport: a}).Dial(meant(nodeB.server, "b:1"), time.Hour); err == nil || time.Since(began) != 4*time.Second {
			t.Errorf("%v after the first dial: %v, want the cut to end it after 4s", time.Since(began), err)
		}
	})
}

func TestRaftDialsTheNodeThatIsMeant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		at := self{"c1", "ops@site#2"} // an id may have an @ of its own
		b := newTestTransport(t, lan, "b:1", at, serveNothing)
		stream := raftStream{transport: newTestTransport(t, lan, "a:1", nodeA, nil)}

		accepted := make(chan net.Conn)
		go func() {
			conn, err := raftStream{transport: b}.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- conn
		}()
		out, err := stream.Dial(meant(at.server, "b:1"), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		in := <-accepted
		if _, err := out.Write([]byte("vote")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(in, got); err != nil || string(got) != "vote" {
			t.Errorf("raft's first bytes arrived as %q, %v", got, err)
		}
		in.Close()
		out.Close()
		if _, err := stream.Dial("b:1", time.Second); err == nil || !strings.Contains(err.Error(), "no node is named") {
			t.Errorf("a target without a node: %v", err)
		}
		if _, err := stream.Dial(meant(nodeB.server, "b:1"), time.Second); err == nil || !strings.Contains(err.Error(), "this is node ops@site#2") {
			t.Errorf("a target that is another node: %v", err)
		}
		if stream.Addr().String() != "a:1" {
			t.Errorf("raft's own address is %s", stream.Addr())
		}
	})
}

func TestTheCutEndsEveryConnectionAndCloseWaitsForTheirUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		b := newTestTransport(t, lan, "b:1", nodeB, serveUntilEnd)
		a := newTestTransport(t, lan, "a:1", nodeA, serveNothing)

		call := shake(t, lan, "b:1", hello{For: forRPC, Cluster: "c1", From: "a#1", To: "b#2"})
		waiting := shake(t, lan, "b:1", hello{For: forRaft, Cluster: "c1", From: "a#1", To: "b#2"}) // until raft takes it
		inRaft, err := raftStream{transport: b}.Accept()
		if err != nil {
			t.Fatal(err)
		}
		untaken := shake(t, lan, "b:1", hello{For: forRaft, Cluster: "c1", From: "a#1", To: "b#2"}) // raft never takes it
		stalled := dialRaw(t, lan, "b:1")
		outgoing, _, err := b.dial(t.Context(), "a:1", forRPC, "")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := b.tracked(); n != 5 {
			t.Fatalf("%d connections are tracked, want 5", n)
		}

		reading := make(chan error, 1)
		go func() {
			_, err := inRaft.Read(make([]byte, 1))
			reading <- err
		}()
		synctest.Wait()

		b.cut()
		if err := <-reading; err != io.EOF {
			t.Errorf("raft, which waited for a message, saw %v, want the end", err)
		}
		for name, conn := range map[string]net.Conn{"call": call, "in raft": waiting, "not taken": untaken, "stalled": stalled} {
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the other side of the connection %q saw %v", name, err)
			}
		}
		if _, err := outgoing.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a connection that this node dialed: %v", err)
		}
		if _, err := inRaft.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("raft's connection: %v", err)
		}
		stream := raftStream{b, make(chan struct{})}
		if err := stream.Close(); err != nil { // as raft does
			t.Error(err)
		}
		if conn, err := stream.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("raft accepted %v, %v after the cut", conn, err)
		}
		if _, err := lan.Host("a").Dial(t.Context(), "b:1"); err == nil {
			t.Error("the listener is open after the cut")
		}

		closed := make(chan struct{})
		go func() { b.close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("close did not wait for raft to let go of its connection")
		default:
		}
		inRaft.Close()
		<-closed // in a bubble, a goroutine that is left fails the test
		_ = a
	})
}

func TestNothingIsTrackedAfterTheCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		newTestTransport(t, lan, "b:1", nodeB, serveUntilEnd)
		a := newTestTransport(t, lan, "a:1", nodeA, nil)
		a.cut()
		a.cut() // a second one does nothing
		raw := dialRaw(t, lan, "b:1")
		if _, err := a.track(raw, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("track: %v, want net.ErrClosed", err)
		}
		if _, err := raw.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the connection that came too late is open: %v", err)
		}
		if _, _, err := a.dial(t.Context(), "b:1", forRPC, ""); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial: %v, want net.ErrClosed", err)
		}
		if a.tracked() != 0 {
			t.Errorf("%d connections are tracked", a.tracked())
		}
	})
}

func TestAConnectionIsTrackedUntilItsUserClosesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		newTestTransport(t, lan, "b:1", nodeB, serveUntilEnd)
		a := newTestTransport(t, lan, "a:1", nodeA, nil)
		conn, _, err := a.dial(t.Context(), "b:1", forRPC, nodeB.server)
		if err != nil {
			t.Fatal(err)
		}
		if a.tracked() != 1 {
			t.Errorf("%d connections are tracked, want 1", a.tracked())
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a second Close: %v, want net.ErrClosed", err)
		}
		if a.tracked() != 0 {
			t.Errorf("%d connections are tracked, want none", a.tracked())
		}
	})
}

// shakyListener fails its first Accepts.
type shakyListener struct {
	net.Listener
	errs []error
}

func (l *shakyListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	return l.Listener.Accept()
}

func TestAcceptingOutlivesAShortageOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		b := newTestTransport(t, lan, "b:1", nodeB, nil)
		b.listener = &shakyListener{b.listener, slices.Repeat([]error{syscall.EMFILE}, 10)}
		a := newTestTransport(t, lan, "a:1", nodeA, nil)
		began := time.Now()
		b.start(serveNothing)
		conn, _, err := a.dial(t.Context(), "b:1", forRPC, nodeB.server)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		// 5 ms, doubled up to a second: 5 + 10 + … + 640 ms, twice a second
		if took, want := time.Since(began), 1275*time.Millisecond+2*time.Second; took != want {
			t.Errorf("accepted after %v, want %v", took, want)
		}
	})
}

func TestAcceptingEndsWithTheCutWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestTransport(t, newLAN(), "b:1", nodeB, nil)
		b.listener = &shakyListener{b.listener, slices.Repeat([]error{syscall.EMFILE}, 1000)}
		b.start(serveNothing)
		time.Sleep(time.Minute) // virtual
		began := time.Now()
		b.close()
		if took := time.Since(began); took != 0 {
			t.Errorf("close took %v", took)
		}
	})
}

// slowDeadline takes a second to set a deadline.
type slowDeadline struct{ net.Conn }

func (c slowDeadline) SetDeadline(d time.Time) error {
	if !d.IsZero() {
		time.Sleep(time.Second) // virtual
	}
	return c.Conn.SetDeadline(d)
}

func TestAContextInterruptsWhatBlocksOnAConnection(t *testing.T) {
	enough := errors.New("enough")
	read := func(conn net.Conn) error {
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	wantUsable := func(t *testing.T, what string, near, far net.Conn) {
		t.Helper()
		time.AfterFunc(time.Hour, func() { _, _ = far.Write([]byte{1}) })
		if err := read(near); err != nil {
			t.Errorf("%s, the connection is of no use: %v", what, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		near, far := memnet.Pipe()
		ctx, cancel := context.WithCancelCause(t.Context())

		release := interruptible(ctx, near)
		time.AfterFunc(time.Second, func() { _, _ = far.Write([]byte{1}) })
		if err := release(read(near)); err != nil {
			t.Errorf("nothing ended, and: %v", err)
		}
		wantUsable(t, "after a release", near, far)

		release = interruptible(ctx, near)
		began := time.Now()
		time.AfterFunc(time.Second, func() { cancel(enough) })
		err := release(read(near))
		if !errors.Is(err, enough) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v, want the context's cause after 1s", time.Since(began), err)
		}

		near, far = memnet.Pipe()
		release = interruptible(ctx, near) // it has ended already
		if err := release(read(near)); !errors.Is(err, enough) {
			t.Errorf("with an ended context: %v, want its cause", err)
		}

		near, far = memnet.Pipe()
		release = interruptible(ctx, near)
		synctest.Wait()
		if err := release(nil); err != nil {
			t.Errorf("the context ended too late to matter, and: %v", err)
		}
		wantUsable(t, "when the context ended too late", near, far)

		near, far = memnet.Pipe()
		release = interruptible(ctx, slowDeadline{near})
		synctest.Wait()
		if err := release(nil); err != nil {
			t.Errorf("the interruption was under way, and: %v", err)
		}
		wantUsable(t, "when the interruption was under way", near, far)

		ctx, cancel = context.WithCancelCause(t.Context())
		near, far = memnet.Pipe()
		broken := errors.New("broken")
		if err := interruptible(ctx, near)(broken); err != broken {
			t.Errorf("the connection's own error became %v", err)
		}
		cancel(enough)
		synctest.Wait()
		wantUsable(t, "when the context ends after the release", near, far)
	})
}

func TestARaftMessageThatStallsInItsMiddleEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw, far := memnet.Pipe()
		conn := &messageConn{Conn: raw}
		buf := make([]byte, 16)
		send := func(after time.Duration) {
			time.AfterFunc(after, func() { _, _ = far.Write([]byte("x")) })
			if _, err := conn.Read(buf); err != nil {
				t.Fatalf("a byte that came after %v: %v", after, err)
			}
		}
		send(idleLimit - time.Millisecond) // the first message may be long in coming
		send(messageTimeout - time.Second) // slow, and not stalled
		if _, err := conn.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		send(idleLimit - time.Millisecond) // so may the next
		began := time.Now()
		if _, err := conn.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != messageTimeout {
			t.Errorf("after %v: %v, want a timeout after %v", time.Since(began), err, messageTimeout)
		}
	})
}

func TestARaftMessageThatDripsEndsTheConnection(t *testing.T) {
	for name, c := range map[string]struct {
		bytes int           // in a piece
		every time.Duration // one comes
		after time.Duration // the connection ends; 0: it does not
	}{
		"a byte now and then":            {1, 5 * time.Second, messageTimeout},
		"a byte often":                   {1, time.Millisecond, 10600 * time.Millisecond},
		"less than the least rate":       {leastRate / 4, time.Second / 2, 2 * messageTimeout},
		"a little more":                  {leastRate/2 + 1, time.Second / 2, 0},
		"much, with a reader that rests": {leastRate, time.Second / 4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				raw, far := memnet.Pipe()
				conn := &messageConn{Conn: raw}
				var sending sync.WaitGroup
				sending.Go(func() {
					for {
						if _, err := far.Write(make([]byte, c.bytes)); err != nil {
							return
						}
						time.Sleep(c.every)
					}
				})
				defer func() { raw.Close(); far.Close(); sending.Wait() }()
				began := time.Now()
				var err error
				for buf := make([]byte, 64<<10); err == nil && time.Since(began) < 10*time.Minute; {
					_, err = conn.Read(buf)
					if c.bytes == leastRate {
						time.Sleep(2 * time.Second)
					}
				}
				took := time.Since(began)
				if c.after == 0 {
					if err != nil {
						t.Errorf("after %v: %v", took, err)
					}
					return
				}
				if !errors.Is(err, os.ErrDeadlineExceeded) || took < c.after-time.Second || took > c.after+time.Second {
					t.Errorf("after %v: %v, want a timeout after %v", took, err, c.after)
				}
			})
		})
	}
}

// blockedConn writes nothing before its deadline.
type blockedConn struct {
	net.Conn
	limit time.Time
}

func (c *blockedConn) SetWriteDeadline(limit time.Time) error { c.limit = limit; return nil }
func (c *blockedConn) Write([]byte) (int, error) {
	time.Sleep(time.Until(c.limit)) // virtual
	return 0, os.ErrDeadlineExceeded
}

func TestARaftAnswerThatNobodyTakesEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &messageConn{Conn: new(blockedConn)}
		began := time.Now()
		_, err := conn.Write([]byte("answer"))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != messageTimeout {
			t.Errorf("after %v: %v, want a timeout after %v", time.Since(began), err, messageTimeout)
		}
	})
}

// A heartbeat on raft's fast path changes the term beside its main goroutine
// (hashicorp/raft issue 695).
func TestHeartbeatsTakeRaftsMainPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		log := hclog.NewNullLogger()
		ta := newTestTransport(t, lan, "a:1", nodeA, serveNothing)
		tb := newTestTransport(t, lan, "b:1", nodeB, serveNothing)
		a, b := newRaftTransport(ta, time.Second, log, openSieve), newRaftTransport(tb, time.Second, log, openSieve)
		defer func() {
			for _, r := range []raftTransport{a, b} {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
			ta.close()
			tb.close()
		}()
		var transport raft.Transport = b
		transport.SetHeartbeatHandler(func(raft.RPC) { t.Error("a heartbeat took the fast path") })
		if _, ok := transport.(raft.WithPreVote); !ok {
			t.Error("the transport has lost pre-vote")
		}

		header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("a#1"), Addr: []byte("a:1")}
		go func() {
			rpc := <-b.Consumer()
			rpc.Respond(&raft.AppendEntriesResponse{Term: 7, Success: true}, nil)
		}()
		var resp raft.AppendEntriesResponse
		heartbeat := &raft.AppendEntriesRequest{RPCHeader: header, Term: 7}
		if err := a.AppendEntries("b#2", "b:1", heartbeat, &resp); err != nil || resp.Term != 7 {
			t.Errorf("heartbeat: %+v, %v", resp, err)
		}
	})
}

func TestEveryRaftMessageNamesTheNodeThatIsMeant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		ta := newTestTransport(t, lan, "a:1", nodeA, serveNothing)
		tb := newTestTransport(t, lan, "b:1", nodeB, serveNothing)
		a := newRaftTransport(ta, time.Second, hclog.NewNullLogger(), openSieve)
		b := newRaftTransport(tb, time.Second, hclog.NewNullLogger(), openSieve)
		defer func() {
			if err := errors.Join(a.Close(), b.Close()); err != nil {
				t.Error(err)
			}
			ta.close()
			tb.close()
		}()
		// b came back at its address with another identity
		const id, addr = "b#1", "b:1"
		for name, err := range map[string]error{
			"AppendEntries":   a.AppendEntries(id, addr, new(raft.AppendEntriesRequest), new(raft.AppendEntriesResponse)),
			"RequestVote":     a.RequestVote(id, addr, new(raft.RequestVoteRequest), new(raft.RequestVoteResponse)),
			"RequestPreVote":  a.RequestPreVote(id, addr, new(raft.RequestPreVoteRequest), new(raft.RequestPreVoteResponse)),
			"TimeoutNow":      a.TimeoutNow(id, addr, new(raft.TimeoutNowRequest), new(raft.TimeoutNowResponse)),
			"InstallSnapshot": a.InstallSnapshot(id, addr, new(raft.InstallSnapshotRequest), new(raft.InstallSnapshotResponse), strings.NewReader("")),
		} {
			if err == nil || !strings.Contains(err.Error(), "this is node b#2, not b#1") {
				t.Errorf("%s: %v, want a refusal by the node that is there", name, err)
			}
		}
	})
}

func TestTheDefaultNetworkIsTCP(t *testing.T) {
	listener, err := tcp{}.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	b := newTransport(&options{network: tcp{}, advertise: addr, logger: hclog.NewNullLogger()}, listener, func() self { return nodeB })
	b.start(serveUntilEnd)
	a := newTransport(&options{network: tcp{}, logger: hclog.NewNullLogger()}, listener, func() self { return nodeA })
	conn, who, err := a.dial(t.Context(), addr, forRPC, nodeB.server)
	if err != nil || who.Node != nodeB.server {
		t.Fatalf("reached %+v, %v", who, err)
	}
	b.close() // not before the connection's other side has ended
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlived the node it leads to")
	}
	conn.Close()
	if _, _, err := a.dial(t.Context(), addr, forRPC, nodeB.server); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a node that is gone: %v, want a refused connection", err)
	}
}

// listensAt is a listener that says so.
type listensAt struct {
	net.Listener
	addr peerAddr
}

func (l listensAt) Addr() net.Addr { return l.addr }

func TestANodeAdvertisesTheNameItWasToldButNoWildcard(t *testing.T) {
	this := ownaddr.Host{ // it reaches 10.x from 10.0.0.5, and has no default route
		Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.0.6")},
		Source: func(to netip.Addr) netip.Addr {
			if netip.MustParsePrefix("10.0.0.0/8").Contains(to) {
				return netip.MustParseAddr("10.0.0.5")
			}
			return netip.Addr{}
		},
	}
	for _, c := range []struct {
		told, listens string
		join          []string
		want          string // empty: it is refused
	}{
		{"127.0.0.1:7000", "127.0.0.1:7000", nil, "127.0.0.1:7000"},
		{"10.1.2.3:0", "10.1.2.3:41234", nil, "10.1.2.3:41234"},
		{"[2001:db8::1]:7000", "[2001:db8::1]:7000", nil, "[2001:db8::1]:7000"},
		{"node-7.local:7000", "10.1.2.3:7000", nil, "node-7.local:7000"},
		{"/run/kvraft.sock", "/run/kvraft.sock", nil, "/run/kvraft.sock"},
		{":0", "[::]:7000", []string{"10.0.0.1:7000"}, "10.0.0.5:7000"},
		{"0.0.0.0:7000", "[::]:7000", []string{"dns://members:7000"}, "10.0.0.5:7000"},
		{"[::]:7000", "[::]:7000", []string{"[fd00::1]:7000"}, ""},
		{":7000", "[::]:7000", nil, ""},
	} {
		o := options{addr: c.told, listener: listensAt{addr: peerAddr(c.listens)}, join: c.join, network: named{}}
		switch got, err := o.advertised(this); {
		case got != c.want:
			t.Errorf("told %s, listening on %s, a node advertises %s, %v, want %s", c.told, c.listens, got, err, c.want)
		case c.want == "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "10.0.0.5 10.0.0.6; name one, or use WithAdvertise")):
			t.Errorf("told %s: %v", c.told, err)
		}
	}
}

// named is a network on which members has an address.
type named struct{ tcp }

func (named) LookupHost(context.Context, string) ([]string, error) { return []string{"10.0.0.1"}, nil }

func TestANodeThatNeedsSnapshotsAgainAndAgainIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		i := newInstalls(hclog.New(&hclog.LoggerOptions{Output: &log}))
		reports := func() int { return strings.Count(log.String(), "again and again") }
		for range 5 {
			i.count("a#1")
			i.count("b#2")
			time.Sleep(6 * time.Minute) // two within ten minutes: it may happen
		}
		if n := reports(); n != 0 {
			t.Errorf("%d reports of what may happen", n)
		}
		for range 3 {
			i.count("a#1")
		}
		if n := reports(); n != 1 || !strings.Contains(log.String(), "a#1") {
			t.Errorf("%d reports, want one:\n%s", n, &log)
		}
	})
}
