package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

// httpLoad is a workload over HTTP: each client has one connection, kept alive.
//
// Server and clients share this process and its cores. The clients are the least
// that can be: they send bytes that were prepared, and read of an answer its status
// and its length. That costs the same for every handler that is compared, and makes
// their ratio nearer to one than it would be on machines of their own.
type httpLoad struct {
	method  string
	clients int
}

func post(clients int) httpLoad { return httpLoad{http.MethodPost, clients} }
func get(clients int) httpLoad  { return httpLoad{http.MethodGet, clients} }

func (h httpLoad) String() string {
	if h.method == http.MethodPost {
		return fmt.Sprintf("HTTP POST /key, 100 B × %d", h.clients)
	}
	return fmt.Sprintf("HTTP GET /key/{key} × %d", h.clients)
}

// request is of the size and kind that curl's would be.
func (h httpLoad) request(key string) []byte {
	const value = "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv"
	if h.method == http.MethodGet {
		return fmt.Appendf(nil, "GET /key/%s HTTP/1.1\r\nHost: bench\r\n\r\n", key)
	}
	body := fmt.Sprintf(`{"%s":"%s"}`, key, value)
	return fmt.Appendf(nil, "POST /key HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// run serves as kvd does, and loads the server.
func (h httpLoad) run(ctx context.Context, c cluster, keys []string, warmUp, d time.Duration) (_ run, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return run{}, err
	}
	handler := c.(handling).handler() // or it is not a system for this load
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	defer func() {
		err = errors.Join(err, server.Close())
		if end := <-served; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
	}()
	calls := make([]call, h.clients)
	for i := range calls {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return run{}, err
		}
		defer conn.Close()
		calls[i] = h.client(conn, keys, uint64(i))
	}
	return measure(ctx, calls, warmUp, d)
}

func (h httpLoad) client(conn net.Conn, keys []string, seed uint64) call {
	rnd := rand.New(rand.NewPCG(seed, 2))
	answers := bufio.NewReaderSize(conn, 4<<10)
	requests := make([][]byte, 64) // of each client, so that making them is not measured
	for i := range requests {
		requests[i] = h.request(keys[rnd.IntN(len(keys))])
	}
	return func(context.Context) error {
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		if _, err := conn.Write(requests[rnd.IntN(len(requests))]); err != nil {
			return err
		}
		return readAnswer(answers)
	}
}

var contentLength = []byte("Content-Length: ")

// readAnswer reads an answer to its end, and returns an error unless it is a 200.
func readAnswer(r *bufio.Reader) error {
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("answer: %s", bytes.TrimSpace(status))
	}
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if digits, ok := bytes.CutPrefix(line, contentLength); ok {
			if length, err = strconv.Atoi(string(digits)); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("answer without a Content-Length")
	}
	_, err = r.Discard(length)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// handling is a cluster that is called over HTTP.
type handling interface{ handler() http.Handler }

// empty is net/http with a handler that does nothing.
var empty = system{"empty handler", func(context.Context, site) (cluster, error) { return emptyCluster{}, nil }}

type emptyCluster struct{ nothing }

func (emptyCluster) handler() http.Handler {
	return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
}
