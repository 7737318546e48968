package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/kvraft/kvraft"
)

const recoverUsage = `Usage: kvd recover [-n] [-raddr ADDRESS] DIR

Makes the node in DIR, which must be stopped, the only member of a new cluster,
with the data that it has. It is for when a majority of the members is lost for
good: what others acknowledged and this node had not yet received is lost. With -n
it shows what would be kept and what lost, and changes nothing: of several survivors
choose the one whose log ends at the highest term, and among those at the highest
index. If the last write to a log is not whole, it says so: another may have it.

Versions go on after a gap, so that none that a lost write had is given again.
Afterwards start the node as always; it remembers a new address. Empty the
directories of the others, and let them join it.

`

// recoverNode returns the exit code.
func recoverNode(args []string) int {
	fs := flag.NewFlagSet("kvd recover", flag.ContinueOnError)
	dry := fs.Bool("n", false, "show what would be kept and what lost, and change nothing")
	addr := fs.String("raddr", "", "`address` under which others will reach the node (default: the one it had)")
	dir, code := parseDir(fs, recoverUsage, args)
	if dir == "" {
		return code
	}
	var opts []kvraft.Option
	if *addr != "" {
		if !isDialable(*addr) {
			fmt.Fprintf(os.Stderr, "-raddr %s: want host:port, with a port from 1 to 65535; kvd recover -h tells more\n", *addr)
			return 2
		}
		if _, err := readMemory(fs.Arg(0)); err != nil { // while nothing is changed
			fmt.Fprintln(os.Stderr, "kvd:", plain(err.Error()))
			return 1
		}
		opts = append(opts, kvraft.WithAdvertise(*addr))
	}
	do := kvraft.Recover
	if *dry {
		do = kvraft.Examine
	}
	r, err := do(dir, opts...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kvd:", plain(err.Error()))
		return 1
	}
	fmt.Println(r)
	if *dry {
		fmt.Println("Nothing was changed.")
		return 0
	}
	fmt.Printf("Cluster %s is formed with %s, at %s, alone.\n", r.Cluster, r.ID, r.Addr)
	if *addr == "" {
		return 0
	}
	if err := rememberMoved(fs.Arg(0), *addr); err != nil {
		fmt.Fprintln(os.Stderr, "kvd: that address is not remembered, give it to the node as -raddr:", err)
		return 1
	}
	return 0
}
