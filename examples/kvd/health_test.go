package main_test

import "testing"

func TestHealthTellsWhetherANodeCanServe(t *testing.T) {
	n := newNode(t, "node0")
	expectExit(t, 1, []string{"health", n.haddr}, "kvd: "+n.haddr+": ", "connection refused")
	n.start(t)
	waitReady(t, n)
	expectExit(t, 0, []string{"health", n.haddr}, "ok")

	waiting := newNode(t, "node1", "-join", freeAddr(t))
	waiting.start(t)
	waiting.waitOutput("waits to be admitted")
	expectExit(t, 1, []string{"health", waiting.haddr}, "503", "waiting to be admitted")

	expectExit(t, 1, []string{"health", n.raddr}, n.raddr)
	expectExit(t, 2, []string{"health", "localhost"}, "host:port", "kvd health -h")
	expectExit(t, 2, []string{"health", n.haddr, "more"}, "one address")
	expectExit(t, 2, []string{"health", "-x"}, "-x")
	expectExit(t, 0, []string{"health", "-h"}, "Usage: kvd health", "localhost:11000")
	expectExit(t, 0, []string{"-h"}, "kvd health")
}
