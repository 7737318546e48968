package kvhttp_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	kvhttp "github.com/kvraft/kvraft/http"
)

// Benchmarks of the handler alone: what it costs beside net/http and the store. bench/
// has them all, over loopback and beside an empty handler.

// discard takes an answer as the server's writer does, and keeps nothing of it.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header                { return d.header }
func (d *discard) WriteHeader(status int)             { d.status = status }
func (d *discard) Write(b []byte) (int, error)        { return len(b), nil }
func (d *discard) FlushError() error                  { return nil }
func (d *discard) SetReadDeadline(_ time.Time) error  { return nil }
func (d *discard) SetWriteDeadline(_ time.Time) error { return nil }

func BenchmarkRequest(b *testing.B) {
	store := openStore(b)
	value := strings.Repeat("v", 100)
	if _, err := store.Set(b.Context(), "key", []byte(value)); err != nil {
		b.Fatal(err)
	}
	empty := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for _, c := range []struct {
		name    string
		handler http.Handler
		method  string
		target  string
		body    string
	}{
		{"empty", empty, "GET", "/key/key", ""},
		{"GET", kvhttp.Handler(store), "GET", "/key/key", ""},
		{"GETstale", kvhttp.Handler(store), "GET", "/key/key?consistency=stale", ""},
		{"healthz", kvhttp.Handler(store), "GET", "/healthz", ""},
		{"POST", kvhttp.Handler(store), "POST", "/key", `{"key":"` + value + `"}`},
	} {
		b.Run(c.name, func(b *testing.B) {
			body := strings.NewReader(c.body)
			r := httptest.NewRequest(c.method, c.target, body)
			if c.body == "" {
				r.Body = http.NoBody
			}
			b.ReportAllocs()
			for b.Loop() {
				body.Reset(c.body)
				if c.body != "" {
					r.Body = io.NopCloser(body)
				}
				w := &discard{header: http.Header{}}
				c.handler.ServeHTTP(w, r)
				if w.status != http.StatusOK && w.status != 0 {
					b.Fatal(w.status)
				}
			}
		})
	}
}
