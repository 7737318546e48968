package ownaddr

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func addrs(list string) (all []netip.Addr) {
	for text := range strings.FieldsSeq(list) {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// host has addresses, and routes: "prefix source".
func host(list string, routes ...string) Host {
	return Host{Addrs: addrs(list), Source: func(to netip.Addr) netip.Addr {
		for _, route := range routes {
			prefix, source, _ := strings.Cut(route, " ")
			if netip.MustParsePrefix(prefix).Contains(to.WithZone("")) {
				return netip.MustParseAddr(source)
			}
		}
		return netip.Addr{}
	}}
}

func TestAHostTellsTheAddressByWhichItReachesTheOthers(t *testing.T) {
	const (
		lo4, lo6 = "127.0.0.0/8 127.0.0.1", "::1/128 ::1"
		net10    = "10.0.0.0/8 10.0.0.5"
		netFD    = "fd00::/16 fd00::5"
		out4     = "0.0.0.0/0 192.168.1.5"
		out6     = "::/0 2001:db9::5"
	)
	for name, c := range map[string]struct {
		host   Host
		others string
		v4     bool
		want   string // empty: it is ambiguous
	}{
		"nothing but a default route":                {host("192.168.1.5 172.17.0.1", lo4, out4), "", false, "192.168.1.5"},
		"the private network of the others":          {host("192.168.1.5 10.0.0.5", lo4, net10, out4), "10.0.0.1", false, "10.0.0.5"},
		"the first of the others that has a route":   {host("192.168.1.5 10.0.0.5", lo4, net10), "203.0.113.1 10.0.0.1", false, "10.0.0.5"},
		"the others, by IPv6":                        {host("192.168.1.5 fd00::5", lo4, lo6, netFD, out4), "fd00::1", false, "fd00::5"},
		"itself among the others, as loopback":       {host("192.168.1.5 10.0.0.5", lo4, net10, out4), "127.0.1.1 10.0.0.1", false, "10.0.0.5"},
		"others on this host, and a way out":         {host("192.168.1.5", lo4, out4), "127.0.0.1", false, "192.168.1.5"},
		"others on this host, and nothing else":      {host("127.0.0.1 ::1", lo4, lo6), "::1", false, "::1"},
		"IPv6 alone":                                 {host("2001:db9::5 fd00::5 fe80::5", lo6, out6), "", false, "2001:db9::5"},
		"IPv4 before IPv6":                           {host("192.168.1.5 2001:db9::5", lo4, lo6, out4, out6), "", false, "192.168.1.5"},
		"no route, one address of IPv6":              {host("::1 fe80::5 fd00::5", lo6), "", false, "fd00::5"},
		"no route, one address of each":              {host("127.0.0.1 10.0.0.5 fd00::5 fe80::5", lo4), "", false, "10.0.0.5"},
		"no route, one address of IPv4 among others": {host("10.0.0.5 fd00::5 fd01::5", lo4), "", false, "10.0.0.5"},
		"no route, an address on two interfaces":     {host("10.0.0.5 10.0.0.5", lo4), "", false, "10.0.0.5"},
		"no route, two addresses":                    {host("10.0.0.5 10.1.0.5", lo4), "", false, ""},
		"no route, two addresses of IPv6":            {host("fd00::5 fd01::5", lo6), "", false, ""},
		"loopback alone":                             {host("127.0.0.1 ::1", lo4, lo6), "", false, ""},
		"an address of a link alone":                 {host("::1 fe80::5 169.254.1.1", lo6, "fe80::/10 fe80::5%eth0"), "fe80::1%eth0", false, ""},
		"a listener of IPv4, others by IPv6":         {host("192.168.1.5 fd00::5", lo4, lo6, netFD, out4), "fd00::1", true, "192.168.1.5"},
		"a listener of IPv4, on a host of IPv6":      {host("fd00::5", lo6, netFD, out6), "fd00::1", true, ""},
		"a listener of IPv4, others on this host":    {host("127.0.0.1", lo4, lo6), "::1 127.0.0.1", true, "127.0.0.1"},
		"others to whom there is no route":           {host("192.168.1.5", lo4, out4), "fd00::1", false, "192.168.1.5"},
	} {
		got, err := c.host.Choose(addrs(c.others), c.v4)
		switch {
		case c.want == "":
			if !errors.As(err, new(*AmbiguousError)) {
				t.Errorf("%s: %v, %v, want none", name, got, err)
			}
		case err != nil || got.String() != c.want:
			t.Errorf("%s: %v, %v, want %s", name, got, err, c.want)
		}
	}
}

func TestAHostWithSeveralAddressesNamesThem(t *testing.T) {
	for list, want := range map[string]string{
		"fd00::5 fd01::5 fe80::5": "no route tells by which of its addresses others reach this host: fd00::5 fd01::5",
		"127.0.0.1 ::1":           "this host has no address that others can reach",
	} {
		if _, err := host(list).Choose(nil, false); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %q", list, err, want)
		}
	}
}

func TestNamesAreLookedUpAndThoseThatCannotBeAreLeftOut(t *testing.T) {
	lookup := func(_ context.Context, host string) ([]string, error) {
		if host == "a" {
			return []string{"10.0.0.1", "fd00::1"}, nil
		}
		return nil, errors.New("no such host")
	}
	got := Resolve([]string{"[fe80::1%eth0]:1", "b:1", "a:1", "nonsense", "::ffff:10.0.0.2", "[::ffff:10.0.0.2]:1"}, lookup)
	if want := addrs("fe80::1%eth0 10.0.0.1 fd00::1 10.0.0.2"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestThisHostReachesItselfByLoopback(t *testing.T) {
	h := Local()
	if from := h.Source(netip.MustParseAddr("127.0.0.1")); !from.IsLoopback() {
		t.Errorf("from %v", from)
	}
	if !slices.ContainsFunc(h.Addrs, netip.Addr.IsLoopback) {
		t.Errorf("its addresses are %v", h.Addrs)
	}
}
