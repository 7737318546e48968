package kvhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
	"github.com/kvraft/kvraft/kvrafttest"
)

// onePort is a cluster whose nodes serve HTTP on their peer ports.
type onePort struct {
	*kvrafttest.Cluster
	t       *testing.T
	client  *http.Client
	serving *sync.WaitGroup
}

func newOnePort(t *testing.T, n int) *onePort {
	serving := new(sync.WaitGroup)
	t.Cleanup(serving.Wait) // when the stores are closed
	c := &onePort{Cluster: kvrafttest.New(t, n, kvraft.WithSharedPort()), t: t, serving: serving}
	c.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return c.Network().Host("client").Dial(ctx, addr)
		},
	}}
	t.Cleanup(c.client.CloseIdleConnections)
	for i := range n {
		c.serve(i)
	}
	return c
}

// serve serves HTTP until the store is closed.
func (c *onePort) serve(i int) {
	server := &http.Server{Handler: kvhttp.Handler(c.Store(i)), ReadHeaderTimeout: 5 * time.Second}
	conns := c.Store(i).OtherConns()
	c.serving.Go(func() {
		if err := server.Serve(conns); !errors.Is(err, net.ErrClosed) {
			c.t.Errorf("serve HTTP: %v", err)
		}
		if err := server.Close(); err != nil {
			c.t.Errorf("close the HTTP server: %v", err)
		}
	})
}

func (c *onePort) addr(i int) string { return c.Host(i) + ":7000" }

// put writes through one node, and reads the value back through another.
func (c *onePort) put(through, back int, key string) {
	c.t.Helper()
	c.want(through, http.MethodPut, key, "")
	c.want(back, http.MethodGet, key, "value of "+key)
}

func (c *onePort) want(node int, method, key, answer string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+c.addr(node)+"/files/"+key, strings.NewReader("value of "+key))
	if err != nil {
		c.t.Fatal(err)
	}
	response, err := c.client.Do(request)
	if err != nil {
		c.t.Errorf("%s %s on node %d: %v", method, key, node, err)
		return
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); response.StatusCode/100 != 2 || err != nil || string(body) != answer {
		c.t.Errorf("%s %s on node %d: %s %q, %v", method, key, node, response.Status, body, err)
	}
}

// pester dials all nodes again and again, from several hosts, with what neither
// peers nor HTTP clients send, until stop is called.
func (c *onePort) pester() (stop func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	var running sync.WaitGroup
	for name, text := range map[string]string{
		"silent":  "",
		"prefix":  "kvraft",
		"peer":    "kvraft\x00\x01\x00\x02[]",
		"garbage": strings.Repeat("\xff\x00", 10_000),
		"loris":   "GET /key/a HTTP/1.1\r\n" + strings.Repeat("X-A: b\r\n", 1000),
	} {
		for i := range c.Len() {
			running.Go(func() {
				for ctx.Err() == nil {
					c.send(ctx, name, c.addr(i), text)
				}
			})
		}
	}
	return func() { cancel(); running.Wait() }
}

// send sends text, and slowly if from is called loris, and waits for the end of the
// connection.
func (c *onePort) send(ctx context.Context, from, addr, text string) {
	conn, err := c.Network().Host(from).Dial(ctx, addr)
	if err != nil {
		time.Sleep(200 * time.Millisecond) // virtual: the node is down
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if from != "loris" {
		_, _ = io.WriteString(conn, text) // it may be hung up on
	}
	for i := 0; from == "loris" && i < len(text) && err == nil; i++ {
		_, err = conn.Write([]byte{text[i]})
		time.Sleep(time.Second) // virtual
	}
	_, _ = io.Copy(io.Discard, conn)
	time.Sleep(200 * time.Millisecond) // virtual
}

func TestAClusterLivesOnPortsThatServeHTTPAsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newOnePort(t, 2)
		stop := c.pester()
		defer stop()
		c.put(0, 1, "of-two")
		c.serve(c.Add()) // a join
		c.put(2, 0, "of-three")
		for round := range 3 {
			leader := c.WaitLeader()
			next, other := (leader+1)%3, (leader+2)%3
			c.Crash(leader)
			began := time.Now()
			c.put(next, other, fmt.Sprint("failover-", round))
			if took := time.Since(began); took > 500*time.Millisecond { // it was not a timeout that ended it
				t.Errorf("the failover took %v", took)
			}
			c.Restart(leader)
			c.serve(leader)
			c.WaitReady(leader)
			c.put(leader, other, fmt.Sprint("back-", round))
			term := c.Store(other).Status().Term
			time.Sleep(20 * time.Second) // virtual
			if now := c.Store(other).Status().Term; now != term {
				t.Errorf("while nothing happened the term went from %d to %d", term, now)
			}
		}
	})
}
