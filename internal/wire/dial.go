package wire

import (
	"context"
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
	connecting, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	raw, err := p.config.Network.Dial(connecting, addr)
	if p.ctx.Err() != nil { // whether or not it ended the dialing
		if err == nil {
			raw.Close()
		}
		return nil, Welcome{}, net.ErrClosed
	}
	if err != nil {
		return nil, Welcome{}, err
	}
	conn, err := p.track(p.config.Security.Dialed(raw, addr), func() {})
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

// Ping connects to a node, or with an empty id to whoever is at the address, and hangs up.
func (p *Port) Ping(ctx context.Context, to roster.Peer) (Welcome, error) {
	conn, who, err := p.Dial(ctx, to.Addr, ForRPC, to.Server)
	if err != nil {
		return who, err
	}
	_ = conn.Close() // it has answered, whatever becomes of the connection
	return who, nil
}
