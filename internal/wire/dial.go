package wire

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

var ErrUnplaced = fmt.Errorf("%w: this node has to be confirmed at its new address", errs.Unsent)

// Dial connects to a node and shakes hands: to the node to, which the
// configuration has at addr, or to whoever is at addr. The connection is the
// caller's to close. An error means that nothing was asked of the other side.
func (p *Port) Dial(ctx context.Context, addr string, purpose string, to raft.ServerID) (*Conn, Welcome, error) {
	if purpose == ForRaft && !p.node.IsPlaced() {
		return nil, Welcome{}, ErrUnplaced
	}
	if to != "" {
		addr = p.node.AddressOf(to, addr)
	}
	return p.dialAt(ctx, roster.DialAddr(addr), purpose, to)
}

func (p *Port) dialAt(ctx context.Context, addr string, purpose string, to raft.ServerID) (*Conn, Welcome, error) {
	conn, err := p.establish(ctx, addr)
	if err != nil {
		return nil, Welcome{}, err
	}
	w, err := p.dialHandshake(ctx, conn, purpose, to)
	if err != nil {
		conn.Close()
		return nil, w, fmt.Errorf("handshake with %s: %w", addr, err)
	}
	if to != "" {
		conn.answers = p.answersOf(to)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	conn.to = to
	return conn, w, nil
}

// establish connects to an address, with protection if the port's connections have it.
func (p *Port) establish(ctx context.Context, addr string) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	conn, err := p.establishPlain(ctx, addr)
	security := p.config.Security
	if err != nil || security == nil {
		return conn, err
	}
	if err = p.dialProtected(ctx, conn); err == nil {
		return conn, nil
	}
	conn.Close()
	if errors.Is(err, errPlainPeer) && security.PlainToo {
		return p.establishPlain(ctx, addr)
	}
	return nil, fmt.Errorf("protect a connection to %s: %w", addr, err)
}

func (p *Port) establishPlain(ctx context.Context, addr string) (*Conn, error) {
	raw, err := p.config.Network.Dial(ctx, addr)
	if p.ctx.Err() != nil { // whether or not it ended the dialing
		if err == nil {
			raw.Close()
		}
		return nil, net.ErrClosed
	}
	if err != nil {
		return nil, err
	}
	return p.track(raw, func() {})
}

// Ping connects to a node, or with an empty id to whoever is at the address, and hangs up.
func (p *Port) Ping(ctx context.Context, to roster.Peer) (Welcome, error) {
	conn, who, err := p.Dial(ctx, to.Addr, ForRPC, to.Server)
	if err != nil {
		return who, err
	}
	_ = conn.Close() // it has answered, whatever becomes of the connection
	return who, nil
}
