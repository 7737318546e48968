package main

import (
	"net"
	"strings"
	"testing"
)

func TestAnAddressOnLoopbackIsNoUseToAnotherMachine(t *testing.T) {
	for _, c := range []struct {
		theirs, mine string
		says         string
	}{
		{"host1:12000", "host2:12000", ""},
		{"10.0.0.1:12000", ":12000", ""},
		{"localhost:12000", "host2:12000", "node n1 tells that its peers reach it at localhost:12000"},
		{"127.0.0.1:12000", "localhost:12000", "node n1 tells that its peers reach it at 127.0.0.1:12000"},
		{"[::1]:12000", "[::]:12000", "start it with -raddr"},
		{"host1:12000", "localhost:12000", "start this one with -raddr"},
		{"host1:12000", "127.0.0.2:12000", "this node tells that its peers reach it at 127.0.0.2:12000"},
	} {
		err := checkTold("n1", c.theirs, c.mine)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s and %s: %v, want %q", c.theirs, c.mine, err, c.says)
		}
	}
}

func TestAConnectionToAnotherAddressThanItComesFromLeadsElsewhere(t *testing.T) {
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	for _, c := range []struct {
		local, remote string
		want          bool
	}{
		{"10.0.0.2", "10.0.0.1", true},
		{"fd00::2", "fd00::1", true},
		{"10.0.0.1", "10.0.0.1", false},
		{"127.0.0.1", "127.0.0.2", false},
		{"::1", "::1", false},
	} {
		if got := isElsewhere(at(c.local), at(c.remote)); got != c.want {
			t.Errorf("from %s to %s: %v, want %v", c.local, c.remote, got, c.want)
		}
	}
}
