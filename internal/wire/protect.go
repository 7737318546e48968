package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Security is what protects the connections of a port.
//
// A protected connection opens with the magic, of a version of its own, in plain. TLS comes
// behind it, and in that the handshake as in a connection that is not protected. So the two
// kinds are told apart by the first bytes, also from what else comes to a shared port. Each
// side takes the kinds that it was told to take, whatever the bytes say.
type Security struct {
	// TLS is for both ends of a connection, each of which authenticates the other.
	TLS *tls.Config
	// PlainToo has the port take and make connections to nodes without protection as well,
	// for as long as a cluster is moved over.
	PlainToo bool
}

// protectedMagic opens a protected connection: with a bit of its own beside the version.
var protectedMagic = [len(magic)]byte{'k', 'v', 'r', 'a', 'f', 't', 0, 1 | 1<<7}

var (
	errUnprotected  = errors.New("this node is protected, and the dialer is not: open it with the secret of the cluster")
	errNoProtection = errors.New("the dialer is protected, and this node is not: open it with the secret of the cluster")
	errPlainPeer    = errors.New("the node there is not protected, and this one is")
	errProof        = errors.New("the other side does not accept what this node proves: is its secret another?")
)

// acceptProtection takes the first bytes of a connection, and returns what the handshake
// is to be read from.
func (p *Port) acceptProtection(conn *Conn) (io.Reader, error) {
	head, err := readHead(conn)
	if err != nil {
		return nil, err
	}
	head = head[:len(magic)]
	if _, err := io.ReadFull(conn, head[len(magic)-1:]); err != nil {
		return nil, fmt.Errorf("read handshake: %w", err)
	}
	security := p.config.Security
	switch {
	case !bytes.Equal(head, protectedMagic[:]) && (security == nil || security.PlainToo):
		return io.MultiReader(bytes.NewReader(head), conn), nil
	case security == nil:
		return nil, tellRefusal(conn, errNoProtection)
	case !bytes.Equal(head, protectedMagic[:]):
		return nil, tellRefusal(conn, errUnprotected)
	}
	handshake := newHandshakeConn(conn.raw, nil)
	protected := tls.Server(handshake, security.TLS)
	conn.Conn = protected
	if err := protected.Handshake(); err != nil {
		return nil, unproved{explained(err)}
	}
	handshake.done()
	return conn, nil
}

// unproved is the error of who did not get as far as a handshake.
type unproved struct{ error }

func (u unproved) Unwrap() error { return u.error }

// tellRefusal answers in plain, with nothing but the reason, and returns it. The connection
// is not closed before the dialer has stopped, or what it sends would end it before it has
// read that.
func tellRefusal(conn net.Conn, reason error) error {
	err := writeHandshake(conn, Welcome{Refused: reason.Error()})
	if err == nil && conn.SetDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = io.CopyN(io.Discard, conn, maxUnproved)
	}
	return unproved{errors.Join(reason, err)}
}

// dialProtected does the other side. Its error is errPlainPeer where that is not protected.
func (p *Port) dialProtected(ctx context.Context, conn *Conn) error {
	handshake := newHandshakeConn(conn.raw, protectedMagic[:])
	protected := tls.Client(handshake, p.config.Security.TLS)
	conn.Conn = protected
	err := protected.HandshakeContext(ctx)
	switch record := new(tls.RecordHeaderError); {
	case p.ctx.Err() != nil:
		return net.ErrClosed
	case errors.As(err, record):
		release := interruptible(ctx, conn.raw)
		return release(plainAnswer(io.MultiReader(bytes.NewReader(handshake.said), conn.raw)))
	case err != nil:
		return explained(err)
	}
	handshake.done()
	return nil
}

// plainAnswer says what somebody means who does not answer with TLS.
func plainAnswer(said io.Reader) error {
	var w Welcome
	err := readHandshake(said, &w)
	switch {
	case err != nil:
		return err
	case w.Refused == errNoProtection.Error(), strings.HasPrefix(w.Refused, errVersion.Error()): // as an older one says
		return errPlainPeer
	}
	return errors.New(printable(w.Refused))
}

// maxUnproved is how many bytes are read of whoever has not proved anything yet.
const maxUnproved = 16 << 10

// handshakeConn is a connection in the time of a TLS handshake.
type handshakeConn struct {
	net.Conn
	first []byte // goes before the first write
	said  []byte // has been read
	over  bool   // the handshake is
}

func newHandshakeConn(conn net.Conn, first []byte) *handshakeConn {
	return &handshakeConn{Conn: conn, first: first}
}

// done is for when the handshake is: before the connection has another user.
func (c *handshakeConn) done() { c.over, c.said = true, nil }

func (c *handshakeConn) Read(b []byte) (int, error) {
	if c.over {
		return c.Conn.Read(b)
	}
	left := maxUnproved - len(c.said)
	if left == 0 {
		return 0, errors.New("too much is said in a TLS handshake")
	}
	n, err := c.Conn.Read(b[:min(len(b), left)])
	c.said = append(c.said, b[:n]...)
	return n, err
}

func (c *handshakeConn) Write(b []byte) (int, error) {
	if c.first == nil {
		return c.Conn.Write(b)
	}
	n, err := c.Conn.Write(append(bytes.Clone(c.first), b...))
	n = max(0, n-len(c.first))
	c.first = nil
	return n, err
}

// explained says what an alert of the other side means that does not accept a certificate,
// which proves nothing but the secret.
func explained(err error) error {
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" && strings.Contains(err.Error(), "bad certificate") {
		return fmt.Errorf("%w (%v)", errProof, err)
	}
	return err
}
