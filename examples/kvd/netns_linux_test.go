package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// netns is a network namespace: a host of its own, as far as addresses and routes go.
type netns string

// hosts makes two hosts with a link between them, called lan on both, and no address but
// loopback's.
func hosts(t *testing.T) (a, b netns) {
	t.Helper()
	needTools(t, "ip", "curl")
	if os.Getuid() != 0 {
		t.Skip("needs root, for network namespaces")
	}
	a, b = netns(fmt.Sprintf("kvd-%d-a", os.Getpid())), netns(fmt.Sprintf("kvd-%d-b", os.Getpid()))
	for _, ns := range []netns{a, b} {
		if out, err := exec.Command("ip", "netns", "add", string(ns)).CombinedOutput(); err != nil {
			t.Skipf("no network namespaces here: %s", out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("ip", "netns", "del", string(ns)).CombinedOutput(); err != nil {
				t.Errorf("%s", out)
			}
		})
	}
	if out, err := exec.Command("ip", "link", "add", "name", "lan", "netns", string(a), "type", "veth", "peer", "name", "lan", "netns", string(b)).CombinedOutput(); err != nil {
		t.Skipf("no links between network namespaces here: %s", out)
	}
	for _, ns := range []netns{a, b} {
		ns.ip(t, "link set lo up")
		ns.ip(t, "link set lan up")
		if out, err := ns.run("cat", "/proc/sys/net/ipv6/conf/lan/disable_ipv6"); err != nil || strings.TrimSpace(out) != "0" {
			t.Skipf("no IPv6 in network namespaces here: %s, %v", out, err)
		}
	}
	return a, b
}

func (ns netns) ip(t *testing.T, command string) {
	t.Helper()
	args := append([]string{"-n", string(ns)}, strings.Fields(command)...)
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %s", command, out)
	}
}

// in are the arguments of ip that run a command on the host.
func (ns netns) in(args ...string) []string {
	return append([]string{"netns", "exec", string(ns)}, args...)
}

func (ns netns) run(args ...string) (string, error) {
	out, err := exec.Command("ip", ns.in(args...)...).CombinedOutput()
	return string(out), err
}

func TestNodesOnHostsOfIPv6AloneFormAClusterByWildcards(t *testing.T) {
	a, b := hosts(t)
	a.ip(t, "addr add fd77::1/64 dev lan nodad")
	b.ip(t, "addr add fd77::2/64 dev lan nodad")
	dirs := []string{t.TempDir(), t.TempDir()}
	first := startCommand(t, "ip", a.in(kvd, "-id", "n1", "-haddr", ":11000", "-raddr", ":12000", dirs[0])...)
	first.waitOutput("peers reach it at [fd77::1]:12000")
	second := startCommand(t, "ip", b.in(kvd, "-id", "n2", "-haddr", ":11000", "-raddr", "[::]:12000", "-join", "[fd77::1]:11000", dirs[1])...)
	second.waitOutput("peers reach it at [fd77::2]:12000")
	second.waitOutput("was admitted to cluster")
	eventually(t, "n2 to be ready", func() string {
		if out, err := b.run(kvd, "health", "localhost:11000"); err != nil {
			return out
		}
		return ""
	})
	if out, err := b.run("curl", "-sS", "-XPOST", "http://[::1]:11000/key", "-d", `{"foo": "bar"}`); err != nil || out != "" {
		t.Errorf("%s, %v", out, err)
	}
	if out, err := a.run("curl", "-sS", "http://[fd77::2]:11000/key/foo"); err != nil || out != `{"foo":"bar"}` {
		t.Errorf("%s, %v", out, err)
	}
}

func TestNodesOnHostsOfIPv6AloneFindEachOtherByGossip(t *testing.T) {
	a, b := hosts(t)
	a.ip(t, "addr add fd77::1/64 dev lan nodad")
	b.ip(t, "addr add fd77::2/64 dev lan nodad")
	for i, host := range []netns{a, b} {
		args := []string{"-haddr", ":11000", "-raddr", ":12000", "-serf", []string{":7946", "[::]:7946"}[i], "-serf-join", "[fd77::1]:7946,[fd77::2]:7946", "-bootstrap-expect", "2", t.TempDir()}
		node := startCommand(t, "ip", host.in(append([]string{kvd}, args...)...)...)
		node.waitOutput(fmt.Sprintf("peers reach it at [fd77::%d]:12000", i+1))
		defer node.waitOutput("formed cluster")
	}
}

// Addresses for privacy, which last for days.
func TestAWildcardIsNoTemporaryAddress(t *testing.T) {
	a, _ := hosts(t)
	if out, err := a.run("sh", "-c", "cd /proc/sys/net/ipv6/conf/lan && echo 2 >use_tempaddr && echo 0 >accept_dad"); err != nil {
		t.Skipf("no temporary addresses here: %s", out)
	}
	a.ip(t, "addr add fd77::1/64 dev lan mngtmpaddr nodad valid_lft 7200 preferred_lft 3600")
	eventually(t, "a temporary address", func() string {
		out, err := a.run("ip", "-6", "addr", "show", "dev", "lan", "temporary")
		if err != nil || !strings.Contains(out, "fd77:") {
			return out
		}
		return ""
	})
	start := func() *process { return startCommand(t, "ip", a.in(kvd, "-inmem", "-raddr", ":12000")...) }
	withoutRoute := start()
	withoutRoute.waitOutput("peers reach it at [fd77::1]:12000")
	withoutRoute.kill()
	a.ip(t, "-6 route add default dev lan")
	start().waitOutput("peers reach it at [fd77::1]:12000")
}

func TestAWildcardWithoutADefaultRouteIsTheAddressTowardsTheOthersOrRefused(t *testing.T) {
	a, _ := hosts(t)
	alone := startCommand(t, "ip", a.in(kvd, "-inmem", "-raddr", ":12000")...)
	if code := alone.exitCode(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	alone.waitOutput("kvd: -raddr :12000: this host has no address that others can reach; give one with -raddr, or with -advertise")

	a.ip(t, "addr add 10.77.1.1/24 dev lan")
	a.ip(t, "addr add 10.77.2.1/24 dev lan")
	several := startCommand(t, "ip", a.in(kvd, "-inmem", "-raddr", "0.0.0.0:12000")...)
	if code := several.exitCode(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	several.waitOutput("-raddr 0.0.0.0:12000: no route tells by which of its addresses others reach this host: 10.77.1.1 10.77.2.1; give one")

	joins := startCommand(t, "ip", a.in(kvd, "-inmem", "-raddr", ":12000", "-join", "10.77.2.9:11000")...)
	joins.waitOutput("peers reach it at 10.77.2.1:12000")
	joins.kill()
	told := startCommand(t, "ip", a.in(kvd, "-inmem", "-raddr", ":12000", "-advertise", "10.77.1.1:12000")...)
	told.waitOutput("peers reach it at 10.77.1.1:12000")
}
