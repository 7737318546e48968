package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
)

const usage = `Usage: kvd [flags] DIR

Runs one node of a replicated key-value store on the data in DIR. The first node
founds a cluster; with -join a node asks to be admitted to one. A later start on
the same DIR goes on from there. Flags come before DIR.

`

// errNoDir has an exit code of its own. The words are hraftd's.
//
//lint:ignore ST1005 they begin with a capital
var errNoDir = errors.New("No Raft storage directory specified")

// config is the command line.
type config struct {
	dir     string
	id      setting
	haddr   setting
	raddr   setting
	join    addrs
	inMem   bool
	verbose bool
}

// parseFlags has told the user on out what is wrong when it returns an error.
func parseFlags(args []string, out io.Writer) (config, error) {
	c := config{haddr: setting{value: "localhost:11000"}, raddr: setting{value: "localhost:12000"}}
	fs := flag.NewFlagSet("kvd", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.Usage = func() { fmt.Fprint(out, usage); fs.PrintDefaults() }
	fs.Var(&c.id, "id", "`name` of the node, kept in DIR (default: the address its peers reach it at)")
	fs.Var(&c.haddr, "haddr", "`address` of the HTTP API")
	fs.Var(&c.raddr, "raddr", "`address` for the other nodes")
	fs.Var(&c.id, "node", "the same as -id")
	fs.Var(&c.haddr, "client", "the same as -haddr")
	fs.Var(&c.raddr, "bind", "the same as -raddr")
	fs.Var(&c.join, "join", "HTTP `addresses` of members to ask for admission, host:port[,host:port...]")
	fs.BoolVar(&c.inMem, "inmem", false, "keep everything in memory; DIR is not used and may be left out")
	fs.BoolVar(&c.verbose, "v", false, "log everything that raft does")
	fs.BoolVar(&c.verbose, "verbose", false, "the same as -v")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	c.dir = fs.Arg(0)
	var err error
	switch {
	case fs.NArg() > 1:
		err = fmt.Errorf("one directory is expected, after the flags; do not know what to do with %q", fs.Args()[1:])
	case c.dir == "" && !c.inMem:
		err = errNoDir
	}
	if err != nil {
		fmt.Fprintln(out, err)
		fs.Usage()
	}
	return c, err
}

// setting is a string with several flags, which may not contradict each other.
type setting struct {
	value string
	given bool
}

func (s *setting) String() string { return s.value }

func (s *setting) Set(value string) error {
	if s.given && value != s.value {
		return fmt.Errorf("it was already given as %q", s.value)
	}
	s.value, s.given = value, true
	return nil
}

// addrs is a list of addresses, in one flag or in several.
type addrs []string

func (a *addrs) String() string { return strings.Join(*a, ",") }

func (a *addrs) Set(list string) error {
	for addr := range strings.SplitSeq(list, ",") {
		host, port, err := net.SplitHostPort(strings.TrimSpace(addr))
		if err != nil || port == "" {
			return fmt.Errorf("%q: want host:port", addr)
		}
		*a = append(*a, net.JoinHostPort(orLocalhost(host), port))
	}
	return nil
}

// orLocalhost is the host by which this machine reaches what listens on host.
func orLocalhost(host string) string {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "localhost"
	}
	return host
}
