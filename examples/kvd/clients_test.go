package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// bounded serves two connections, and answers two more.
func bounded(t *testing.T) (*clients, string) {
	t.Helper()
	server := newServer(openAlone(t), hclog.NewNullLogger())
	server.ConnState = newDrain().count
	c := newClients(hclog.NewNullLogger())
	c.most, c.more = 2, 2
	c.bound(server)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(ln)
	t.Cleanup(func() { server.Close() })
	return c, ln.Addr().String()
}

// wait waits until so many connections are open.
func (c *clients) wait(t *testing.T, open int64) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); c.open.Load() != open; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are open, want %d", c.open.Load(), open)
		}
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// request sends a request and returns the answer, with all of its body.
func request(conn net.Conn, method, path string) (*http.Response, string, error) {
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: localhost\r\n\r\n", method, path)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

func TestClientsOverTheLimitAreToldSo(t *testing.T) {
	c, addr := bounded(t)
	served := []net.Conn{dial(t, addr), dial(t, addr)}
	for _, conn := range served {
		if resp, body, err := request(conn, "DELETE", "/key/k"); err != nil || resp.StatusCode != http.StatusOK || resp.Close {
			t.Errorf("%+v %s, %v", resp, body, err)
		}
	}
	for path, want := range map[string]int{"/key?prefix=": 503, "/watch": 503, "/healthz": 200, "/status": 200} {
		resp, body, err := request(dial(t, addr), "GET", path)
		if err != nil || resp.StatusCode != want || !resp.Close {
			t.Errorf("GET %s: %+v %s, %v", path, resp, body, err)
		}
		if err == nil && want == 503 && (!strings.Contains(body, "too many connections") || resp.Header.Get("Retry-After") == "") {
			t.Errorf("GET %s: %v %s", path, resp.Header, body)
		}
		c.wait(t, 2)
	}
	served[0].Close()
	c.wait(t, 1)
	if resp, body, err := request(dial(t, addr), "DELETE", "/key/k"); err != nil || resp.StatusCode != http.StatusOK || resp.Close {
		t.Errorf("when there is room: %+v %s, %v", resp, body, err)
	}
}

func TestConnectionsFarOverTheLimitAreClosed(t *testing.T) {
	c, addr := bounded(t)
	for range 4 {
		dial(t, addr)
	}
	c.wait(t, 4)
	if resp, _, err := request(dial(t, addr), "GET", "/healthz"); err == nil {
		t.Errorf("answered with %s", resp.Status)
	}
	c.wait(t, 4)
}

func TestConnectionsOfHTTP2AreCounted(t *testing.T) {
	c, addr := bounded(t)
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	resp, err := (&http.Client{Transport: transport}).Get("http://" + addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	c.wait(t, 1)
	transport.CloseIdleConnections()
	c.wait(t, 0)
}
