// Package ownaddr finds the address at which others reach this host, for what listens on
// all of its addresses and has to tell them one.
//
// Choose is the decision, over what a [Host] knows; [Local] is this host. An address that
// means something on this host or on one link alone (loopback, link-local) is no answer,
// but for loopback where that is how the others are reached.
package ownaddr

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Host is what is known of a host.
type Host struct {
	// Source is the address from which the host sends to another; invalid: by no route.
	Source func(to netip.Addr) netip.Addr
	Addrs  []netip.Addr // of its interfaces that are up
}

// AmbiguousError tells that nothing says which address is meant.
type AmbiguousError struct {
	Addrs []netip.Addr // those that others could reach; there may be none
}

func (e *AmbiguousError) Error() string {
	if len(e.Addrs) == 0 {
		return "this host has no address that others can reach"
	}
	return fmt.Sprintf("no route tells by which of its addresses others reach this host: %s", strings.Trim(fmt.Sprint(e.Addrs), "[]"))
}

// outside stands for where the default routes lead: addresses for documentation (RFC 5737
// and 3849), to which nothing is sent.
var outside = [...]string{"192.0.2.1", "2001:db8::1"}

// Choose returns the source address towards the first of others to which there is a route,
// or else that of the default route, of IPv4 before IPv6, or else the only address that
// the host has. v4 asks for one of IPv4.
func (h Host) Choose(others []netip.Addr, v4 bool) (netip.Addr, error) {
	fits := func(a netip.Addr) bool { return a.IsGlobalUnicast() && (a.Is4() || !v4) }
	sources := make([]netip.Addr, 0, len(others)+len(outside))
	for _, to := range others {
		sources = append(sources, h.Source(to))
	}
	towardsOthers := sources
	for _, to := range outside {
		sources = append(sources, h.Source(netip.MustParseAddr(to)))
	}
	if i := slices.IndexFunc(sources, fits); i >= 0 {
		return sources[i], nil
	}
	all := slices.DeleteFunc(slices.Clone(h.Addrs), func(a netip.Addr) bool { return !fits(a) })
	slices.SortFunc(all, netip.Addr.Compare) // those of IPv4 come first
	all = slices.Compact(all)
	if n := len(all); n == 1 || n > 1 && all[0].Is4() && !all[1].Is4() {
		return all[0], nil
	}
	if i := slices.IndexFunc(towardsOthers, func(a netip.Addr) bool { return a.IsLoopback() && (a.Is4() || !v4) }); i >= 0 {
		return towardsOthers[i], nil // all of them are on this host
	}
	return netip.Addr{}, &AmbiguousError{all}
}

// Local is this host as it is now.
func Local() Host { return Host{Source: source, Addrs: interfaceAddrs()} }

// source asks the routing table: to connect a UDP socket sends nothing.
func source(to netip.Addr) netip.Addr {
	var d net.Dialer
	lasting(&d)
	conn, err := d.Dial("udp", netip.AddrPortFrom(to, 9).String())
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

func interfaceAddrs() (addrs []netip.Addr) {
	passing := temporary()
	interfaces, _ := net.Interfaces() // or there are none that are known
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		nets, _ := i.Addrs()
		for _, n := range nets {
			if prefix, err := netip.ParsePrefix(n.String()); err == nil && !passing[prefix.Addr()] {
				addrs = append(addrs, prefix.Addr().Unmap())
			}
		}
	}
	return addrs
}

// Resolve returns what the hosts of addresses, host:port, mean now, in their order. One
// that cannot be looked up soon is left out.
func Resolve(addrs []string, lookup func(ctx context.Context, host string) ([]string, error)) (resolved []netip.Addr) {
	const soon = 2 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	for _, addr := range addrs {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			continue
		}
		texts := []string{host}
		if _, err := netip.ParseAddr(host); err != nil {
			texts, _ = lookup(ctx, host)
		}
		for _, text := range texts {
			if ip, err := netip.ParseAddr(text); err == nil {
				resolved = append(resolved, ip.Unmap())
			}
		}
	}
	return resolved
}

// IsWildcard reports whether the host of addr, host:port, is empty or stands for all
// addresses.
func IsWildcard(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip, _ := netip.ParseAddr(host)
	return err == nil && (host == "" || ip.IsValid() && ip.IsUnspecified())
}

// IsV4 reports whether what listens at addr is reached by IPv4 alone.
func IsV4(addr net.Addr) bool {
	host, _, _ := net.SplitHostPort(addr.String())
	ip, _ := netip.ParseAddr(host)
	return ip.Is4()
}
