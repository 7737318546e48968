package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAStopLetsRequestsInFlightFinish(t *testing.T) {
	stopInFlight(t, newNode(t, "node0"))
}

func TestAStopLetsRequestsInFlightOnTheOnePortFinish(t *testing.T) {
	n := newNode(t, "node0")
	n.raddr = n.haddr
	stopInFlight(t, n)
}

func stopInFlight(t *testing.T, n *node) {
	n.start(t)
	waitReady(t, n)
	finish, done := halfPost(t, n)
	n.signal(syscall.SIGTERM)
	eventually(t, "the listener to be closed", func() string {
		if _, _, err := get(n.url("/readyz")); err == nil {
			return "it answers"
		}
		return ""
	})
	finish()
	if err := <-done; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if code := n.exitCode(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	n.start(t)
	waitReady(t, n)
	if err := check(n, "half", "done"); err != nil {
		t.Error(err)
	}
}

func TestAStopEndsTheWatches(t *testing.T) {
	n := newNode(t, "node0")
	n.start(t)
	waitReady(t, n)
	resp, err := client.Get(n.url("/watch"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "id: 0\n" {
		t.Fatalf("the watch begins with %q, %v", line, err)
	}
	n.signal(syscall.SIGTERM)
	if code := n.exitCode(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if rest, err := io.ReadAll(lines); err != nil || !strings.Contains(string(rest), "shutting down") {
		t.Errorf("the watch ends with %q, %v", rest, err)
	}
	if strings.Contains(n.output.String(), "cut off") {
		t.Error("the watch held the stop up")
	}
}

func TestASecondSignalEndsTheProcessAtOnce(t *testing.T) {
	n := newNode(t, "node0")
	n.start(t)
	waitReady(t, n)
	_, done := halfPost(t, n)
	n.signal(syscall.SIGINT)
	n.waitOutput("shutting down")
	n.signal(syscall.SIGTERM)
	if code := n.exitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	n.waitOutput("exiting at once")
	if err := <-done; err == nil {
		t.Error("the request in flight succeeded")
	}
}

// halfPost brings a POST /key into flight: the handler waits for its body. finish
// sends the body, {"half": "done"}; done gets the outcome of the request.
func halfPost(t *testing.T, n *node) (finish func(), done <-chan error) {
	t.Helper()
	const body = `{"half": "done"}`
	conn, err := net.Dial("tcp", n.haddr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /key HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", n.haddr, len(body))
	answers := bufio.NewReader(conn)
	if line, err := answers.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("want a 100 Continue, have %q, %v", line, err)
	}
	if _, err := answers.ReadString('\n'); err != nil { // the empty line after it
		t.Fatal(err)
	}
	outcome := make(chan error, 1)
	go func() {
		resp, err := http.ReadResponse(answers, nil)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s", resp.Status)
		}
		outcome <- err
	}()
	return func() { fmt.Fprint(conn, body) }, outcome
}
