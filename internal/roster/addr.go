package roster

import (
	"fmt"
	"net"
	"strings"

	"github.com/kvraft/kvraft/internal/errs"
)

// CheckAddr tells what is wrong with an address, which a text calls what.
func CheckAddr(what, addr string) error {
	if _, _, err := net.SplitHostPort(addr); err != nil || len(addr) > maxAddr {
		return fmt.Errorf("%w: %s %.100q: want host:port, of at most %d bytes", errs.Invalid, what, addr, maxAddr)
	}
	return nil
}

// CheckReachable is CheckAddr for an address that is dialed.
func CheckReachable(what, addr string) error {
	if err := CheckAddr(what, addr); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	if host == "" || ip != nil && ip.IsUnspecified() || port == "" || port == "0" || strings.Contains(addr, "@") {
		return fmt.Errorf("%w: %s %.100q: want a host and a port that others can dial", errs.Invalid, what, addr)
	}
	return nil
}

// maxAddr is the longest name that DNS has, and a port.
const maxAddr = 255 + len(":65535")
