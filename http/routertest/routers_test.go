package routertest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/gorilla/mux"
	"github.com/labstack/echo/v4"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

// routers mount h at the root and below /kv.
var routers = map[string]func(h http.Handler) http.Handler{
	"ServeMux": func(h http.Handler) http.Handler {
		m := http.NewServeMux()
		m.Handle("/", h)
		m.Handle("/kv/", http.StripPrefix("/kv", h))
		return m
	},
	"chi": func(h http.Handler) http.Handler {
		m := chi.NewRouter()
		m.Mount("/", h)
		m.Mount("/kv", http.StripPrefix("/kv", h))
		return m
	},
	"gorilla": func(h http.Handler) http.Handler {
		return mountGorilla(mux.NewRouter(), h)
	},
	"gorilla, encoded and not cleaned": func(h http.Handler) http.Handler {
		return mountGorilla(mux.NewRouter().UseEncodedPath().SkipClean(true), h)
	},
	"echo": func(h http.Handler) http.Handler {
		e := echo.New()
		e.Any("/*", echo.WrapHandler(h))
		e.Any("/kv/*", echo.WrapHandler(http.StripPrefix("/kv", h)))
		return e
	},
}

func mountGorilla(m *mux.Router, h http.Handler) http.Handler {
	m.PathPrefix("/kv/").Handler(http.StripPrefix("/kv", h))
	m.PathPrefix("/").Handler(h)
	return m
}

// keys are written as in a path; those of the last line would better have been
// percent-encoded.
var keys = []string{
	"a", "a/b", "a%2Fb", "a/", "a%20b", "a+b", "%2B", "%25", "%2520", "%E4%BD%A0", "%C3%BC/x", "%ff", "a%3Fb%23c", "a;b=c", "a:b@c",
	"%2Fa", "a%2F", "%2F%2F", "a%2F%2Fb", "%2E", "%2E%2E", "a/%2E%2E/b", "%2E%2E%2Fb",
	".", "..", "./a", "../a", "a/../b", "/a", "a//b",
}

// redirected are the keys that a router answers with a redirect to another path,
// which may name another key. All others survive it.
var redirected = map[string][]string{
	"ServeMux": {".", "..", "./a", "../a", "a/../b", "/a", "a//b"},
	"gorilla": {".", "..", "./a", "../a", "a/../b", "/a", "a//b",
		"%2Fa", "%2F%2F", "a%2F%2Fb", "%2E", "%2E%2E", "a/%2E%2E/b", "%2E%2E%2Fb"},
}

func TestAKeyInThePathReachesTheStoreOrIsRedirected(t *testing.T) {
	store := open(t)
	for name, mount := range routers {
		router := mount(kvhttp.Handler(store))
		for _, prefix := range []string{"", "/kv"} {
			for _, escaped := range keys {
				key := unescape(t, escaped)
				targets := []string{"/files/" + escaped}
				if !strings.HasSuffix(key, "/") { // which would meet the slash of the route
					targets = append(targets, "/keys/"+escaped+"/")
				}
				for _, target := range targets {
					value := name + prefix + target
					w := send(router, "POST", prefix+target, body(target, value))
					reached := read(t, store, key) == value
					if slices.Contains(redirected[name], escaped) {
						if w.Code < 300 || w.Code > 399 || reached {
							t.Errorf("%s: POST %s%s: got %d, reached the store: %v, want a redirect", name, prefix, target, w.Code, reached)
						}
						continue
					}
					if w.Code != 200 || !reached {
						t.Errorf("%s: POST %s%s: got %d %s, the store holds %q", name, prefix, target, w.Code, w.Body, read(t, store, key))
					}
				}
			}
		}
	}
}

func TestAKeyInTheQuerySurvivesEveryRouter(t *testing.T) {
	store := open(t)
	for name, mount := range routers {
		router := mount(kvhttp.Handler(store))
		for _, prefix := range []string{"", "/kv"} {
			for _, escaped := range keys {
				key := unescape(t, escaped)
				for _, path := range []string{"/files", "/files/", "/keys", "/keys/"} {
					value := name + prefix + path + escaped
					target := prefix + path + "?key=" + url.QueryEscape(key)
					if w := send(router, "POST", target, body(path, value)); w.Code != 200 || read(t, store, key) != value {
						t.Errorf("%s: POST %s: got %d %s, the store holds %q", name, target, w.Code, w.Body, read(t, store, key))
					}
					if w := send(router, "GET", target, ""); w.Code != 200 || w.Body.String() != body(path, value) {
						t.Errorf("%s: GET %s: got %d %s", name, target, w.Code, w.Body)
					}
				}
				for _, path := range []string{"/key", "/key/"} {
					target := prefix + path + "?key=" + url.QueryEscape(key)
					if w := send(router, "DELETE", target, ""); w.Code != 200 || read(t, store, key) != "" {
						t.Errorf("%s: DELETE %s: got %d %s", name, target, w.Code, w.Body)
					}
				}
			}
		}
	}
}

func open(t *testing.T) *kvraft.Store {
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

func send(h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w
}

// body carries value as path wants it.
func body(path, value string) string {
	if strings.HasPrefix(path, "/keys") {
		return `{"value":"` + value + `"}`
	}
	return value
}

// read returns what the store itself has; "" for nothing.
func read(t *testing.T, store *kvraft.Store, key string) string {
	entry, err := store.Get(context.Background(), key, kvraft.Stale)
	if err != nil {
		return ""
	}
	return string(entry.Value)
}

func unescape(t *testing.T, escaped string) string {
	key, err := url.PathUnescape(escaped)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
