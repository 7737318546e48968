package main_test

import (
	"regexp"
	"syscall"
	"testing"
)

func TestAHealthyClusterLogsNoWarning(t *testing.T) {
	nodes := startTogether(t, alike(t, 3, "-v"))
	var logs []*output
	for _, n := range nodes {
		logs = append(logs, n.output)
	}
	for _, n := range nodes {
		if code, body, err := post(nodes[0].url("/transfer"), `{"id":"`+n.id+`"}`); err != nil || code != 200 {
			t.Fatal(code, body, err)
		}
	}
	for _, n := range nodes {
		n.stop(t)
		n.start(t)
		waitReady(t, n)
		logs = append(logs, n.output)
	}
	for _, n := range nodes { // together: one that leads on without the others has something to warn of
		n.signal(syscall.SIGTERM)
	}
	for _, n := range nodes {
		if code := n.exitCode(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	alarm := regexp.MustCompile(`(?m)^.*\[(WARN|ERROR)\].*$`)
	for _, log := range logs {
		for _, line := range alarm.FindAllString(log.String(), -1) {
			t.Error(line)
		}
	}
}
