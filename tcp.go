package kvraft

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/kvraft/kvraft/internal/ownaddr"
)

// tcp is the default network.
type tcp struct{}

func (tcp) Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

func (tcp) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// advertised is the address under which peers reach a node that was told to listen on
// addr: the name it was told, since names are resolved at each dial; for a wildcard the
// address by which this host reaches those that it is to join, or see package ownaddr.
func (o *options) advertised(this ownaddr.Host) (string, error) {
	listener := o.listener.Addr()
	_, port, err := net.SplitHostPort(listener.String())
	if err != nil {
		return listener.String(), nil
	}
	if !ownaddr.IsWildcard(o.addr) {
		host, _, _ := net.SplitHostPort(o.addr)
		return net.JoinHostPort(host, port), nil
	}
	var others []string
	for _, addr := range o.join {
		others = append(others, strings.TrimPrefix(addr, dnsPrefix))
	}
	ip, err := this.Choose(ownaddr.Resolve(others, o.lookupHost), ownaddr.IsV4(listener))
	if err != nil {
		return "", fmt.Errorf("%w: WithAddr %q: %w; name one, or use WithAdvertise", ErrInvalid, o.addr, err)
	}
	return net.JoinHostPort(ip.String(), port), nil
}
