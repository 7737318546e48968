// Package connlimit bounds how many connections a listener has open: in all, so that
// descriptors are left for the rest of the process, and from one host, so that no host
// takes them all.
//
// A Limiter has no goroutine; one mutex guards its counts. Its methods may be called
// from any goroutine.
package connlimit

import (
	"fmt"
	"net"
	"sync"
)

// A Limiter counts connections.
type Limiter struct {
	total, perHost int

	mu    sync.Mutex
	open  int            // guarded by mu
	hosts map[string]int // guarded by mu: of the connections that are open
}

// New returns a Limiter of so many connections in all, and from one host.
func New(total, perHost int) *Limiter {
	return &Limiter{total: total, perHost: perHost, hosts: make(map[string]int)}
}

// Enter counts a connection from an address until leave is called, once. The error
// says which limit refuses it.
func (l *Limiter) Enter(from net.Addr) (leave func(), err error) {
	host := hostOf(from)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.open >= l.total:
		return nil, fmt.Errorf("too many connections: %d are open", l.open)
	case l.hosts[host] >= l.perHost:
		return nil, fmt.Errorf("too many connections from %s: %d are open", host, l.hosts[host])
	}
	l.open++
	l.hosts[host]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.open--
		if l.hosts[host]--; l.hosts[host] == 0 {
			delete(l.hosts, host)
		}
	}, nil
}

func hostOf(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}

// Within returns the smaller of most and a share, 1/part, of the files that this
// process may have open, as far as the system tells.
func Within(most, part int) int {
	files, ok := maxFiles()
	if !ok || files/uint64(part) >= uint64(most) {
		return most
	}
	return int(files) / part
}
