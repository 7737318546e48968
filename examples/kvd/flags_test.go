package main

import (
	"io"
	"slices"
	"testing"
)

func TestFlagsHaveTheirDefaults(t *testing.T) {
	c, err := parseFlags([]string{"dir"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if c.dir != "dir" || c.haddr.value != "localhost:11000" || c.raddr.value != "localhost:12000" || c.id.given || c.join != nil || c.inMem || c.verbose {
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
	c, err := parseFlags([]string{"-join", ":11000,host:1, 0.0.0.0:2", "-join", "[::]:3,[::1]:4", "dir"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if want := (addrs{"localhost:11000", "host:1", "localhost:2", "localhost:3", "[::1]:4"}); !slices.Equal(c.join, want) {
		t.Errorf("have %q, want %q", c.join, want)
	}
	for _, bad := range []string{"", "host", "host:", ":1,", "http://host:1"} {
		if _, err := parseFlags([]string{"-join", bad, "dir"}, io.Discard); err == nil {
			t.Errorf("-join %q: no error", bad)
		}
	}
}
