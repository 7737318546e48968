package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

func TestAHelloIsJudgedByWhomItMeans(t *testing.T) {
	member, outside := Self{"c1", "b#2"}, Self{"", "b#2"}
	old, withoutID := Self{"c1", "b"}, Self{"", "b"} // of a cluster of hraftd's
	for _, c := range []struct {
		name    string
		me      Self
		h       Hello
		refused string // part of the reason; empty: welcome
	}{
		{"raft of the cluster", member, Hello{For: ForRaft, Cluster: "c1", From: "a#1", To: "b#2"}, ""},
		{"a call of the cluster", member, Hello{For: ForRPC, Cluster: "c1", From: "a#1", To: "b#2"}, ""},
		{"raft of a dialer nobody knows", member, Hello{For: ForRaft, Cluster: "c1", From: "stranger#9", To: "b#2"}, ""},
		{"a call of the cluster to whoever is there", member, Hello{For: ForRPC, Cluster: "c1", From: "a#1"}, ""},
		{"such a call of a node without a cluster", member, Hello{For: ForRPC, From: "a#1"}, ""},
		{"such a call of another cluster, which may look who is there", member, Hello{For: ForRPC, Cluster: "c2", From: "a#1"}, ""},
		{"such a call at a node that waits", outside, Hello{For: ForRPC, Cluster: "c1", From: "a#1"}, ""},
		{"raft without naming the node", member, Hello{For: ForRaft, Cluster: "c1", From: "a#1"}, "not "},
		{"raft for another node", member, Hello{For: ForRaft, Cluster: "c1", From: "a#1", To: "x#2"}, "not x#2"},
		{"raft for the identity before", member, Hello{For: ForRaft, Cluster: "c1", From: "a#1", To: "b#1"}, "not b#1"},
		{"raft for the bare id", member, Hello{For: ForRaft, Cluster: "c1", From: "a#1", To: "b"}, "this is node b#2"},
		{"a call for another node", member, Hello{For: ForRPC, Cluster: "c1", From: "a#1", To: "x#2"}, "this is node b#2"},
		{"raft of another cluster", member, Hello{For: ForRaft, Cluster: "c2", From: "a#1", To: "b#2"}, "belongs to cluster c1"},
		{"a call of another cluster", member, Hello{For: ForRPC, Cluster: "c2", From: "a#1", To: "b#2"}, "belongs to cluster c1"},
		{"raft without a cluster", member, Hello{For: ForRaft, From: "a#1", To: "b#2"}, "belongs to cluster c1"},
		{"raft to a node that waits", outside, Hello{For: ForRaft, Cluster: "c1", From: "a#1", To: "b#2"}, "waits to be admitted"},
		{"a call to a node that waits", outside, Hello{For: ForRPC, Cluster: "c1", From: "a#1", To: "b#2"}, "waits to be admitted"},
		{"raft between two that wait", outside, Hello{For: ForRaft, From: "a#1", To: "b#2"}, "waits to be admitted"},
		{"raft of the cluster to an old member", old, Hello{For: ForRaft, Cluster: "c1", From: "stranger#9", To: "b"}, ""},
		{"raft of a member without a cluster id", member, Hello{For: ForRaft, From: "a", To: "b#2"}, ""},
		{"raft of a member without a cluster id to an old one", old, Hello{For: ForRaft, From: "a", To: "b"}, ""},
		{"raft of a node without a cluster id that is no member", old, Hello{For: ForRaft, From: "stranger", To: "b"}, "not a member"},
		{"raft of another cluster to an old member", old, Hello{For: ForRaft, Cluster: "c2", From: "a", To: "b"}, "belongs to cluster c1"},
		{"raft without a cluster to an old member", old, Hello{For: ForRaft, From: "a#1", To: "b"}, "belongs to cluster c1"},
		{"raft between members without a cluster id", withoutID, Hello{For: ForRaft, From: "a", To: "b"}, ""},
		{"raft of a member to one without a cluster id", withoutID, Hello{For: ForRaft, Cluster: "c1", From: "a", To: "b"}, ""},
		{"raft of no member to one without a cluster id", withoutID, Hello{For: ForRaft, Cluster: "c1", From: "stranger#9", To: "b"}, "not a member"},
		{"raft to a node without a cluster id, for another", withoutID, Hello{For: ForRaft, From: "a", To: "x"}, "not x"},
		{"such a call at a node without a cluster id", withoutID, Hello{For: ForRPC, Cluster: "c2", From: "stranger#9"}, ""},
		{"an unknown purpose", member, Hello{For: "gossip", Cluster: "c1", From: "a#1", To: "b#2"}, `"gossip"`},
		{"no purpose", member, Hello{Cluster: "c1", From: "a#1", To: "b#2"}, "not known"},
	} {
		w := c.me.judge(c.h, func() error {
			if c.h.From != "a" {
				return errors.New("not a member")
			}
			return nil
		})
		if (w.Refused == "") != (c.refused == "") || !strings.Contains(w.Refused, c.refused) {
			t.Errorf("%s: refused with %q, want %q", c.name, w.Refused, c.refused)
		}
		if w.Cluster != c.me.Cluster || w.Node != c.me.Server {
			t.Errorf("%s: the answer is of %s in %s", c.name, w.Node, w.Cluster)
		}
	}
}

// A node that lost its data and founded a cluster of its own is told by those
// who still take it for a member.
func TestAStrangerIsRememberedForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		b := newTestPort(t, lan, "b:1", nodeB, serveNothing)
		dial := func(me Self, to raft.ServerID) {
			a := New(context.Background(), Config{Network: lan.Host("a"), Listener: nil, Log: hclog.NewNullLogger()}, solo{me})
			if conn, _, err := a.Dial(t.Context(), "b:1", ForRaft, to); err == nil {
				t.Errorf("%+v was welcomed", me)
				conn.Close()
			}
			synctest.Wait()
		}
		if conn := dialRaw(t, lan, "b:1"); conn.Close() != nil {
			t.Error("close")
		}
		dial(Self{"", "a#1"}, "b#2")   // of no cluster
		dial(Self{"c1", "a#1"}, "b#1") // of this one, and behind the times
		dial(Self{"c2", "a#1"}, "d#1") // of another one, and for another node
		if h, lost := b.LastStranger(); lost {
			t.Errorf("%+v is no stranger", h)
		}
		dial(Self{"c2", "a#1"}, "b#1")
		dial(Self{"", "a#1"}, "b#2")
		time.Sleep(time.Minute - time.Millisecond) // virtual
		if h, lost := b.LastStranger(); !lost || h != (Hello{For: ForRaft, Cluster: "c2", From: "a#1", To: "b#1"}) {
			t.Errorf("remembered %+v, %v, want the node of cluster c2", h, lost)
		}
		time.Sleep(time.Millisecond) // virtual
		if h, lost := b.LastStranger(); lost {
			t.Errorf("%+v is remembered for too long", h)
		}
	})
}

// The nodes that form a cluster hear of it one after the other.
func TestARefusalBeforeANodeKnowsItsClusterIsNoWarning(t *testing.T) {
	var log bytes.Buffer
	empty := Self{"", nodeB.Server}
	b := New(context.Background(), Config{Log: hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Info})}, solo{empty})
	refuse := func(to raft.ServerID) {
		h := Hello{For: ForRaft, From: "a#1", Cluster: nodeB.Cluster, To: to}
		reason := errors.New(empty.judge(h, nil).Refused)
		b.noteRefusal(b.refusalKind(h, reason), at("a:1"), h, reason)
	}
	if refuse(empty.Server); log.Len() > 0 {
		t.Error(&log)
	}
	if refuse("b#0"); !strings.Contains(log.String(), "[WARN]  refused a connection") {
		t.Errorf("one that is meant for another: %q", &log)
	}
}

// What differs in the port of the dialer, or in a name that it made up, is no other
// kind of refusal.
func TestRefusalsOfAKindAreOneLineAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := New(context.Background(), Config{Log: hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Debug})}, solo{nodeB})
		lines := func() int { return strings.Count(log.String(), "\n") }
		refuse := func() {
			for i := range 200 {
				from, id := at(fmt.Sprint("a:", i)), raft.ServerID(fmt.Sprint("x", i))
				note := func(h Hello, reason error) { b.noteRefusal(b.refusalKind(h, reason), from, h, reason) }
				note(Hello{From: id, Cluster: fmt.Sprint("other", i), To: nodeB.Server}, fmt.Errorf("of cluster other%d", i))
				note(Hello{From: id, Cluster: nodeB.Cluster}, fmt.Errorf("not %d", i))
				note(Hello{}, &net.OpError{Op: "read", Addr: from, Err: syscall.ECONNRESET})
				note(Hello{}, fmt.Errorf("read handshake: %w", io.EOF))
			}
		}
		refuse()
		if n := lines(); n != 3 {
			t.Errorf("%d lines, want one for each kind:\n%s", n, &log)
		}
		time.Sleep(time.Minute) // virtual
		refuse()
		if n := lines(); n != 6 || !strings.Contains(log.String(), "others=199") || !strings.Contains(log.String(), "others=399") {
			t.Errorf("%d lines, want 6, with how many others there were:\n%s", n, &log)
		}
	})
}

func TestWhatAStrangerSaysStaysOnItsLine(t *testing.T) {
	var log bytes.Buffer
	b := New(context.Background(), Config{Log: hclog.New(&hclog.LoggerOptions{Output: &log})}, solo{nodeB})
	id := raft.ServerID("a\n2026-01-01 [ERROR] peer: forged" + strings.Repeat("x", 4096))
	b.noteRefusal("node", at("a:1"), Hello{From: id}, fmt.Errorf("this is not %s", id))
	if n := strings.Count(log.String(), "\n"); n != 1 || log.Len() > 1024 {
		t.Errorf("%d bytes on %d lines:\n%s", log.Len(), n, &log)
	}
}

func TestBothSidesOfAHandshakeLearnWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		heard := make(chan Hello, 2)
		b := newTestPort(t, lan, "b:1", nodeB, func(_ net.Conn, h Hello) { heard <- h })
		a := newTestPort(t, lan, "a:1", nodeA, nil)
		for _, to := range []raft.ServerID{nodeB.Server, ""} {
			conn, who, err := a.Dial(t.Context(), "b:1", ForRPC, to)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if want := (Welcome{Cluster: "c1", Node: "b#2", Process: b.process}); who != want {
				t.Errorf("the dialer learned %+v, want %+v", who, want)
			}
			if h, want := <-heard, (Hello{For: ForRPC, Cluster: "c1", From: "a#1", To: to, At: "a:1"}); h != want {
				t.Errorf("the acceptor learned %+v, want %+v", h, want)
			}
		}
	})
}

func TestARefusedDialerLearnsWhyAndNothingIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		served := 0
		b := newTestPort(t, lan, "b:1", nodeB, func(net.Conn, Hello) { served++ })
		a := newTestPort(t, lan, "a:1", Self{"c2", "a#1"}, nil)
		for _, purpose := range []string{ForRaft, ForRPC} {
			conn, _, err := a.Dial(t.Context(), "b:1", purpose, nodeB.Server)
			if err == nil || conn != nil || !strings.Contains(err.Error(), "belongs to cluster c1, not c2") {
				t.Errorf("%s: %v, %v, want the reason and no connection", purpose, conn, err)
			}
		}
		synctest.Wait()
		if served != 0 {
			t.Errorf("%d refused connections were served", served)
		}
		if a.Connections() != 0 || b.Connections() != 0 {
			t.Errorf("%d and %d connections are left", a.Connections(), b.Connections())
		}
	})
}

// handshakeBytes is a handshake message as it crosses the wire.
func handshakeBytes(t testing.TB, message any) []byte {
	var b bytes.Buffer
	if err := writeHandshake(&b, message); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// brokenHandshakes are openings that are not one, by name, each with a part of
// what the reader says to it.
func brokenHandshakes(t testing.TB) map[string]struct {
	opening []byte
	says    string
} {
	good := handshakeBytes(t, Hello{For: ForRaft, Cluster: "c1", From: "a#1", To: "b#2"})
	with := func(change func(b []byte) []byte) []byte { return change(bytes.Clone(good)) }
	return map[string]struct {
		opening []byte
		says    string
	}{
		"HTTP":             {[]byte("GET / HTTP/1.1\r\nHost: b\r\n\r\n"), "not a kvraft peer"},
		"wrong magic":      {with(func(b []byte) []byte { b[0] ^= 1; return b }), "not a kvraft peer"},
		"wrong magic end":  {with(func(b []byte) []byte { b[6] ^= 1; return b }), "not a kvraft peer"},
		"version 0":        {with(func(b []byte) []byte { b[7] = 0; return b }), "the peer speaks 0, this node 1"},
		"version 2":        {with(func(b []byte) []byte { b[7] = 2; return b }), "the peer speaks 2, this node 1"},
		"too long":         {with(func(b []byte) []byte { return append(b[:8], 0x10, 0x01) }), "4097 bytes"},
		"longest possible": {with(func(b []byte) []byte { return append(b[:8], 0xff, 0xff) }), "65535 bytes"},
		"not JSON":         {with(func(b []byte) []byte { b[10] = 'x'; return b }), "invalid character"},
		"empty":            {with(func(b []byte) []byte { return append(b[:8], 0, 0) }), "unexpected end"},
		"another JSON":     {append(with(func(b []byte) []byte { return append(b[:8], 0, 2) }), "[]"...), "cannot unmarshal"},
	}
}

func TestAnOpeningThatIsNoHandshakeEndsTheConnectionAtOnce(t *testing.T) {
	for name, c := range brokenHandshakes(t) {
		var h Hello
		if err := readHandshake(bytes.NewReader(c.opening), &h); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %q", name, err, c.says)
		}
		synctest.Test(t, func(t *testing.T) {
			lan := newLAN()
			newTestPort(t, lan, "b:1", nodeB, func(net.Conn, Hello) { t.Errorf("%s was served", name) })
			conn := dialRaw(t, lan, "b:1")
			if _, err := conn.Write(c.opening); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			answer, _ := io.ReadAll(conn)
			if another := strings.HasPrefix(name, "version"); another != bytes.Contains(answer, []byte(c.says)) || !another && len(answer) > 0 {
				t.Errorf("%s was answered %q", name, answer) // only another version is told why
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("%s was hung up on after %v, want at once", name, took)
			}
		})
	}
}

func TestAHandshakeReaderTakesNoByteOfWhatFollows(t *testing.T) {
	want := Hello{For: ForRPC, Cluster: "c1", From: "a#1", To: "b#2"}
	stream := bytes.NewBuffer(append(handshakeBytes(t, want), "raft's first byte"...))
	var got Hello
	if err := readHandshake(stream, &got); err != nil || got != want {
		t.Errorf("read %+v, %v, want %+v", got, err, want)
	}
	if stream.String() != "raft's first byte" {
		t.Errorf("what follows was left as %q", stream)
	}
}

func TestEveryTruncatedHandshakeIsAnError(t *testing.T) {
	whole := handshakeBytes(t, Welcome{Cluster: "c1", Node: "b#2"})
	for n := range whole {
		var w Welcome
		if err := readHandshake(bytes.NewReader(whole[:n]), &w); err == nil {
			t.Errorf("%d of %d bytes are a handshake", n, len(whole))
		}
	}
}

func TestAHandshakeMayGrowByFields(t *testing.T) {
	newer := map[string]any{"for": ForRPC, "cluster": "c1", "from": "a#1", "to": "b#2", "compression": []string{"zstd"}}
	var h Hello
	if err := readHandshake(bytes.NewReader(handshakeBytes(t, newer)), &h); err != nil || h != (Hello{For: ForRPC, Cluster: "c1", From: "a#1", To: "b#2"}) {
		t.Errorf("read %+v, %v", h, err)
	}
}

// A whole cluster must not wait behind one peer that says nothing.
func TestAStalledHandshakeEndsAtItsDeadlineAndHoldsUpNobody(t *testing.T) {
	for name, stall := range map[string]func(net.Conn){
		"nothing is sent": func(net.Conn) {},
		"one byte a second is sent": func(conn net.Conn) {
			for _, b := range handshakeBytes(t, Hello{For: ForRaft, Cluster: "c1", From: "a#1", To: "b#2"}) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second) // virtual
			}
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			lan := newLAN()
			newTestPort(t, lan, "b:1", nodeB, serveNothing)
			a := newTestPort(t, lan, "a:1", nodeA, nil)
			stalled := dialRaw(t, lan, "b:1")
			var stalling sync.WaitGroup
			stalling.Go(func() { stall(stalled) })
			synctest.Wait()

			began := time.Now()
			conn, _, err := a.Dial(t.Context(), "b:1", ForRPC, nodeB.Server)
			if err != nil || time.Since(began) != 0 {
				t.Errorf("%s: another dial took %v and gave %v", name, time.Since(began), err)
			} else {
				conn.Close()
			}
			endsAt(t, stalled, HandshakeTimeout)
			stalling.Wait()
		})
	}
}

func TestADialerGivesUpOnAnAcceptorThatStalls(t *testing.T) {
	ended := errors.New("the caller has enough")
	for name, c := range map[string]struct {
		limit time.Duration // of the dialer's context; 0: none
		took  time.Duration
		want  error
	}{
		"at the handshake's deadline":  {0, HandshakeTimeout, context.DeadlineExceeded},
		"when its own context ends":    {time.Second, time.Second, ended},
		"at the deadline if it is due": {time.Hour, HandshakeTimeout, context.DeadlineExceeded},
	} {
		synctest.Test(t, func(t *testing.T) {
			lan := newLAN()
			listener, err := lan.Host("b").Listen("b:1")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			accepted := make(chan net.Conn, 1)
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					t.Error(err)
				}
				accepted <- conn
			}()
			a := newTestPort(t, lan, "a:1", nodeA, nil)
			ctx := t.Context()
			if c.limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(ctx, c.limit, ended)
				defer cancel()
			}
			began := time.Now()
			conn, _, err := a.Dial(ctx, "b:1", ForRaft, nodeB.Server)
			if conn != nil || !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, %v, want %v", name, conn, err, c.want)
			}
			if took := time.Since(began); took != c.took {
				t.Errorf("%s: took %v, want %v", name, took, c.took)
			}
			endsAt(t, <-accepted, 0)
			if a.Connections() != 0 {
				t.Errorf("%s: %d connections are left", name, a.Connections())
			}
		})
	}
}

// What a stranger sends is refused, or is a hello that says the right things:
// never a panic, never more than a handshake's bytes read, and any answer is one
// that a peer can read.
func FuzzHandshake(f *testing.F) {
	f.Add(handshakeBytes(f, Hello{For: ForRaft, Cluster: "c1", From: "a#1", To: "b#2"}))
	f.Add(handshakeBytes(f, Hello{For: ForRPC, From: "a#1"}))
	f.Add(handshakeBytes(f, Hello{For: ForRaft, Cluster: "c2", From: "a#1", To: "b#2"}))
	f.Add(append(handshakeBytes(f, Hello{For: "x<>", To: "\x00"}), "what follows"...))
	f.Add(handshakeBytes(f, Opening{Hello: Hello{For: ForRaft, From: "a", To: "b#2"}, Log: []roster.Sample{{Index: 1, Term: 2, Sum: 3}}}))
	for _, c := range brokenHandshakes(f) {
		f.Add(c.opening)
	}
	f.Add(append(bytes.Clone(protectedMagic[:]), 22, 3, 1))
	tr := New(context.Background(), Config{Log: hclog.NewNullLogger()}, solo{nodeB})
	f.Fuzz(func(t *testing.T, opening []byte) {
		near, far := memnet.Pipe()
		defer near.Close()
		if _, err := far.Write(opening); err != nil {
			t.Fatal(err)
		}
		closeWrite(far)
		h, err := tr.acceptHandshake(&Conn{Conn: near, raw: near})
		rest, readErr := io.ReadAll(near)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if n := len(opening) - len(rest); n > len(magic)+2+maxHandshake {
			t.Fatalf("%d bytes were read", n)
		}
		if other, ok := err.(foreign); ok != !isPrefix(opening, magic[:len(magic)-1]) || ok && string(other.head)+string(rest) != string(opening) {
			t.Fatalf("%v, with %q to be put back before %q", err, other.head, rest)
		}
		right := h.Cluster == "c1" && h.To == "b#2" && (h.For == ForRaft || h.For == ForRPC)
		unnamed := h.To == "" && h.For == ForRPC
		if welcomed := err == nil; welcomed && !right && !unnamed {
			t.Fatalf("%+v was welcomed", h)
		} else if !welcomed && right {
			t.Fatalf("%+v was refused: %v", h, err)
		}
		near.Close()
		answer, readErr := io.ReadAll(far)
		if readErr != nil {
			t.Fatal(readErr)
		}
		checkAnswer(t, answer, err == nil)
	})
}

// isPrefix reports whether one of the two begins with the other.
func isPrefix(a, b []byte) bool { return bytes.HasPrefix(a, b) || bytes.HasPrefix(b, a) }

// checkAnswer wants one welcome, or nothing where none was due.
func checkAnswer(t *testing.T, answer []byte, welcomed bool) {
	if len(answer) == 0 {
		if welcomed {
			t.Fatal("a hello was taken and not answered")
		}
		return
	}
	head := len(magic) + 2
	if len(answer) < head || !bytes.HasPrefix(answer, magic[:]) || int(binary.BigEndian.Uint16(answer[head-2:])) != len(answer)-head {
		t.Fatalf("the answer is no message: %q", answer)
	}
	var w Welcome
	if err := json.Unmarshal(answer[head:], &w); err != nil {
		t.Fatal(err)
	}
	another := strings.Contains(w.Refused, errVersion.Error()) || w.Refused == errNoProtection.Error()
	if another && !welcomed && w.Node == "" {
		return
	}
	if w.Cluster != "c1" || w.Node != "b#2" || (w.Refused == "") != welcomed {
		t.Fatalf("the answer is %+v", w)
	}
}

func TestHandshakesAreEncodedAsTheyEverWere(t *testing.T) {
	for name, message := range map[string]any{
		"hello-raft": &Opening{Hello: Hello{For: ForRaft, Cluster: "c1", From: "n1#a", To: "n2#b", At: "10.0.0.1:7000", Leads: true}},
		"hello-rpc":  &Opening{Hello: Hello{For: ForRPC, From: "n1#a", At: "10.0.0.1:7000"}},
		"hello-monitor": &Opening{
			Hello: Hello{For: ForMonitor, Cluster: "c1", From: "n1", To: "n2", At: "10.0.0.1:7000"},
			Log:   []roster.Sample{{Index: 5, Term: 2, Sum: 7}},
		},
		"welcome":         &Welcome{Cluster: "c1", Node: "n2#b", Leads: true, Process: "p"},
		"welcome-joined":  &Welcome{Cluster: "c1", Node: "n2#b", Process: "p", Joined: true},
		"welcome-refused": &Welcome{Refused: "this is node n2#b, not n3#c", Cluster: "c1", Node: "n2#b"},
	} {
		var frame bytes.Buffer
		if err := writeHandshake(&frame, message); err != nil {
			t.Fatal(err)
		}
		stored, err := os.ReadFile("../../testdata/formats/" + name)
		if err != nil || !bytes.Equal(stored, frame.Bytes()) {
			t.Errorf("%s: this version writes\n%q\nand the file has\n%q, %v", name, &frame, stored, err)
		}
		back := reflect.New(reflect.TypeOf(message).Elem()).Interface()
		if err := readHandshake(bytes.NewReader(stored), back); err != nil || !reflect.DeepEqual(back, message) {
			t.Errorf("%s reads as %+v, %v", name, back, err)
		}
	}
}

// at is an address.
func at(addr string) net.Addr { return &net.UnixAddr{Name: addr} }
