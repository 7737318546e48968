package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// silentAddr accepts connections, and answers nothing.
func silentAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// telling is the HTTP address of a node whose status is this.
func telling(t *testing.T, status string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, status) }))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// waiting is a node that belongs to no cluster.
func waiting(t *testing.T, id string) string {
	return telling(t, fmt.Sprintf(`{"me": {"id": %q, "address": %[1]q}, "nodes": []}`, id))
}

func TestAddressesThatDoNotAnswerHoldUpOnlyWhoKnowsTooLittle(t *testing.T) {
	silent := []string{silentAddr(t), silentAddr(t), "dns://" + silentAddr(t)}
	member := telling(t, `{"me": {"id": "n1", "address": "n1"}, "nodes": [{"id": "n1", "address": "n1"}, {"id": "n2", "address": "n2"}], "cluster": "c"}`)
	for _, c := range []struct {
		what   string
		finder finder
		join   []string
		found  string
		inTime bool
	}{
		{"a member", finder{id: "n0"}, []string{member}, "n1 n2", true},
		{"a member, for one of three", finder{id: "n0", expect: 3}, []string{member}, "n1 n2", true},
		{"three of three, maybe itself", finder{expect: 3}, []string{waiting(t, "n0"), waiting(t, "n1"), waiting(t, "n2")}, "n0 n1 n2", true},
		{"the two others of three", finder{id: "n0", expect: 3}, []string{waiting(t, "n1"), waiting(t, "n2")}, "n1 n2", true},
		{"two of three", finder{id: "n0", expect: 3}, []string{waiting(t, "n0"), waiting(t, "n1")}, "n0 n1", false},
		{"two of three, maybe itself", finder{expect: 3}, []string{waiting(t, "n0"), waiting(t, "n1")}, "n0 n1", false},
		{"one that waits too", finder{id: "n0"}, []string{waiting(t, "n1")}, "n1", false},
		{"itself", finder{id: "n1"}, []string{member}, "n1 n2", false},
		{"nobody", finder{id: "n0"}, nil, "", false},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			c.finder.join = slices.Concat(silent, c.join)
			began := time.Now()
			found, err := c.finder.find(t.Context())
			took := time.Since(began)
			slices.Sort(found)
			if have := strings.Join(slices.Compact(found), " "); have != c.found {
				t.Errorf("found %q, want %q", have, c.found)
			}
			if c.inTime && (err != nil || took > patience/2) {
				t.Errorf("it took %v, %v", took, err)
			}
			if !c.inTime && (err == nil || strings.Count(err.Error(), "no answer within 2s") != len(silent) || took < patience) {
				t.Errorf("it took %v, %v", took, err)
			}
		})
	}
}

func TestASearchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := finder{join: addrs{silentAddr(t)}}
	began := time.Now()
	if found, _ := f.find(ctx); len(found) > 0 || time.Since(began) > patience/2 {
		t.Errorf("it took %v, %v", time.Since(began), found)
	}
}

// An address that is only good on one link has its zone, which a URL escapes.
func TestANodeIsAskedAtAnAddressWithAZone(t *testing.T) {
	ln, err := net.Listen("tcp", "[::1%lo]:0")
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != net.JoinHostPort("::1", port) {
			t.Errorf("it was called %q", r.Host) // a zone means nothing there
		}
		fmt.Fprint(w, `{"me": {"id": "n1", "address": "n1"}, "cluster": "c"}`)
	}))
	server.Listener = ln
	server.Start()
	defer server.Close()
	addr := net.JoinHostPort("::1%lo", port)

	var join addrs
	if err := join.Set(addr); err != nil {
		t.Fatal(err)
	}
	if found, err := (finder{join: join}).find(t.Context()); err != nil || !slices.Equal(found, []string{"n1"}) {
		t.Errorf("found %q, %v", found, err)
	}
	if err := askReady(t.Context(), addr); err != nil {
		t.Error(err)
	}
}

func TestAURLKeepsTheZone(t *testing.T) {
	for addr, want := range map[string]string{
		"[fe80::1%eth0]:11000": "http://[fe80::1%25eth0]:11000/key",
		"[::1]:11000":          "http://[::1]:11000/key",
		"localhost:11000":      "http://localhost:11000/key",
	} {
		if got := urlOf(addr, "/key"); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}
