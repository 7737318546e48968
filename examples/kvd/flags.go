package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const usage = `Usage: kvd [flags] DIR

       kvd health [ADDRESS]
       kvd help [COMMAND]
       kvd log [flags] DIR
       kvd recover [flags] DIR
       kvd version

Runs one node of a replicated key-value store on the data in DIR. The first node
forms a cluster; with -join a node asks to be admitted to one; with
-bootstrap-expect 3 three that join each other form one together. A later start
on the same DIR goes on from there. The DIR of a stopped hraftd is taken over, for
good: CLUSTERING.md tells how. Flags come before DIR.

kvd health asks the node that serves HTTP at ADDRESS whether it is ready.

kvd log prints what the node in DIR, which must be stopped, has on disk, and verifies
it. kvd log -h tells more.

DIR remembers the flags, but for -v, in kvd.json: kvd DIR alone starts the node again
as it was. Flags that are given count, and are remembered from then on.

Where -haddr and -raddr are the same address, one port serves both.

kvd recover makes the node in DIR, which must be stopped, the only member of a new
cluster, for when a majority is lost for good; kvd recover -h tells more.

A DIR of such a name is written ./log.

The exit code is 0 after SIGINT, SIGTERM or SIGHUP, 2 for a wrong command line, 3 for a node that
was removed from its cluster, which no restart changes, and 1 for any other error.

`

// errNoDir has an exit code of its own. The words are hraftd's.
//
//lint:ignore ST1005 they begin with a capital
var errNoDir = errors.New("No Raft storage directory specified")

// config is the command line.
type config struct {
	dir       string
	id        setting
	haddr     setting
	raddr     setting
	advertise string
	join      addrs
	expect    int
	replica   bool
	leave     bool
	gossip    gossip
	mirror    string
	mode      fileMode // of the mirror's files
	formNew   bool
	inMem     bool
	prompt    bool
	verbose   bool
	version   bool
	onePort   bool          // haddr and raddr are the same
	flags     *flag.FlagSet // with the values of all of these
	memory    memory        // what DIR remembered of them
}

// gossip is how to find and heal by gossip; without an addr not at all.
type gossip struct {
	addr    string
	join    addrs
	keyFile string
	after   time.Duration
	heals   bool // after was given on the command line
}

// maxExpect is the limit of kvraft.WithBootstrapExpect.
const maxExpect = 32

// notFlags is what is wrong with DIR or with an answer, and not with the command line.
type notFlags struct{ error }

// joins reports whether the node looks for others.
func (c config) joins() bool { return len(c.join) > 0 || len(c.gossip.join) > 0 }

// parseFlags has told the user on out what is wrong when it returns an error.
func parseFlags(args []string, out io.Writer) (config, error) {
	fs := flag.NewFlagSet("kvd", flag.ContinueOnError)
	c := config{haddr: setting{value: "localhost:11000"}, raddr: setting{value: "localhost:12000"}, flags: fs}
	fs.SetOutput(out)
	fs.Usage = func() {} // parse errors are one line, which the whole usage would hide
	fs.Var(&c.id, "id", "`name` of the node, kept in DIR (default: the address its peers reach it at)")
	fs.Var(&c.haddr, "haddr", "`address` of the HTTP API")
	fs.Var(&c.raddr, "raddr", "`address` for the other nodes; :12000 listens on all, and tells them the one towards -join")
	fs.StringVar(&c.advertise, "advertise", "", "`address` at which the others reach this node, where that is not -raddr, as behind a NAT")
	fs.Var(&c.id, "node", "the same as -id")
	fs.Var(&c.haddr, "client", "the same as -haddr")
	fs.Var(&c.raddr, "bind", "the same as -raddr")
	fs.Var(&c.join, "join", "HTTP `addresses` of members to ask for admission, host:port[,host:port...]; dns://name:port is all that the name has")
	fs.IntVar(&c.expect, "bootstrap-expect", 1, "form a cluster when `n` empty nodes, 32 at most, have found each other; needs -join or -serf-join, and the same n on all of them")
	fs.BoolVar(&c.replica, "replica", false, "join without a vote: for reads, and not counted for the majority")
	fs.BoolVar(&c.leave, "leave-on-exit", false, "leave the cluster when stopped in order; a later start joins it again")
	fs.StringVar(&c.gossip.addr, "serf", "", "`address` to gossip on, by which nodes find each other and failed ones are removed until they come back")
	fs.Var(&c.gossip.join, "serf-join", "gossip `addresses` of other nodes, of which one that is up is enough, host:port[,host:port...]")
	fs.StringVar(&c.gossip.keyFile, "serf-key-file", "", "`file` with the key that encrypts and authenticates the gossip, the same on all nodes: 16, 24 or 32 bytes in base64")
	fs.DurationVar(&c.gossip.after, "serf-heal", 10*time.Minute, "remove a member that has been failed for this `time`, such as 90s or 10m; 0: the default; negative: never")
	fs.StringVar(&c.mirror, "mirror", "", "keep every key as a file under this `directory`, which is the mirror's own; a/b is the file b in the directory a, and what cannot be a file name is escaped with %")
	fs.Var(&c.mode, "mirror-mode", "`permissions` of the mirror's files, such as 0644, for programs of other users (default 0600)")
	fs.BoolVar(&c.formNew, "form-new", false, "form a new, empty cluster although DIR was a node's whose data are gone; it is not remembered")
	fs.BoolVar(&c.inMem, "inmem", false, "keep everything in memory; DIR is not used and may be left out")
	fs.BoolVar(&c.prompt, "prompt", false, "where DIR is new, ask for the host name and the one port of the node, and whom to join")
	fs.BoolVar(&c.verbose, "v", false, "log everything that raft does")
	fs.BoolVar(&c.verbose, "verbose", false, "the same as -v")
	fs.BoolVar(&c.version, "version", false, "print the version, as kvd version does")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return c, err // help that was asked for is no error: it goes to standard output
	} else if err != nil {
		fmt.Fprintln(out, "kvd -h lists the flags")
		return c, err
	}
	if c.version {
		return c, nil
	}
	c.dir = fs.Arg(0)
	err := c.checkArgs()
	if err == nil && !c.inMem {
		err = c.complete(out)
	}
	if err == nil {
		err = c.check()
	}
	c.onePort = err == nil && same(c.haddr.value, c.raddr.value)
	switch {
	case errors.Is(err, errNoDir):
		fmt.Fprintf(out, "%v\nUsage: kvd [flags] DIR: name a directory for its data, such as ~/node0; kvd -h lists the flags\n", err)
	case errors.As(err, new(notFlags)):
		fmt.Fprintln(out, "kvd:", err)
	case err != nil && c.memory != nil:
		fmt.Fprintf(out, "%v\nkvd -h lists the flags; %s has those that were not given\n", err, filepath.Join(c.dir, memoryFile))
	case err != nil:
		fmt.Fprintf(out, "%v\nkvd -h lists the flags\n", err)
	}
	return c, err
}

// checkArgs judges what does not depend on what DIR remembers.
func (c *config) checkArgs() error {
	c.flags.Visit(func(f *flag.Flag) { c.gossip.heals = c.gossip.heals || f.Name == "serf-heal" })
	switch {
	case c.flags.NArg() > 1:
		return fmt.Errorf("one directory is expected, after the flags; do not know what to do with %q", c.flags.Args()[1:])
	case c.dir == "" && !c.inMem:
		return errNoDir
	case c.prompt && (c.haddr.given || c.raddr.given || len(c.join) > 0 || c.inMem):
		return errors.New("-prompt asks for the addresses, and DIR remembers them: it goes without -haddr, -raddr, -join and -inmem")
	}
	return nil
}

// complete sets the flags that were not given to what DIR remembers, or, where it is
// new, to what the user answers.
func (c *config) complete(out io.Writer) (err error) {
	if c.memory, err = readMemory(c.dir); err == nil {
		err = c.memory.recall(c.dir, c.flags)
	}
	if err == nil && c.prompt && isNew(c.dir) {
		err = ask(os.Stdin, out, c.flags, c.dir)
	}
	if err == nil && c.memory != nil && !hasData(c.dir) && !c.joins() && !c.formNew {
		err = fmt.Errorf("%s remembers a node in %s, but its data are gone, and this start would form a new, empty cluster: put the data back, name members to join with -join, or, if that is meant, say -form-new or empty the directory", memoryFile, c.dir)
	}
	if err != nil {
		return notFlags{err}
	}
	return nil
}

func (c *config) check() (err error) {
	switch {
	case !isAddr(c.haddr.value):
		err = fmt.Errorf("-haddr %s: want host:port", c.haddr.value)
	case !isAddr(c.raddr.value):
		err = fmt.Errorf("-raddr %s: want host:port", c.raddr.value)
	case c.advertise != "" && !isDialable(c.advertise):
		err = fmt.Errorf("-advertise %s: want host:port, with a port from 1 to 65535", c.advertise)
	case c.gossip.addr == "" && len(c.gossip.join) > 0:
		err = errors.New("-serf-join needs -serf")
	case c.gossip.addr == "" && c.gossip.keyFile != "":
		err = errors.New("-serf-key-file needs -serf")
	case c.gossip.addr == "" && c.gossip.heals:
		err = errors.New("-serf-heal needs -serf")
	case c.gossip.addr != "" && !isDialable(c.gossip.addr):
		err = fmt.Errorf("-serf %s: want host:port, with a port from 1 to 65535", c.gossip.addr)
	case c.mirror == "" && c.mode != 0:
		err = errors.New("-mirror-mode needs -mirror")
	case c.expect < 1 || c.expect > maxExpect:
		err = fmt.Errorf("-bootstrap-expect %d: want 1 to %d", c.expect, maxExpect)
	case c.expect > 1 && !c.joins():
		err = fmt.Errorf("-bootstrap-expect %d needs -join or -serf-join, to find the others", c.expect)
	case c.replica && (c.expect > 1 || !c.joins()):
		err = errors.New("-replica needs -join or -serf-join, without -bootstrap-expect: a replica cannot form a cluster")
	}
	return err
}

// parseDir parses the flags of a command that is for one directory. Without a
// directory the command ends with code; the user knows why.
func parseDir(fs *flag.FlagSet, usage string, args []string) (dir string, code int) {
	fs.SetOutput(os.Stderr)
	fs.Usage = func() {} // parse errors are one line, which the whole usage would hide
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		fs.SetOutput(os.Stdout)
		fs.PrintDefaults()
		return "", 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s -h tells more\n", fs.Name())
		return "", 2
	case fs.NArg() != 1 || fs.Arg(0) == "":
		fmt.Fprintf(os.Stderr, "one directory is expected, after the flags, not %q; %s -h tells more\n", fs.Args(), fs.Name())
		return "", 2
	}
	return fs.Arg(0), 0
}

// isAddr reports whether addr can be listened on.
func isAddr(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return false
	}
	_, err = net.LookupPort("tcp", port) // it may have a name
	return err == nil
}

// isDialable reports whether addr has a port that can be dialed.
func isDialable(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	return err == nil && isPort(port)
}

// isPort reports whether port is a number that can be dialed.
func isPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && port[0] != '0' // ports are compared as text
}

// same reports whether two addresses are one, in whatever spelling. Port 0 is another
// one each time.
func same(a, b string) bool {
	_, portA, _ := net.SplitHostPort(a)
	_, portB, _ := net.SplitHostPort(b)
	if portA != portB || portA == "0" || a == b {
		return a == b && portA != "0"
	}
	ipA, errA := net.ResolveTCPAddr("tcp", a)
	ipB, errB := net.ResolveTCPAddr("tcp", b)
	return errA == nil && errB == nil && ipA.IP.Equal(ipB.IP)
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

// dnsPrefix marks a name that stands for all the addresses it has.
const dnsPrefix = "dns://"

// addrs is a list of addresses, in one flag or in several.
type addrs []string

func (a *addrs) String() string { return strings.Join(*a, ",") }

func (a *addrs) Set(list string) error {
	for addr := range strings.SplitSeq(list, ",") {
		name, isName := strings.CutPrefix(strings.TrimSpace(addr), dnsPrefix)
		host, port, err := net.SplitHostPort(name)
		if err != nil || !isPort(port) || isName && host == "" {
			return fmt.Errorf("%q: want host:port, with a port from 1 to 65535", addr)
		}
		addr = net.JoinHostPort(orLocalhost(host), port)
		if isName {
			addr = dnsPrefix + addr
		}
		*a = append(*a, addr)
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
