package main

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/kvraft/kvraft/internal/ownaddr"
)

// tells is the address that the node tells the others, given where it listens for them;
// empty: it is for the store to say. That would not know the way to those at -join, which
// are addresses of HTTP.
func (c config) tells(peers net.Addr) (string, error) {
	if c.advertise != "" || !ownaddr.IsWildcard(c.raddr.value) {
		return c.advertise, nil
	}
	var others []string
	for _, addr := range slices.Concat(c.join, c.gossip.join) {
		others = append(others, strings.TrimPrefix(addr, dnsPrefix))
	}
	ip, err := ownaddr.Local().Choose(ownaddr.Resolve(others, net.DefaultResolver.LookupHost), ownaddr.IsV4(peers))
	if err != nil {
		return "", fmt.Errorf("-raddr %s: %w; give one with -raddr, or with -advertise", c.raddr.value, err)
	}
	_, port, _ := net.SplitHostPort(peers.String()) // of a TCP listener: it has both
	return net.JoinHostPort(ip.String(), port), nil
}
