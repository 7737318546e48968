package ownaddr

import (
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// The system sends from temporary addresses of IPv6 where it has any (RFC 8981). They are
// gone after some days, and so are no use to others.

// lasting asks for a source address that lasts.
func lasting(d *net.Dialer) {
	const addrPreferences, preferPublic = 72, 2 // of linux/in6.h
	d.Control = func(network, _ string, conn syscall.RawConn) (err error) {
		if !strings.HasSuffix(network, "6") {
			return nil
		}
		return conn.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, addrPreferences, preferPublic) // or else any
		})
	}
}

// temporary are the addresses that do not last.
func temporary() map[netip.Addr]bool {
	const isTemporary = 1 // IFA_F_TEMPORARY
	found := map[netip.Addr]bool{}
	table, _ := os.ReadFile("/proc/net/if_inet6") // absent where there is no IPv6
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line) // address, interface, prefix, scope, flags, name
		if len(fields) < 5 {
			continue
		}
		ip, _ := hex.DecodeString(fields[0])
		flags, _ := strconv.ParseUint(fields[4], 16, 32)
		if addr, ok := netip.AddrFromSlice(ip); ok && flags&isTemporary != 0 {
			found[addr] = true
		}
	}
	return found
}
