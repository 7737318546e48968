package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

// The handshake's two sides in most tests: a dialer and the node that it means.
var (
	nodeA = Self{"c1", "a#1"}
	nodeB = Self{"c1", "b#2"}
)

// serveNothing is a node that hangs up after the handshake.
func serveNothing(net.Conn, Hello) {}

// serveUntilEnd keeps an RPC connection until it ends.
func serveUntilEnd(conn net.Conn, _ Hello) { _, _ = io.Copy(io.Discard, conn) }

// newTestTransport gives me a port on lan at addr, closed with the test.
// Without a serve it does not accept.
func newTestPort(t *testing.T, lan *memnet.Network, addr string, me Self, serve func(net.Conn, Hello)) *Port {
	t.Helper()
	host := hostOf(lan, addr)
	listener, err := host.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	p := New(context.Background(), Config{Network: host, Listener: listener, Advertise: addr, Log: hclog.NewNullLogger()}, solo{me})
	if serve != nil {
		startServing(p, serve)
	}
	t.Cleanup(p.Close)
	return p
}

// startServing begins to accept, with one use for all connections.
func startServing(p *Port, serve func(net.Conn, Hello)) {
	for _, purpose := range []string{ForRaft, ForRPC, ForMonitor} {
		p.HandleConn(purpose, serve)
	}
	p.Start()
}

// solo is a node that has its place, and knows no other.
type solo struct{ me Self }

func (n solo) Self() Self                                  { return n.me }
func (solo) Leads() bool                                   { return false }
func (solo) IsPlaced() bool                                { return true }
func (solo) HasJoined() bool                               { return false }
func (solo) ConfiguredAt() string                          { return "" }
func (solo) AddressOf(_ raft.ServerID, addr string) string { return roster.DialAddr(addr) }
func (solo) TurnAway(Opening) (why, elsewhere string)      { return "", "" }
func (solo) LosePlace(string)                              {}
func (solo) Vouch(dialer Opening) error                    { return fmt.Errorf("node %s is not known", dialer.From) }
func (solo) Samples() []roster.Sample                      { return nil }

// newLAN is a network without latency. The node at x:1 is on the host x.
func newLAN() *memnet.Network {
	return memnet.New(memnet.WithLatency(0), memnet.WithWindow(1<<30))
}

func hostOf(lan *memnet.Network, addr string) *memnet.Host {
	host, _, _ := strings.Cut(addr, ":")
	return lan.Host(host)
}

// closeWrite ends what the other side reads.
func closeWrite(conn net.Conn) {
	_ = conn.(interface{ CloseWrite() error }).CloseWrite()
}

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
func shake(t *testing.T, lan *memnet.Network, addr string, h Hello) net.Conn {
	t.Helper()
	conn := dialRaw(t, lan, addr)
	if err := writeHandshake(conn, h); err != nil {
		t.Fatal(err)
	}
	var w Welcome
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

func TestTheCutEndsEveryConnectionAndCloseWaitsForTheirUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		letGo := make(chan struct{})
		b := newTestPort(t, lan, "b:1", nodeB, func(conn net.Conn, h Hello) {
			serveUntilEnd(conn, h)
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("one that was accepted: %v", err)
			}
			<-letGo
		})
		newTestPort(t, lan, "a:1", nodeA, serveNothing)

		accepted := shake(t, lan, "b:1", Hello{For: ForRPC, Cluster: "c1", From: "a#1", To: "b#2"})
		stalled := dialRaw(t, lan, "b:1")
		outgoing, _, err := b.Dial(t.Context(), "a:1", ForRPC, "")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := b.Connections(); n != 3 {
			t.Fatalf("%d connections are tracked, want 3", n)
		}

		b.Cut()
		for name, conn := range map[string]net.Conn{"accepted": accepted, "stalled": stalled} {
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the other side of the connection %q saw %v", name, err)
			}
		}
		if _, err := outgoing.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a connection that this node dialed: %v", err)
		}
		if _, err := lan.Host("a").Dial(t.Context(), "b:1"); err == nil {
			t.Error("the listener is open after the cut")
		}

		closed := make(chan struct{})
		go func() { b.Close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("close did not wait for who uses a connection")
		default:
		}
		close(letGo)
		<-closed // in a bubble, a goroutine that is left fails the test
	})
}

func TestAPortIsCutWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener, err := newLAN().Host("b").Listen("b:1")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		b := New(ctx, Config{Listener: listener, Log: hclog.NewNullLogger()}, solo{nodeB})
		b.Start()
		cancel()
		b.running.Wait()
		if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("it accepts: %v", err)
		}
		b.Close()
	})
}

func TestNothingIsTrackedAfterTheCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		newTestPort(t, lan, "b:1", nodeB, serveUntilEnd)
		a := newTestPort(t, lan, "a:1", nodeA, nil)
		a.Cut()
		a.Cut() // a second one does nothing
		raw := dialRaw(t, lan, "b:1")
		if _, err := a.track(raw, func() {}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("track: %v, want net.ErrClosed", err)
		}
		if _, err := raw.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the connection that came too late is open: %v", err)
		}
		if _, _, err := a.Dial(t.Context(), "b:1", ForRPC, ""); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial: %v, want net.ErrClosed", err)
		}
		if a.Connections() != 0 {
			t.Errorf("%d connections are tracked", a.Connections())
		}
	})
}

func TestAConnectionIsTrackedUntilItsUserClosesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		newTestPort(t, lan, "b:1", nodeB, serveUntilEnd)
		a := newTestPort(t, lan, "a:1", nodeA, nil)
		conn, _, err := a.Dial(t.Context(), "b:1", ForRPC, nodeB.Server)
		if err != nil {
			t.Fatal(err)
		}
		if a.Connections() != 1 {
			t.Errorf("%d connections are tracked, want 1", a.Connections())
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a second Close: %v, want net.ErrClosed", err)
		}
		if a.Connections() != 0 {
			t.Errorf("%d connections are tracked, want none", a.Connections())
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
		b := newTestPort(t, lan, "b:1", nodeB, nil)
		b.config.Listener = &shakyListener{b.config.Listener, slices.Repeat([]error{syscall.EMFILE}, 10)}
		a := newTestPort(t, lan, "a:1", nodeA, nil)
		began := time.Now()
		startServing(b, serveNothing)
		conn, _, err := a.Dial(t.Context(), "b:1", ForRPC, nodeB.Server)
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
		b := newTestPort(t, newLAN(), "b:1", nodeB, nil)
		b.config.Listener = &shakyListener{b.config.Listener, slices.Repeat([]error{syscall.EMFILE}, 1000)}
		startServing(b, serveNothing)
		time.Sleep(time.Minute) // virtual
		began := time.Now()
		b.Close()
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
