package main

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/kvraft/kvraft"
)

func TestFlagsHaveTheirDefaults(t *testing.T) {
	c, err := parseFlags([]string{"dir"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if c.dir != "dir" || c.haddr.value != "localhost:11000" || c.raddr.value != "localhost:12000" || c.id.given || c.join != nil || c.inMem || c.verbose ||
		c.expect != 1 || c.replica || c.leave || c.mirror != "" || c.gossip.addr != "" || c.gossip.join != nil || c.gossip.after != 10*time.Minute {
		t.Errorf("%+v", c)
	}
}

func TestEveryFlagHasItsOtherNames(t *testing.T) {
	for _, args := range [][]string{
		{"-id", "a", "-haddr", ":1", "-raddr", ":2", "-v", "-inmem", "dir"},
		{"-node", "a", "-client", ":1", "-bind", ":2", "--verbose", "--inmem"},
		{"-id", "a", "-node", "a", "-haddr", ":1", "-client", ":1", "-raddr", ":2", "-bind", ":2", "-v", "-verbose", "-inmem", "dir"},
	} {
		c, err := parseFlags(args, io.Discard)
		if err != nil {
			t.Errorf("%q: %v", args, err)
		}
		if c.id.value != "a" || c.haddr.value != ":1" || c.raddr.value != ":2" || !c.verbose || !c.inMem {
			t.Errorf("%q: %+v", args, c)
		}
	}
}

func TestJoinTakesSeveralAddressesAndCompletesThem(t *testing.T) {
	c, err := parseFlags([]string{"-join", ":11000,host:1, 0.0.0.0:2", "-join", "[::]:3,[::1]:4", "-join", "dns://kvd:5", "dir"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if want := (addrs{"localhost:11000", "host:1", "localhost:2", "localhost:3", "[::1]:4", "dns://kvd:5"}); !slices.Equal(c.join, want) {
		t.Errorf("have %q, want %q", c.join, want)
	}
	for _, bad := range []string{"", "host", "host:", ":1,", "http://host:1", "dns://:1", "dns://kvd",
		"host:0", "host:99999", "host:080", "host:-1", "host:http", "dns://kvd:0"} {
		if _, err := parseFlags([]string{"-join", bad, "dir"}, io.Discard); err == nil {
			t.Errorf("-join %q: no error", bad)
		}
	}
}

func TestAsManyAreExpectedAsPackageKvraftTakes(t *testing.T) {
	for n, ok := range map[string]bool{fmt.Sprint(maxExpect): true, fmt.Sprint(maxExpect + 1): false} {
		c, err := parseFlags([]string{"-inmem", "-bootstrap-expect", n, "-join", "localhost:1"}, io.Discard)
		if (err == nil) != ok {
			t.Errorf("-bootstrap-expect %s: %v", n, err)
		}
		store, err := kvraft.Open("", kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"), kvraft.WithJoin("127.0.0.1:1"), kvraft.WithBootstrapExpect(c.expect))
		if (err == nil) != ok {
			t.Errorf("WithBootstrapExpect(%s): %v", n, err)
		}
		if err == nil {
			store.Close()
		}
	}
}

func TestTheSameAddressIsOnePort(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"localhost:4001", "localhost:4001", true},
		{":4001", ":4001", true},
		{"no-such-host.invalid:4001", "no-such-host.invalid:4001", true}, // listening tells what is wrong with it
		{"localhost:4001", "127.0.0.1:4001", true},
		{"[::1]:4001", "[0:0::1]:4001", true},
		{"localhost:4001", "localhost:4002", false},
		{"127.0.0.1:4001", "127.0.0.2:4001", false},
		{"localhost:0", "localhost:0", false},
		{"localhost:4001", "no-such-host.invalid:4001", false},
	} {
		if got := same(c.a, c.b); got != c.want {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
}
