// Package wiretest has ports for tests of what stands on them: on a network in memory,
// without a node behind them.
package wiretest

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

// Node answers a port as a node that has its place, and knows no other.
type Node struct{ Me wire.Self }

func (n Node) Self() wire.Self                             { return n.Me }
func (Node) Leads() bool                                   { return false }
func (Node) IsPlaced() bool                                { return true }
func (Node) HasJoined() bool                               { return false }
func (Node) ConfiguredAt() string                          { return "" }
func (Node) AddressOf(_ raft.ServerID, addr string) string { return roster.DialAddr(addr) }
func (Node) TurnAway(wire.Opening) (why, elsewhere string) { return "", "" }
func (Node) LosePlace(string)                              {}
func (Node) Vouch(dialer wire.Opening) error {
	return fmt.Errorf("node %s is not known", dialer.From)
}
func (Node) Samples() []roster.Sample { return nil }

// LAN is a network without latency. The node at x:1 is on the host x.
func LAN() *memnet.Network {
	return memnet.New(memnet.WithLatency(0), memnet.WithWindow(1<<30))
}

// Port is a port of me on lan at addr, closed with the test. It does not accept yet.
func Port(t testing.TB, lan *memnet.Network, addr string, me wire.Self) *wire.Port {
	t.Helper()
	name, _, _ := strings.Cut(addr, ":")
	host := lan.Host(name)
	listener, err := host.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	p := wire.New(context.Background(), wire.Config{Network: host, Listener: listener, Advertise: addr, Log: hclog.NewNullLogger()}, Node{me})
	t.Cleanup(p.Close)
	return p
}

// CloseWrite ends what the other side reads.
func CloseWrite(conn net.Conn) {
	if dialed, ok := conn.(*wire.Conn); ok {
		conn = dialed.Conn
	}
	_ = conn.(interface{ CloseWrite() error }).CloseWrite()
}
