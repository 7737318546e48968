package kvraft

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

// otherNode answers a port as a node that has its place, and knows no other.
type otherNode struct{ Me wire.Self }

func (n otherNode) Self() wire.Self                             { return n.Me }
func (otherNode) Leads() bool                                   { return false }
func (otherNode) IsPlaced() bool                                { return true }
func (otherNode) HasJoined() bool                               { return false }
func (otherNode) ConfiguredAt() string                          { return "" }
func (otherNode) AddressOf(_ raft.ServerID, addr string) string { return roster.DialAddr(addr) }
func (otherNode) TurnAway(wire.Opening) (why, elsewhere string) { return "", "" }
func (otherNode) LosePlace(string)                              {}
func (otherNode) Vouch(dialer wire.Opening) error {
	return fmt.Errorf("node %s is not known", dialer.From)
}
func (otherNode) Samples() []wire.Sample { return nil }

// testLAN is a network without latency. The node at x:1 is on the host x.
func testLAN() *memnet.Network {
	return memnet.New(memnet.WithLatency(0), memnet.WithWindow(1<<30))
}

// testPort gives me a port on lan at addr, closed with the test. It does not accept yet.
func testPort(t testing.TB, lan *memnet.Network, addr string, me wire.Self) *wire.Port {
	t.Helper()
	name, _, _ := strings.Cut(addr, ":")
	host := lan.Host(name)
	listener, err := host.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	p := wire.New(context.Background(), wire.Config{Network: host, Listener: listener, Advertise: addr, Log: hclog.NewNullLogger()}, otherNode{me})
	t.Cleanup(p.Close)
	return p
}

// endWrite ends what the other side reads.
func endWrite(conn net.Conn) {
	if dialed, ok := conn.(*wire.Conn); ok {
		conn = dialed.Conn
	}
	_ = conn.(interface{ CloseWrite() error }).CloseWrite()
}
