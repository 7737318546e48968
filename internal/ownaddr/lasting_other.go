//go:build !linux

package ownaddr

import (
	"net"
	"net/netip"
)

func lasting(*net.Dialer) {}

func temporary() map[netip.Addr]bool { return nil }
