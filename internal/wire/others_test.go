package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

// sharePort opens node b with a shared port, closed with the test.
func sharePort(t *testing.T, lan *memnet.Network, log hclog.Logger) *Port {
	t.Helper()
	listener, err := lan.Host("b").Listen("b:1")
	if err != nil {
		t.Fatal(err)
	}
	b := New(context.Background(), Config{Network: lan.Host("b"), Listener: listener, Advertise: "b:1", Log: log, Shared: true}, solo{nodeB})
	startServing(b, serveUntilEnd)
	t.Cleanup(b.Close)
	return b
}

// say opens a connection to b with these bytes.
func say(t *testing.T, lan *memnet.Network, opening string) net.Conn {
	t.Helper()
	conn := dialRaw(t, lan, "b:1")
	if _, err := conn.Write([]byte(opening)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// received is what has arrived so far.
func received(t *testing.T, conn net.Conn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Nanosecond)); err != nil { // virtual
		t.Fatal(err)
	}
	got, _ := io.ReadAll(conn)
	return string(got)
}

func acceptOther(t *testing.T, b *Port) net.Conn {
	t.Helper()
	conn, err := b.others.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func wantRead(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Errorf("read %q, %v, want %q", got, err, want)
	}
}

// otherOpenings are none of a handshake, of any version.
var otherOpenings = []string{
	"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"\x16\x03\x01\x02\x00\x01", // TLS
	"x",
	"\x00",
	"kvs are sold here",
	"kvraft\x01\x00",
}

func TestAConnectionThatIsNoPeersIsHandedOutComplete(t *testing.T) {
	for _, opening := range otherOpenings {
		synctest.Test(t, func(t *testing.T) {
			lan := newLAN()
			b := sharePort(t, lan, hclog.NewNullLogger())
			far := say(t, lan, opening)
			began := time.Now()
			near := acceptOther(t, b)
			if took := time.Since(began); took != 0 {
				t.Errorf("%q was handed out after %v, want at once", opening, took)
			}
			time.Sleep(time.Hour) // virtual: no deadline is left
			if _, err := far.Write([]byte(" and more")); err != nil {
				t.Fatal(err)
			}
			wantRead(t, near, opening+" and more")
			if _, err := near.Write([]byte("answer")); err != nil {
				t.Errorf("%q: answer: %v", opening, err)
			}
			wantRead(t, far, "answer")
			if n := b.Connections(); n != 0 {
				t.Errorf("%q: %d connections are still the store's", opening, n)
			}
		})
	}
}

func TestAnOpeningMayComeByteByByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		b := sharePort(t, lan, hclog.NewNullLogger())
		const opening = "kvraft!"
		far := dialRaw(t, lan, "b:1")
		go func() {
			for _, c := range []byte(opening) {
				time.Sleep(100 * time.Millisecond) // virtual
				if _, err := far.Write([]byte{c}); err != nil {
					t.Error(err)
				}
			}
		}()
		near := acceptOther(t, b)
		one := make([]byte, 1)
		for _, want := range []byte(opening) { // it is read so, too
			if n, err := near.Read(one); n != 1 || err != nil || one[0] != want {
				t.Fatalf("read %q, %v, want %q", one[:n], err, want)
			}
		}
	})
}

// What opens as a handshake does is a peer's, also when it is then none.
func TestAHandshakeIsNotHandedOutWhateverBecomesOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		b := sharePort(t, lan, hclog.NewNullLogger())
		go func() {
			if conn, err := b.others.Accept(); err == nil {
				t.Error("a peer's connection was handed out")
				conn.Close()
			}
		}()
		for name, c := range brokenHandshakes(t) {
			if bytes.HasPrefix(c.opening, magic[:len(magic)-1]) {
				conn := say(t, lan, string(c.opening))
				answer, _ := io.ReadAll(conn)
				if another := strings.HasPrefix(name, "version"); another != bytes.Contains(answer, []byte(c.says)) {
					t.Errorf("%s was answered %q", name, answer)
				}
			}
		}
		for _, prefix := range []string{"", "k", "kvraft", "kvraft\x00"} {
			endsAt(t, say(t, lan, prefix), HandshakeTimeout)
			ends := say(t, lan, prefix)
			closeWrite(ends)
			endsAt(t, ends, 0)
		}
		a := newTestPort(t, lan, "a:1", nodeA, nil)
		conn, who, err := a.Dial(t.Context(), "b:1", ForRPC, nodeB.Server)
		if err != nil || who.Node != nodeB.Server {
			t.Fatalf("a peer reached %+v, %v", who, err)
		}
		conn.Close()
	})
}

func TestOthersThatNobodyAcceptsHoldUpNobodyAndAreHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		lan := newLAN()
		b := sharePort(t, lan, hclog.New(&hclog.LoggerOptions{Output: &log}))
		waiting := make([]net.Conn, cap(b.others.places))
		for i := range waiting {
			waiting[i] = say(t, lan, "GET")
			synctest.Wait() // a host has so many connections that have said nothing yet, and no more
		}
		endsAt(t, say(t, lan, "GET"), 0) // one too many

		a := newTestPort(t, lan, "a:1", nodeA, nil)
		began := time.Now()
		conn, _, err := a.Dial(t.Context(), "b:1", ForRPC, nodeB.Server)
		if err != nil || time.Since(began) != 0 {
			t.Fatalf("a peer waited %v, %v", time.Since(began), err)
		}
		conn.Close()

		time.Sleep(longestWait - time.Millisecond) // virtual
		near := acceptOther(t, b)                  // one in time
		if _, err := near.Write([]byte("late")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Millisecond) // virtual
		synctest.Wait()
		served := 0
		for _, conn := range waiting {
			if received(t, conn) == "late" {
				served++
				continue
			}
			endsAt(t, conn, 0)
		}
		if served != 1 {
			t.Errorf("%d were served, want the one that was accepted", served)
		}
		wantRead(t, near, "GET")
		for _, reason := range []string{"too many others wait", "nobody accepts others"} {
			if !strings.Contains(log.String(), reason) {
				t.Errorf("it is not logged that %s", reason)
			}
		}
	})
}

func TestOthersAreRefusedAgainWhenTheirListenerIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		b := sharePort(t, lan, hclog.NewNullLogger())
		var accepting error
		far := say(t, lan, "GET")
		near := acceptOther(t, b)
		go func() { _, accepting = b.others.Accept() }()
		synctest.Wait()
		for range 2 {
			if err := b.others.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		synctest.Wait()
		if !errors.Is(accepting, net.ErrClosed) {
			t.Errorf("the Accept under way: %v", accepting)
		}
		endsAt(t, say(t, lan, "GET"), 0)
		if _, err := b.others.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the next Accept: %v", err)
		}
		wantRead(t, near, "GET")
		if _, err := near.Write([]byte("on")); err != nil {
			t.Errorf("what was accepted has ended: %v", err)
		}
		wantRead(t, far, "on")
		a := newTestPort(t, lan, "a:1", nodeA, nil)
		conn, _, err := a.Dial(t.Context(), "b:1", ForRPC, nodeB.Server)
		if err != nil {
			t.Fatalf("a peer: %v", err)
		}
		conn.Close()
	})
}

func TestWhatWaitsWhenTheListenerIsClosedIsHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		b := sharePort(t, lan, hclog.NewNullLogger())
		far := say(t, lan, "GET")
		synctest.Wait()
		b.others.Close()
		endsAt(t, far, 0)
		if _, err := b.others.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
	})
}

func TestWhatWasHandedOutOutlivesTheStoreAndNothingElseDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which waits for every goroutine
		var log bytes.Buffer
		lan := newLAN()
		b := sharePort(t, lan, hclog.New(&hclog.LoggerOptions{Output: &log}))
		far := say(t, lan, "GET")
		near := acceptOther(t, b)
		waiting := say(t, lan, "GET")
		synctest.Wait()
		b.Close()
		endsAt(t, waiting, 0)
		if _, err := b.others.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
		if _, err := far.Write([]byte(" /")); err != nil {
			t.Errorf("what was handed out has ended: %v", err)
		}
		wantRead(t, near, "GET /")
		if log.Len() > 0 {
			t.Errorf("a stop in order says\n%s", &log)
		}
	})
}
