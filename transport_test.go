package kvraft

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/kvraft/kvraft/internal/ownaddr"
)

func TestTheDefaultNetworkIsTCP(t *testing.T) {
	listener, err := tcp{}.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	far, err := tcp{}.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near.Close()
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the other side has closed, and: %v", err)
	}
	listener.Close()
	if _, err := (tcp{}).Dial(t.Context(), addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a node that is gone: %v, want a refused connection", err)
	}
}

// addrOf is a network's address.
func addrOf(addr string) net.Addr { return &net.UnixAddr{Name: addr} }

// listensAt is a listener that says so.
type listensAt struct {
	net.Listener
	addr net.Addr
}

func (l listensAt) Addr() net.Addr { return l.addr }

func TestANodeAdvertisesTheNameItWasToldButNoWildcard(t *testing.T) {
	this := ownaddr.Host{ // it reaches 10.x from 10.0.0.5, and has no default route
		Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.0.6")},
		Source: func(to netip.Addr) netip.Addr {
			if netip.MustParsePrefix("10.0.0.0/8").Contains(to) {
				return netip.MustParseAddr("10.0.0.5")
			}
			return netip.Addr{}
		},
	}
	for _, c := range []struct {
		told, listens string
		join          []string
		want          string // empty: it is refused
	}{
		{"127.0.0.1:7000", "127.0.0.1:7000", nil, "127.0.0.1:7000"},
		{"10.1.2.3:0", "10.1.2.3:41234", nil, "10.1.2.3:41234"},
		{"[2001:db8::1]:7000", "[2001:db8::1]:7000", nil, "[2001:db8::1]:7000"},
		{"node-7.local:7000", "10.1.2.3:7000", nil, "node-7.local:7000"},
		{"/run/kvraft.sock", "/run/kvraft.sock", nil, "/run/kvraft.sock"},
		{":0", "[::]:7000", []string{"10.0.0.1:7000"}, "10.0.0.5:7000"},
		{"0.0.0.0:7000", "[::]:7000", []string{"dns://members:7000"}, "10.0.0.5:7000"},
		{"[::]:7000", "[::]:7000", []string{"[fd00::1]:7000"}, ""},
		{":7000", "[::]:7000", nil, ""},
	} {
		o := options{addr: c.told, listener: listensAt{addr: addrOf(c.listens)}, join: c.join, network: named{}}
		switch got, err := o.advertised(this); {
		case got != c.want:
			t.Errorf("told %s, listening on %s, a node advertises %s, %v, want %s", c.told, c.listens, got, err, c.want)
		case c.want == "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "10.0.0.5 10.0.0.6; name one, or use WithAdvertise")):
			t.Errorf("told %s: %v", c.told, err)
		}
	}
}

// named is a network on which members has an address.
type named struct{ tcp }

func (named) LookupHost(context.Context, string) ([]string, error) { return []string{"10.0.0.1"}, nil }
