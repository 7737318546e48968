package kvhttp_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

// changes are requests that change something.
var changes = []struct{ method, target, body string }{
	{"POST", "/key", `{"a":"b"}`}, {"DELETE", "/key/f", ""}, {"POST", "/keys/f/", `{"value":"new"}`}, {"PUT", "/files/f", "new"},
	{"POST", "/join", `{"id":"n9","addr":"h:1"}`}, {"POST", "/remove", `{"id":"n2"}`}, {"POST", "/transfer", ""},
}

func TestAPageOfAnotherOriginChangesNothing(t *testing.T) {
	for _, c := range changes {
		for _, headers := range [][]string{
			{"Sec-Fetch-Site: cross-site"},
			{"Sec-Fetch-Site: same-site", "Origin: http://other.example.com"},
			{"Origin: https://evil.example", "Content-Type: text/plain"},
			{"Origin: null"},
		} {
			h, store := at5()
			p := wantProblem(t, call(t, h, c.method, c.target, c.body, headers...), 403)
			if p.Applied != "no" || !strings.Contains(p.Detail, "origin") {
				t.Errorf("%s %s, %q: %+v", c.method, c.target, headers, p)
			}
			wantValues(t, store, map[string]string{"f": "old"})
			if store.changed != nil {
				t.Errorf("%s %s, %q: changed %q", c.method, c.target, headers, store.changed)
			}
		}
	}
	h, _ := at5()
	wantAnswer(t, call(t, h, "GET", "/files/f", "", "Sec-Fetch-Site: cross-site"), 200, "old") // which the page cannot see
}

func TestProgramsAndPagesOfTheServersOwnChangeWhatTheyLike(t *testing.T) {
	for _, c := range changes {
		for _, headers := range [][]string{
			nil, // curl
			{"Content-Type: application/x-www-form-urlencoded"},
			{"Sec-Fetch-Site: none"},
			{"Sec-Fetch-Site: same-origin", "Origin: http://example.com"},
			{"Origin: http://example.com"},
		} {
			h, _ := at5()
			if w := call(t, h, c.method, c.target, c.body, headers...); w.Code != 200 {
				t.Errorf("%s %s, %q: %d %s", c.method, c.target, headers, w.Code, w.Body)
			}
		}
	}
}

func TestAnOriginCanBeTrusted(t *testing.T) {
	var trusting http.CrossOriginProtection
	if err := trusting.AddTrustedOrigin("https://admin.example.com"); err != nil {
		t.Fatal(err)
	}
	h := kvhttp.Handler(newFake(), kvhttp.WithCrossOriginProtection(&trusting))
	wantMade(t, call(t, h, "PUT", "/files/f", "v", "Sec-Fetch-Site: cross-site", "Origin: https://admin.example.com"))
	wantProblem(t, call(t, h, "PUT", "/files/f", "v", "Sec-Fetch-Site: cross-site", "Origin: https://evil.example"), 403)
}

// By DNS rebinding evil.example means 127.0.0.1, and its pages are of the same origin.
func TestARequestForAnotherHostIsRefused(t *testing.T) {
	store := readable(t)
	store.events, store.end = []kvraft.Event{{Kind: kvraft.EventSync}}, kvraft.ErrClosed
	h := kvhttp.Handler(store, kvhttp.WithHosts(kvhttp.LoopbackHost))
	for host, own := range map[string]bool{
		"localhost": true, "LOCALHOST": true, "localhost.": true, "localhost:11000": true, "kv.localhost:1": true,
		"127.0.0.1": true, "127.1.2.3:11000": true, "[::1]": true, "[::1]:11000": true, "[::ffff:127.0.0.1]:1": true,
		"evil.example": false, "evil.example:11000": false, "localhost.evil.example": false, "notlocalhost": false,
		"10.0.0.1": false, "0.0.0.0:11000": false, "[fe80::1]:1": false, "127.0.0.1.evil.example": false, "": true, // as HTTP/1.0 has it
	} {
		for _, target := range []string{"/key?prefix=", "/files/f", "/status", "/watch", "/readyz"} {
			r := httptest.NewRequest("GET", target, nil)
			r.Host = host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if own && w.Code != 200 {
				t.Errorf("GET %s of %q: %d %s", target, host, w.Code, w.Body)
			}
			if !own {
				wantProblem(t, w, 421)
			}
		}
	}
}
