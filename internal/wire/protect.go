package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
)

// Security is what protects the connections of a port.
//
// A protected connection opens with the magic, of a version of its own, in plain. TLS comes
// behind it, and in that the handshake as in a connection that is not protected. So the two
// kinds are told apart by the first bytes, also from what else comes to a shared port. Those
// bytes decide nothing that the two sides have not decided before: each takes the kinds that
// it was told to.
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
	protected := tls.Server(conn.Conn, security.TLS)
	conn.Conn = protected
	return conn, explained(protected.Handshake())
}

// tellRefusal answers in plain, with nothing but the reason, and returns it.
func tellRefusal(conn net.Conn, reason error) error {
	return errors.Join(reason, writeHandshake(conn, Welcome{Refused: reason.Error()}))
}

// dialProtected does the other side. Its error is errPlainPeer where that is not protected.
func (p *Port) dialProtected(ctx context.Context, conn *Conn) error {
	protected := tls.Client(&opened{Conn: conn.Conn, first: protectedMagic[:]}, p.config.Security.TLS)
	conn.Conn = protected
	err := protected.HandshakeContext(ctx)
	if record := new(tls.RecordHeaderError); errors.As(err, record) && bytes.HasPrefix(magic[:], record.RecordHeader[:]) {
		return errPlainPeer
	}
	return explained(err)
}

// opened is a connection with what is to go before the first write.
type opened struct {
	net.Conn
	first []byte
}

func (o *opened) Write(b []byte) (int, error) {
	if o.first == nil {
		return o.Conn.Write(b)
	}
	n, err := o.Conn.Write(append(bytes.Clone(o.first), b...))
	n = max(0, n-len(o.first))
	o.first = nil
	return n, err
}

// explained says what an alert of the other side means: with one certificate each, which
// proves the secret, there is nothing else to object to.
func explained(err error) error {
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" {
		return fmt.Errorf("%w (%v)", errProof, err)
	}
	return err
}
