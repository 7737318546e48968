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
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

// A node has one listener. Each connection opens with a handshake: the dialer
// says what the connection is for, which cluster it belongs to and which node
// it means; the acceptor answers who it is, and refuses a connection that is
// meant for another before raft sees a byte of it. Where the port is shared, what
// opens otherwise is another's, see others.go.

const (
	HandshakeTimeout = 5 * time.Second // for the whole handshake
	maxHandshake     = 4 << 10         // bytes of its JSON
)

// magic opens every handshake, both ways. Its last byte is the version of the
// protocol.
var magic = [8]byte{'k', 'v', 'r', 'a', 'f', 't', 0, 1}

// What a connection is for.
const (
	ForRaft    = "raft"  // raft's own messages
	ForRPC     = "rpc"   // kvraft's calls
	ForMonitor = "vigil" // nothing but to see it break
)

// Hello is what the dialer says.
type Hello struct {
	For     string        `json:"for"`
	Cluster string        `json:"cluster"` // empty: the dialer has none yet
	From    raft.ServerID `json:"from"`
	To      raft.ServerID `json:"to"`    // the node that is meant; empty: whoever is there, for admission only
	At      string        `json:"at"`    // the address under which the dialer is reached
	Leads   bool          `json:"leads"` // the dialer is the leader, as far as it knows
}

// Opening is a hello as it is sent.
type Opening struct {
	Hello
	Log        []roster.Sample `json:"log,omitempty"`        // of the dialer's, where one of the two may have no cluster id
	Configured string          `json:"configured,omitempty"` // the dialer's address in its own configuration
}

// Welcome is what the acceptor answers.
type Welcome struct {
	Refused string        `json:"refused,omitempty"` // why; the connection ends here
	Cluster string        `json:"cluster"`           // empty: the acceptor waits to be admitted
	Node    raft.ServerID `json:"node"`
	Leads   bool          `json:"leads"`   // the acceptor is the leader, as far as it knows
	Process string        `json:"process"` // minted when the acceptor was opened: one that answers at two addresses is one

	Unconfirmed bool   `json:"unconfirmed,omitempty"` // the acceptor has yet to be confirmed where it is
	Elsewhere   string `json:"elsewhere,omitempty"`   // the dialer is refused because it is to be found there
	Joined      bool   `json:"joined,omitempty"`      // the acceptor has entries of its cluster's log: it is a member, or was one
}

// Self is who a node says it is.
type Self struct {
	Cluster string
	Server  raft.ServerID
}

// judge answers a hello. It never refuses because it does not know the dialer:
// a node that lags behind would refuse the leader that could teach it. But where one
// of the two has no cluster id they cannot be compared, and vouch tells what speaks
// against the dialer.
func (me Self) judge(h Hello, vouch func() error) Welcome {
	w := Welcome{Cluster: me.Cluster, Node: me.Server}
	switch {
	case h.For != ForRaft && h.For != ForRPC && h.For != ForMonitor:
		w.Refused = fmt.Sprintf("connections for %q are not known here", h.For)
	case h.To == "" && h.For == ForRPC: // to whoever is there; what may be asked is limited in calls.go
	case h.To != me.Server:
		w.Refused = fmt.Sprintf("this is node %s, not %s", me.Server, h.To)
	case me.Cluster == "" && !roster.HasNoIdentity(me.Server):
		w.Refused = fmt.Sprintf("node %s waits to be admitted to a cluster", me.Server)
	case me.Cluster == "", h.Cluster == "" && roster.HasNoIdentity(h.From):
		if err := vouch(); err != nil {
			w.Refused = err.Error()
		}
	case h.Cluster != me.Cluster:
		w.Refused = fmt.Sprintf("node %s belongs to cluster %s, not %s; to move a node, empty its data directory", me.Server, me.Cluster, h.Cluster)
	}
	return w
}

func (p *Port) acceptHandshake(conn *Conn) (Hello, error) {
	var o Opening
	if err := conn.SetDeadline(time.Now().Add(HandshakeTimeout)); err != nil {
		return o.Hello, err
	}
	from, err := p.acceptProtection(conn)
	if err != nil {
		return o.Hello, err
	}
	err = readHandshake(from, &o)
	h := o.Hello
	if errors.Is(err, errVersion) { // the dialer learns ours from the answer
		return h, errors.Join(err, writeHandshake(conn, Welcome{Refused: err.Error()}))
	}
	if err != nil {
		return h, err
	}
	w := p.node.Self().judge(h, func() error { return p.node.Vouch(o) })
	if h.For == ForRaft && w.Refused == "" {
		w.Refused, w.Elsewhere = p.node.TurnAway(o)
	}
	w.Leads, w.Process, w.Unconfirmed, w.Joined = p.node.Leads(), p.process, !p.node.IsPlaced(), p.node.HasJoined()
	if err := writeHandshake(conn, w); err != nil {
		return h, err
	}
	if w.Refused != "" {
		return h, errors.New(w.Refused)
	}
	return h, conn.SetDeadline(time.Time{})
}

func (p *Port) dialHandshake(ctx context.Context, conn net.Conn, purpose string, to raft.ServerID) (w Welcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	release := interruptible(ctx, conn)
	defer func() { err = release(err) }()

	me := p.node.Self()
	o := Opening{Hello: Hello{For: purpose, Cluster: me.Cluster, From: me.Server, To: to, At: p.config.Advertise, Leads: p.node.Leads()}, Configured: p.node.ConfiguredAt()}
	if me.Cluster == "" || roster.HasNoIdentity(to) {
		o.Log = p.node.Samples()
	}
	if err := writeHandshake(conn, o); err != nil {
		return w, err
	}
	if err := readHandshake(conn, &w); err != nil {
		return w, explained(err)
	}
	if w.Elsewhere != "" {
		p.node.LosePlace(w.Elsewhere)
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
			return fmt.Errorf("%w (%v)", errs.Ended(ctx), err)
		}
		return conn.SetDeadline(time.Time{})
	}
}

// foreign is the error of a connection that opens otherwise than with a handshake,
// of whatever version.
type foreign struct{ head []byte }

func (foreign) Error() string { return ErrNoPeer.Error() }

// readHead reads what all versions of the handshake begin with, or up to the first
// bytes that differ: whoever speaks another protocol may wait for an answer to less.
func readHead(r io.Reader) ([]byte, error) {
	const length = len(magic) - 1
	head := make([]byte, 0, len(magic))
	for len(head) < length {
		n, err := r.Read(head[len(head):length])
		head = head[:len(head)+n]
		if !bytes.HasPrefix(magic[:], head) {
			return nil, foreign{head}
		}
		if err != nil {
			return nil, fmt.Errorf("read handshake: %w", err)
		}
	}
	return head, nil
}

var (
	errVersion = errors.New("read handshake: another version of the protocol")
	ErrNoPeer  = errors.New("read handshake: not a kvraft peer")
)

// A handshake message is the magic, a length and JSON, so that it can grow. It
// ends in a newline: an HTTP server that was dialed by mistake answers at once
// that it does not understand, and does not wait for one.

func writeHandshake(w io.Writer, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	body = append(body, '\n')
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
	if string(head[:len("HTTP/")]) == "HTTP/" {
		return fmt.Errorf("%w, but an HTTP server: the address of its peer port is wanted", ErrNoPeer)
	}
	if [len(magic) - 1]byte(head[:]) != [len(magic) - 1]byte(magic[:]) {
		return ErrNoPeer
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
