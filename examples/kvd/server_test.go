package main

import (
	"net"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
)

func openAlone(t *testing.T) *kvraft.Store {
	t.Helper()
	store, err := kvraft.Open("", kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// A listener on loopback takes loopback names, and the one that -haddr gives; what others
// can reach is reached by names that kvd does not know.
func TestAListenerOnLoopbackTakesItsOwnNamesAlone(t *testing.T) {
	store := openAlone(t)
	for _, c := range []struct {
		haddr, listens, host string
		status               int
	}{
		{"localhost:11000", "127.0.0.1", "localhost:11000", 200},
		{"localhost:11000", "127.0.0.1", "127.0.0.1:11000", 200},
		{"localhost:11000", "::1", "[::1]:11000", 200},
		{"localhost:11000", "127.0.0.1", "evil.example:11000", 421},
		{"localhost:11000", "::1", "evil.example", 421},
		{"myhost:11000", "127.0.1.1", "myhost:11000", 200},
		{"myhost:11000", "127.0.1.1", "evil.example", 421},
		{":11001", "::", "kv.example.com:11001", 200},
		{"10.0.0.1:11000", "10.0.0.1", "kv.example.com", 200},
	} {
		config := config{haddr: setting{value: c.haddr}}
		h := newServer(store, hclog.NewNullLogger(), config.hosts(&net.TCPAddr{IP: net.ParseIP(c.listens), Port: 11000})).Handler
		r := httptest.NewRequest("GET", "/status", nil)
		r.Host = c.host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("-haddr %s, on %s, GET http://%s/status: %d %s", c.haddr, c.listens, c.host, w.Code, w.Body)
		}
	}
}
