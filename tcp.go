package kvraft

import (
	"context"
	"net"
)

// tcp is the default network.
type tcp struct{}

func (tcp) Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

func (tcp) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// advertised is the address under which peers reach a node that was told to
// listen on addr: the name it was told, since names are resolved at each dial;
// for a wildcard the interface with the route out, or else loopback.
func advertised(addr string, listener net.Addr) string {
	_, port, err := net.SplitHostPort(listener.String())
	if err != nil {
		return listener.String()
	}
	host, _, _ := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = outgoingIP()
	}
	return net.JoinHostPort(host, port)
}

// outgoingIP asks the routing table; connecting a UDP socket sends nothing.
// 192.0.2.1 is reserved for documentation (RFC 5737).
func outgoingIP() string {
	conn, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		return "127.0.0.1"
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}
