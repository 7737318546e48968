package wire

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft/internal/peertls"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

const theSecret = "0123456789abcdef0123456789abcdef"

// Names that do not come about by chance where bytes are random.
var (
	memberA = Self{"the-cluster-of-both", "member-a#1"}
	memberB = Self{"the-cluster-of-both", "member-b#2"}
)

// protectedBy is for a port whose nodes have these secrets.
func protectedBy(t testing.TB, secrets ...string) *Security {
	t.Helper()
	config, err := peertls.FromSecrets(secrets)
	if err != nil {
		t.Fatal(err)
	}
	return &Security{TLS: config}
}

// fragments is a log whose lines are kept.
type fragments struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (f *fragments) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.Write(b)
}

func (f *fragments) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.String()
}

// tap keeps what a host sends and receives on the connections that it makes.
type tap struct {
	*memnet.Host
	sent, received fragments
}

func (n *tap) Dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := n.Host.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return tappedConn{conn, n}, nil
}

type tappedConn struct {
	net.Conn
	tap *tap
}

func (c tappedConn) Write(b []byte) (int, error) {
	_, _ = c.tap.sent.Write(b)
	return c.Conn.Write(b)
}

func (c tappedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	_, _ = c.tap.received.Write(b[:n])
	return n, err
}

// protectedPort is a port of me at addr, which counts whom it serves.
type protectedPort struct {
	*Port
	tap    *tap
	log    fragments
	told   fragments // a stranger, behind the encryption
	served atomic.Int32
}

func newProtectedPort(t *testing.T, lan *memnet.Network, addr string, me Self, security *Security) *protectedPort {
	t.Helper()
	host := hostOf(lan, addr)
	listener, err := host.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &protectedPort{tap: &tap{Host: host}}
	p.Port = New(context.Background(), Config{
		Network: p.tap, Listener: listener, Advertise: addr, Security: security,
		Log: hclog.New(&hclog.LoggerOptions{Output: &p.log, Level: hclog.Debug}),
	}, solo{me})
	startServing(p.Port, func(conn net.Conn, _ Hello) {
		p.served.Add(1)
		_, _ = io.Copy(conn, conn)
	})
	t.Cleanup(p.Close)
	return p
}

// wantEcho uses a connection to b.
func wantEcho(t *testing.T, a, b *protectedPort) {
	t.Helper()
	conn, who, err := a.Dial(t.Context(), b.Addr(), ForRaft, b.node.Self().Server)
	if err != nil {
		t.Fatalf("%s dials %s: %v", a.Addr(), b.Addr(), err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("a value of somebody's")); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len("a value of somebody's"))
	if _, err := io.ReadFull(conn, back); err != nil || string(back) != "a value of somebody's" {
		t.Fatalf("%q came back, %v", back, err)
	}
	if who.Node != b.node.Self().Server {
		t.Errorf("%s is there", who.Node)
	}
}

func TestNothingOfAProtectedConnectionIsReadOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		a := newProtectedPort(t, lan, "a:1", memberA, protectedBy(t, theSecret))
		b := newProtectedPort(t, lan, "b:1", memberB, protectedBy(t, theSecret))
		wantEcho(t, a, b)
		wantEcho(t, b, a)
		for _, text := range []string{"somebody", "member-a", "member-b", "the-cluster", theSecret} {
			if strings.Contains(a.tap.sent.String()+a.tap.received.String(), text) {
				t.Errorf("%q is there to be read", text)
			}
		}
		if sent := a.tap.sent.String(); !strings.HasPrefix(sent, string(protectedMagic[:])) || len(sent) < 300 {
			t.Errorf("the tap has seen %d bytes: the test shows nothing", len(sent))
		}
	})
}

// strangerTo is TLS of somebody who has no secret.
func strangerTo(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	raw, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"kvraft/1"}, Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}}
}

// Nobody gets as far as a handshake who does not prove the secret, and nobody is told
// who is there.
func TestWhoDoesNotProveTheSecretIsRefusedBeforeTheHandshake(t *testing.T) {
	hello := handshakeBytes(t, Opening{Hello: Hello{For: ForRaft, Cluster: memberA.Cluster, From: memberA.Server, To: memberB.Server}})
	overTLS := func(config *tls.Config) func(net.Conn, *protectedPort) error {
		return func(conn net.Conn, b *protectedPort) error {
			client := tls.Client(&handshakeConn{Conn: conn, first: protectedMagic[:], over: true}, config)
			if err := client.Handshake(); err != nil {
				return err
			}
			if _, err := client.Write(hello); err != nil {
				return err
			}
			_, err := io.Copy(&b.told, client)
			return err
		}
	}
	sends := func(b []byte) func(net.Conn, *protectedPort) error {
		return func(conn net.Conn, _ *protectedPort) error {
			_, err := conn.Write(b)
			return err
		}
	}
	without := func(change func(*tls.Config)) *tls.Config {
		config := strangerTo(t)
		change(config)
		return config
	}
	right := protectedBy(t, theSecret).TLS
	oneBit := []byte(theSecret)
	oneBit[len(oneBit)-1] ^= 1
	const noWarning = ""
	for name, c := range map[string]struct {
		attack func(net.Conn, *protectedPort) error
		logs   string
	}{
		"a plain handshake":                             {sends(hello), errUnprotected.Error()},
		"a plain handshake, behind the protected magic": {sends(append(bytes.Clone(protectedMagic[:]), hello...)), "first record does not look like a TLS handshake"},
		"garbage":                          {sends(append(bytes.Clone(protectedMagic[:]), bytes.Repeat([]byte{0xff}, 1<<10)...)), "first record does not look like a TLS handshake"},
		"half a hello of TLS":              {sends(append(bytes.Clone(protectedMagic[:]), 22, 3, 1, 2, 0, 1)), noWarning},
		"another version":                  {sends([]byte("kvraft\x00\x02\x00\x00")), errUnprotected.Error()},
		"no certificate":                   {overTLS(without(func(c *tls.Config) { c.Certificates = nil })), "client didn't provide a certificate"},
		"a certificate of somebody's":      {overTLS(strangerTo(t)), peertls.ErrSecret.Error()},
		"a secret that differs in one bit": {overTLS(protectedBy(t, string(oneBit)).TLS), errProof.Error()},
		"the same, who takes every server": {overTLS(func() *tls.Config {
			config := protectedBy(t, string(oneBit)).TLS.Clone()
			config.VerifyConnection = nil
			return config
		}()), peertls.ErrSecret.Error()},
		"an older TLS": {overTLS(without(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })), "tls: client offered only unsupported versions"},
		"another use of TLS": {overTLS(func() *tls.Config {
			config := right.Clone()
			config.NextProtos = []string{"h2"}
			return config
		}()), "tls: client requested unsupported application protocols"},
		"no use of TLS that is named": {overTLS(func() *tls.Config {
			config := right.Clone()
			config.NextProtos, config.VerifyConnection = nil, nil
			return config
		}()), "the other side speaks another protocol"},
		"more than a handshake needs": {sends(append(bytes.Clone(protectedMagic[:]), bytes.Repeat(append([]byte{22, 3, 1, 64, 0}, append([]byte{1, 0, 255, 255}, make([]byte, 16380)...)...), 4)...)), "too much is said"},
		"what a member has sent": {func(conn net.Conn, b *protectedPort) error {
			_, err := io.WriteString(conn, b.tap.sent.String())
			return err
		}, noWarning},
	} {
		synctest.Test(t, func(t *testing.T) {
			lan := newLAN()
			a := newProtectedPort(t, lan, "a:1", memberA, protectedBy(t, theSecret))
			b := newProtectedPort(t, lan, "b:1", memberB, protectedBy(t, theSecret))
			wantEcho(t, a, b)
			b.tap.sent.text.Write(a.tap.sent.text.Bytes())
			raw := dialRaw(t, lan, "b:1")
			heard := &tap{}
			err := c.attack(tappedConn{raw, heard}, b)
			if err == nil {
				closeWrite(raw)
				_, _ = io.Copy(io.Discard, tappedConn{raw, heard})
			}
			synctest.Wait()
			if n := b.served.Load(); n != 1 {
				t.Errorf("%s: %d connections were served", name, n)
			}
			if told := heard.received.String() + b.told.String(); strings.Contains(told, "member-b") || strings.Contains(told, "the-cluster") {
				t.Errorf("%s was told %q", name, told)
			}
			if log := b.log.String(); c.logs != noWarning && (!strings.Contains(log, c.logs) || !strings.Contains(log, "[WARN]")) {
				t.Errorf("%s: %q is logged, want %q", name, log, c.logs)
			}
			wantEcho(t, a, b)
		})
	}
}

func TestAProtectedDialerTalksToNobodyWhoDoesNotProveTheSecret(t *testing.T) {
	for _, c := range []struct {
		there *Security
		want  string
	}{
		{nil, errPlainPeer.Error()},
		{protectedBy(t, strings.ToUpper(theSecret)), peertls.ErrSecret.Error()},
		{&Security{TLS: strangerTo(t)}, peertls.ErrSecret.Error()},
	} {
		synctest.Test(t, func(t *testing.T) {
			lan := newLAN()
			a := newProtectedPort(t, lan, "a:1", memberA, protectedBy(t, theSecret))
			b := newProtectedPort(t, lan, "b:1", memberB, c.there)
			_, _, err := a.Dial(t.Context(), "b:1", ForRaft, memberB.Server)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the dialer says %v, want %q", err, c.want)
			}
			synctest.Wait()
			if told := strings.Contains(a.tap.sent.String(), "the-cluster"); b.served.Load() != 0 || told {
				t.Errorf("%d were served, the other was told the cluster: %v", b.served.Load(), told)
			}
			if a.Connections()+b.Connections() != 0 {
				t.Errorf("%d and %d connections are left", a.Connections(), b.Connections())
			}
		})
	}
}

// What is there tells, and is not taken for a node without protection: as one that can have
// no more connections, or a server of something else.
func TestAProtectedDialerLearnsWhyItIsRefusedInPlain(t *testing.T) {
	for _, c := range []struct {
		answer []byte
		is     error
		want   string
	}{
		{handshakeBytes(t, Welcome{Refused: "too many connections"}), nil, "too many connections"},
		{[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), ErrNoPeer, "the address of its peer port is wanted"},
		{[]byte("SSH-2.0-something\r\n"), ErrNoPeer, "not a kvraft peer"},
	} {
		synctest.Test(t, func(t *testing.T) {
			lan := newLAN()
			security := protectedBy(t, theSecret)
			security.PlainToo = true
			a := newProtectedPort(t, lan, "a:1", memberA, security)
			listener, err := hostOf(lan, "b:1").Listen("b:1")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			dialed := 0
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					dialed++
					_, _ = conn.Write(c.answer)
					closeWrite(conn)
				}
			}()
			_, _, err = a.Dial(t.Context(), "b:1", ForRaft, memberB.Server)
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) || dialed != 1 {
				t.Errorf("%q: %v, dialed %d times", c.answer, err, dialed)
			}
		})
	}
}

// The other way round: the one that is not protected is told what is missing.
func TestAnUnprotectedDialerIsToldThatTheClusterIsProtected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		a := newProtectedPort(t, lan, "a:1", memberA, nil)
		newProtectedPort(t, lan, "b:1", memberB, protectedBy(t, theSecret))
		_, who, err := a.Dial(t.Context(), "b:1", ForRaft, memberB.Server)
		if err == nil || !strings.Contains(err.Error(), errUnprotected.Error()) || who.Node != "" || who.Cluster != "" {
			t.Errorf("%+v, %v", who, err)
		}
	})
}

// What begins like an answer in plain, and does not go on.
func TestAProtectedDialerDoesNotWaitForTheEndOfAnAnswerInPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		a := newProtectedPort(t, lan, "a:1", memberA, protectedBy(t, theSecret))
		listener, err := hostOf(lan, "b:1").Listen("b:1")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			conn, err := listener.Accept()
			if err == nil {
				_, _ = conn.Write(magic[:])
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn)
			}
		}()
		began := time.Now()
		_, _, err = a.Dial(t.Context(), "b:1", ForRaft, memberB.Server)
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != HandshakeTimeout {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// It is the same for all versions that are protected like this.
func TestAProtectedConnectionOpensAsItEverDid(t *testing.T) {
	if string(protectedMagic[:]) != "kvraft\x00\x81" {
		t.Errorf("it opens with %q", protectedMagic)
	}
}

func TestASecretIsChangedByNodesThatAcceptBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		const next = "fedcba9876543210fedcba9876543210"
		var all []*protectedPort
		for i, secrets := range [][]string{{theSecret}, {theSecret, next}, {next, theSecret}, {next}} {
			me := memberA
			if i%2 == 1 {
				me = memberB
			}
			all = append(all, newProtectedPort(t, lan, string(rune('a'+i))+":1", me, protectedBy(t, secrets...)))
		}
		for i, p := range all {
			for k, other := range all {
				_, _, err := p.Dial(t.Context(), other.Addr(), ForRaft, other.node.Self().Server)
				if together := max(i-k, k-i) < 2; (err == nil) != together { // those of one step and the next
					t.Errorf("%d dials %d: %v", i, k, err)
				}
			}
		}
	})
}

// A cluster is moved over by nodes that take both kinds of connections.
func TestPlainNodesAreReachedWhileAClusterIsMovedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		both := protectedBy(t, theSecret)
		both.PlainToo = true
		plain := newProtectedPort(t, lan, "a:1", memberA, nil)
		moving := newProtectedPort(t, lan, "b:1", memberB, both)
		alike := newProtectedPort(t, lan, "c:1", memberA, both)
		protected := newProtectedPort(t, lan, "d:1", memberA, protectedBy(t, theSecret))
		for _, other := range []*protectedPort{plain, alike, protected} {
			wantEcho(t, moving, other)
			wantEcho(t, other, moving)
		}
		if moving.tap.sent.String() == "" || strings.Contains(alike.tap.sent.String(), "somebody") {
			t.Error("two that are moving have no protection")
		}
		if _, _, err := plain.Dial(t.Context(), "d:1", ForRaft, memberA.Server); err == nil {
			t.Error("one that requires protection took a plain connection")
		}
	})
}

// It has the time of a handshake for all that it says before it is known.
func TestWhoSaysNothingBehindTheProtectedMagicIsHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		newProtectedPort(t, lan, "b:1", memberB, protectedBy(t, theSecret))
		conn := dialRaw(t, lan, "b:1")
		if _, err := conn.Write(protectedMagic[:]); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := io.Copy(io.Discard, conn); err != nil && os.IsTimeout(err) {
			t.Error(err)
		}
		if took := time.Since(began); took != HandshakeTimeout {
			t.Errorf("it was hung up on after %v, want %v", took, HandshakeTimeout)
		}
	})
}

// FuzzProtection is what a stranger can say to a protected port.
func FuzzProtection(f *testing.F) {
	near, far := memnet.Pipe()
	security := protectedBy(f, theSecret)
	go func() { _ = tls.Client(near, security.TLS).Handshake() }() // which is not answered
	begun := make([]byte, 8<<10)
	n, err := far.Read(begun)
	if err != nil || n < 1<<10 {
		f.Fatal(n, err)
	}
	near.Close()
	f.Add([]byte{})
	f.Add(begun[:n])
	f.Add(append(bytes.Clone(begun[:n]), 20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 0))
	p := New(context.Background(), Config{Log: hclog.NewNullLogger(), Security: protectedBy(f, theSecret)}, solo{memberB})
	f.Fuzz(func(t *testing.T, said []byte) {
		near, far := memnet.Pipe()
		defer near.Close()
		if _, err := far.Write(append(bytes.Clone(protectedMagic[:]), said...)); err != nil {
			t.Fatal(err)
		}
		closeWrite(far)
		if h, err := p.acceptHandshake(&Conn{Conn: near, raw: near}); err == nil {
			t.Fatalf("%+v was welcomed", h)
		}
	})
}
