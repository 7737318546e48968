package main

import (
	"bufio"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// isNew reports whether no node has been started in dir.
func isNew(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, memoryFile))
	return err != nil && !hasData(dir)
}

// hasData reports whether there is a node's data in dir, whole or not: each start makes
// raft.db before it remembers flags.
func hasData(dir string) bool {
	for _, name := range []string{"raft.db", "raft.log", "snapshots"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// ask asks on out what a new node is to be, and sets the flags to the answers.
func ask(in io.Reader, out io.Writer, flags *flag.FlagSet, dir string) error {
	q := questions{bufio.NewScanner(in), out, dir}
	host, err := q.until("Enter hostname: [localhost] ", "localhost", checkHost)
	if err != nil {
		return err
	}
	port, err := q.until("Enter port: [4001] ", "4001", checkPort)
	if err != nil {
		return err
	}
	addr := net.JoinHostPort(host, port)
	fmt.Fprintf(out, "Name: %s\n\nThis node is new. Name a member of the cluster that it shall join, or press\nEnter to form one.\n",
		cmp.Or(flags.Lookup("id").Value.String(), addr))
	join, err := q.until("Join to (host:port)> ", "", func(answer string) error { return checkJoin(answer, addr) })
	if err != nil {
		return err
	}
	err = errors.Join(flags.Set("haddr", addr), flags.Set("raddr", addr))
	if join != "" {
		err = errors.Join(err, flags.Set("join", join))
	}
	return err
}

// questions are asked on a terminal or of a pipe.
type questions struct {
	answers *bufio.Scanner
	out     io.Writer
	dir     string
}

// until repeats a question until check takes the answer. An empty one is fallback.
func (q questions) until(question, fallback string, check func(string) error) (string, error) {
	for {
		fmt.Fprint(q.out, question)
		if !q.answers.Scan() {
			fmt.Fprintln(q.out)
			err := cmp.Or(q.answers.Err(), io.EOF)
			return "", fmt.Errorf("-prompt: no answer to %q: %w; nothing was written to %s", strings.TrimSpace(question), err, q.dir)
		}
		answer := cmp.Or(strings.TrimSpace(q.answers.Text()), fallback)
		err := check(answer)
		if err == nil {
			return answer, nil
		}
		fmt.Fprintln(q.out, err)
	}
}

// hostname does not end in a number: that would be a port, or a damaged IP address.
var hostname = regexp.MustCompile(`^([\pL\pN_-]+\.)*[\pN_-]*\pL[\pL\pN_-]*$`)

func checkHost(host string) error {
	ip := net.ParseIP(host)
	switch {
	case ip != nil && ip.IsUnspecified():
		return fmt.Errorf("%s: want an address by which the others reach this node", host)
	case ip == nil && !hostname.MatchString(host):
		return fmt.Errorf("%q: want a host name or an IP address, without a port", host)
	}
	return nil
}

func checkPort(port string) error {
	if !isPort(port) {
		return fmt.Errorf("%q: want a number from 1 to 65535", port)
	}
	return nil
}

// checkJoin wants a list of others than self, which may be among them.
func checkJoin(list, self string) error {
	if list == "" {
		return nil
	}
	var join addrs
	if err := join.Set(list); err != nil {
		return err
	}
	if !slices.ContainsFunc(join, func(addr string) bool { return !same(addr, self) }) {
		return errors.New("that is this node itself")
	}
	return nil
}
