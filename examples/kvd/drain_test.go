package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// pipes is a listener for connections in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() *bufio.ReadWriter {
	near, far := net.Pipe()
	p.conns <- far
	return bufio.NewReadWriter(bufio.NewReader(near), bufio.NewWriter(near))
}

// post sends a request and takes the answer.
func post(conn *bufio.ReadWriter) error {
	fmt.Fprint(conn, "POST /key HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
	if err := conn.Flush(); err != nil {
		return err
	}
	resp, err := http.ReadResponse(conn.Reader, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// serving runs a server in virtual time, and stops it.
func serving(t *testing.T, do func(p *pipes, stopNow func() (took <-chan time.Duration))) {
	synctest.Test(t, func(t *testing.T) {
		drain, p := newDrain(), &pipes{make(chan net.Conn), make(chan struct{})}
		server := &http.Server{ConnState: drain.count, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if drain.ctx.Err() != nil {
				w.Header().Set("Connection", "close")
			}
		})}
		ended := make(chan error)
		go func() { ended <- server.Serve(p) }()
		do(p, func() <-chan time.Duration {
			took := make(chan time.Duration)
			go func() {
				began := time.Now()
				if err := stop(server, drain, hclog.NewNullLogger()); err != nil {
					t.Error(err)
				}
				took <- time.Since(began)
			}()
			synctest.Wait()
			return took
		})
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// A request on a connection that was idle when the node began to stop is answered, and
// the node is gone as soon as its clients are.
func TestClientsLeaveBeforeTheServerDoes(t *testing.T) {
	serving(t, func(p *pipes, stopNow func() <-chan time.Duration) {
		conns := []*bufio.ReadWriter{p.dial(), p.dial()}
		for _, conn := range conns {
			if err := post(conn); err != nil {
				t.Error(err)
			}
		}
		took := stopNow()
		time.Sleep(100 * time.Millisecond) // virtual
		for _, conn := range conns {
			if err := post(conn); err != nil {
				t.Error("while the node stops: ", err)
			}
		}
		if d := <-took; d < 100*time.Millisecond || d > 150*time.Millisecond {
			t.Errorf("it took %v", d)
		}
	})
}

func TestAClientThatStaysIsNotWaitedForLong(t *testing.T) {
	serving(t, func(p *pipes, stopNow func() <-chan time.Duration) {
		conn := p.dial()
		if err := post(conn); err != nil {
			t.Error(err)
		}
		if d := <-stopNow(); d < drainTime || d > drainTime+100*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		if _, err := conn.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("the connection is still open: %v", err)
		}
	})
}

func TestAServerWithoutConnectionsStopsAtOnce(t *testing.T) {
	serving(t, func(p *pipes, stopNow func() <-chan time.Duration) {
		if d := <-stopNow(); d != 0 {
			t.Errorf("it took %v", d)
		}
	})
}

// HTTP/2 without TLS, as some clients and proxies speak it, beside HTTP/1.
func TestTheServerSpeaksHTTP2InClear(t *testing.T) {
	store := openAlone(t)
	server := newServer(store, hclog.NewNullLogger())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(ln)
	defer server.Close()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for client, proto := range map[*http.Client]string{{Transport: transport}: "HTTP/2.0", {}: "HTTP/1.1"} {
		for _, path := range []string{"/healthz", "/watch", "/key?prefix="} {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ln.Addr().String()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Errorf("%s %s: %v", proto, path, err)
				continue
			}
			if _, err := resp.Body.Read(make([]byte, 1)); err != nil || resp.Proto != proto || resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %s %s, %v", path, resp.Proto, resp.Status, err)
			}
			resp.Body.Close()
		}
	}
}
