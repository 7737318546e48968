package serf

import (
	"net"
	"testing"

	"github.com/hashicorp/serf/serf"
)

// A name that means another address as well is tried again: the rest may be there.
func TestAnAddressIsKnownWhenAllThatItMeansIs(t *testing.T) {
	g := &Gossip{ctx: t.Context()}
	members := []serf.Member{{Addr: net.IPv4(127, 0, 0, 1), Port: 7946}, {Addr: net.IPv6loopback, Port: 7946}, {Addr: net.IPv4(127, 0, 0, 2), Port: 7947}}
	for addr, want := range map[string]bool{
		"127.0.0.1:7946":  true,
		"127.0.0.1:7947":  false,
		"127.0.0.3:7946":  false,
		"[::1]:7946":      true,
		"localhost:7946":  true,
		"localhost:7947":  false,
		"not a name:7946": false,
	} {
		if got := g.isOf(members, addr); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if g.isOf(members[1:], "127.0.0.1:7946") {
		t.Error("nobody is there")
	}
}
