package kvraft

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// A node has one listener. Each connection opens with a handshake: the dialer
// says what the connection is for, which cluster it belongs to and which node
// it means; the acceptor answers who it is, and refuses a connection that is
// meant for another before raft sees a byte of it.

const (
	handshakeTimeout = 5 * time.Second // for the whole handshake
	maxHandshake     = 4 << 10         // bytes of its JSON
)

// magic opens every handshake, both ways. Its last byte is the version of the
// protocol.
var magic = [8]byte{'k', 'v', 'r', 'a', 'f', 't', 0, 1}

// What a connection is for.
const (
	forRaft = "raft" // raft's own messages
	forRPC  = "rpc"  // kvraft's calls, see forward.go
)

// hello is what the dialer says.
type hello struct {
	For     string        `json:"for"`
	Cluster string        `json:"cluster"` // empty: the dialer has none yet
	From    raft.ServerID `json:"from"`
	To      raft.ServerID `json:"to"` // the node that is meant; empty: whoever is there, for admission only
	At      string        `json:"at"` // the address under which the dialer is reached
}

// welcome is what the acceptor answers.
type welcome struct {
	Refused string        `json:"refused,omitempty"` // why; the connection ends here
	Cluster string        `json:"cluster"`           // empty: the acceptor waits to be admitted
	Node    raft.ServerID `json:"node"`
}

// self is who a node says it is.
type self struct {
	cluster string
	server  raft.ServerID
}

// judge answers a hello. It never refuses because it does not know the dialer:
// a node that lags behind would refuse the leader that could teach it.
func (me self) judge(h hello) welcome {
	w := welcome{Cluster: me.cluster, Node: me.server}
	switch {
	case h.For != forRaft && h.For != forRPC:
		w.Refused = fmt.Sprintf("connections for %q are not known here", h.For)
	case h.To == "" && h.For == forRPC: // a knock; what may be asked is limited in forward.go
	case h.To != me.server:
		w.Refused = fmt.Sprintf("this is node %s, not %s", me.server, h.To)
	case me.cluster == "":
		w.Refused = fmt.Sprintf("node %s waits to be admitted to a cluster", me.server)
	case h.Cluster != me.cluster:
		w.Refused = fmt.Sprintf("node %s belongs to cluster %s, not %s", me.server, me.cluster, h.Cluster)
	}
	return w
}

func (t *transport) acceptHandshake(conn net.Conn) (hello, error) {
	var h hello
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return h, err
	}
	err := readHandshake(conn, &h)
	if errors.Is(err, errVersion) { // the dialer learns ours from the answer
		return h, errors.Join(err, writeHandshake(conn, welcome{Refused: err.Error()}))
	}
	if err != nil {
		return h, err
	}
	w := t.self().judge(h)
	if err := writeHandshake(conn, w); err != nil {
		return h, err
	}
	if w.Refused != "" {
		return h, errors.New(w.Refused)
	}
	if h.Cluster == w.Cluster {
		t.noteAddress(h)
	}
	return h, conn.SetDeadline(time.Time{})
}

func (t *transport) dialHandshake(ctx context.Context, conn net.Conn, purpose string, to raft.ServerID) (w welcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	release := interruptible(ctx, conn)
	defer func() { err = release(err) }()

	me := t.self()
	if err := writeHandshake(conn, hello{purpose, me.cluster, me.server, to, t.advertise}); err != nil {
		return w, err
	}
	if err := readHandshake(conn, &w); err != nil {
		return w, err
	}
	if w.Refused != "" {
		return w, errors.New(w.Refused)
	}
	return w, nil
}

// interruptible makes ctx end what blocks on conn. The function it returns
// ends that, leaves conn without a deadline, and makes err name the context
// where that is what ended it.
func interruptible(ctx context.Context, conn net.Conn) func(err error) error {
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		conn.SetDeadline(time.Unix(1, 0))
		close(fired)
	})
	return func(err error) error {
		if stop() {
			return err
		}
		<-fired
		if err != nil {
			return fmt.Errorf("%w (%v)", ended(ctx), err)
		}
		return conn.SetDeadline(time.Time{})
	}
}

var errVersion = errors.New("read handshake: another version of the protocol")

// A handshake message is the magic, a length and JSON, so that it can grow.

func writeHandshake(w io.Writer, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	frame := append(magic[:len(magic):len(magic)], 0, 0)
	binary.BigEndian.PutUint16(frame[len(magic):], uint16(len(body)))
	_, err = w.Write(append(frame, body...))
	return err
}

func readHandshake(r io.Reader, message any) error {
	var head [len(magic) + 2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read handshake: %w", err)
	}
	if [len(magic) - 1]byte(head[:]) != [len(magic) - 1]byte(magic[:]) {
		return errors.New("read handshake: not a kvraft peer")
	}
	if v := head[len(magic)-1]; v != magic[len(magic)-1] {
		return fmt.Errorf("%w: the peer speaks %d, this node %d", errVersion, v, magic[len(magic)-1])
	}
	n := binary.BigEndian.Uint16(head[len(magic):])
	if n > maxHandshake {
		return fmt.Errorf("read handshake: %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read handshake: %w", err)
	}
	if err := json.Unmarshal(body, message); err != nil {
		return fmt.Errorf("read handshake: %w", err)
	}
	return nil
}
