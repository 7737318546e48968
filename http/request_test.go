package kvhttp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

func TestAPathNamesItsKey(t *testing.T) {
	for target, key := range map[string]string{
		"/files/a":             "a",
		"/files/a/b":           "a/b",
		"/files/a%2Fb":         "a/b",
		"/files/a%2fb/c":       "a/b/c",
		"/files//a//b":         "/a//b",
		"/files/%2F%2F":        "//",
		"/files/a/":            "a/",
		"/files/../x":          "../x",
		"/files/%2E%2E":        "..",
		"/files/a+b%20c%2Bd":   "a+b c+d",
		"/files/%25":           "%",
		"/files/%2520":         "%20",
		"/files/%E4%BD%A0":     "你",
		"/files/a%3Fb%23":      "a?b#",
		"/files/log":           "log",
		"/files/a?x=1&y":       "a",
		"/files?key=a":         "a",
		"/files/?key=a%2Fb":    "a/b",
		"/files?key=a+b%2Bc/":  "a b+c/",
		"/files?key=%2F":       "/",
		"/files?key=..%2F..":   "../..",
		"/files?x=1&key=%ff":   "\xff",
		"/files?key=%26%3D%3B": "&=;",
	} {
		store := newFake()
		h := kvhttp.Handler(store)
		wantMade(t, call(t, h, "PUT", target, "v"))
		wantValues(t, store, map[string]string{key: "v"})
		wantAnswer(t, call(t, h, "GET", target, ""), 200, "v")
		wantAnswer(t, call(t, h, "DELETE", strings.Replace(target, "files", "key", 1), ""), 200, "")
		wantValues(t, store, map[string]string{})
	}
}

// hraftd took it, and never gave it back.
func TestAnEmptyKeyCanBeDeletedAndNothingElse(t *testing.T) {
	store := newFake()
	store.set("", []byte("of hraftd"))
	h := kvhttp.Handler(store)
	for _, request := range []string{"GET /files?key=", "PUT /files?key=", "POST /files?key=", "GET /key?key=", "DELETE /files", "DELETE /key/"} {
		method, target, _ := strings.Cut(request, " ")
		if w := call(t, h, method, target, "{}"); w.Code != 400 {
			t.Errorf("%s: %d %s", request, w.Code, w.Body)
		}
	}
	wantValues(t, store, map[string]string{"": "of hraftd"})
	wantAnswer(t, call(t, h, "DELETE", "/key?key=", ""), 200, "")
	wantValues(t, store, map[string]string{})
}

func TestOneTrailingSlashBelongsToTheRouteOfKeys(t *testing.T) {
	for target, key := range map[string]string{
		"/keys/a":       "a",
		"/keys/a/":      "a",
		"/keys/a//":     "a/",
		"/keys/a%2F":    "a/",
		"/keys/a%2F/":   "a/",
		"/keys/a/b/":    "a/b",
		"/keys//":       "",
		"/keys/%2F/":    "/",
		"/keys?key=a/":  "a/",
		"/keys/?key=a/": "a/",
	} {
		store := newFake()
		w := call(t, kvhttp.Handler(store), "POST", target, `{"value":"v"}`)
		if key == "" {
			wantProblem(t, w, 400)
			continue
		}
		wantAnswer(t, w, 200, `{"value":"v"}`)
		wantValues(t, store, map[string]string{key: "v"})
	}
}

func TestARequestNamesOneKey(t *testing.T) {
	h := kvhttp.Handler(newFake())
	for _, target := range []string{"/files", "/files/", "/files?key=", "/files/?key=", "/files/a?key=b", "/files/a?key=a",
		"/files?key=a&key=b", "/files?key=a;b", "/files?key=%zz", "/files/a?%zz", "/key", "/key/", "/keys", "/keys/"} {
		p := wantProblem(t, call(t, h, "GET", target, ""), 400)
		if p.Type != "about:blank" {
			t.Errorf("%s reached the store: %+v", target, p)
		}
	}
}

func TestAHandlerWorksBelowAPrefix(t *testing.T) {
	store := newFake()
	mux := http.NewServeMux()
	mux.Handle("/kv/v1/", http.StripPrefix("/kv/v1", kvhttp.Handler(store)))
	mux.Handle("/slash/", http.StripPrefix("/slash/", kvhttp.Handler(store)))
	for target, key := range map[string]string{
		"/kv/v1/files/a%2Fb%2f":     "a/b/",
		"/kv/v1/files/a/b":          "a/b",
		"/kv/v1/files/%2E%2E%2F":    "../",
		"/kv/v1/files/%2F%2Fa":      "//a",
		"/kv/v1/files/kv/v1/files":  "kv/v1/files",
		"/kv/v1/files?key=%2F%2F..": "//..",
		"/slash/files/a%2Fb":        "a/b",
	} {
		clear(store.entries)
		wantMade(t, call(t, mux, "PUT", target, "v"))
		wantValues(t, store, map[string]string{key: "v"})
	}
}

// FuzzKeyRoundTrip: a key set by one of its names can be read by the others.
func FuzzKeyRoundTrip(f *testing.F) {
	for _, key := range []string{"a", "/", "//", "..", "a/../b", "%2F", "%", "+", "a b", "ü/é", "\xff\x00", "?key=x", "#", "keys/", "a/", ";&=", "\\", "\u2028<"} {
		f.Add(key, []byte("value of "+key))
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		if key == "" || len(key) > limits.key || len(value) > limits.value {
			t.Skip("no key")
		}
		query, escaped, raw := url.QueryEscape(key), url.PathEscape(key), (&url.URL{Path: key}).EscapedPath()
		names := []string{"?key=" + query, "/?key=" + query, "/" + escaped, "/" + raw}
		for _, set := range names {
			store := newFake()
			h := kvhttp.Handler(store)
			wantMade(t, call(t, h, "PUT", "/files"+set, string(value)))
			wantValues(t, store, map[string]string{key: string(value)})
			for _, get := range names {
				wantAnswer(t, call(t, h, "GET", "/files"+get, ""), 200, string(value))
			}
			if !utf8.Valid(value) {
				continue
			}
			for _, get := range []string{"?key=" + query, "/" + escaped, "/" + escaped + "/", "/" + raw + "/"} {
				var got struct{ Value string }
				w := call(t, h, "GET", "/keys"+get, "")
				if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Value != string(value) {
					t.Errorf("/keys%s reads %q, %v, want %q", get, w.Body, err, value)
				}
			}
			if !utf8.ValidString(key) {
				continue
			}
			for _, get := range names {
				var got map[string]string
				w := call(t, h, "GET", "/key"+get, "")
				if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got) != 1 || got[key] != string(value) {
					t.Errorf("/key%s reads %q, %v, want %q", get, w.Body, err, value)
				}
			}
		}
	})
}

// endless is a body without an end.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return copy(p, strings.Repeat(" ", len(p))), nil
}

func TestABodyWithoutEndIsCutOffAtTheLimit(t *testing.T) {
	for path, method := range map[string]string{"/key": "POST", "/keys/a/": "POST", "/files/a": "PUT", "/join": "POST"} {
		store := newFake()
		body := &endless{}
		serve(t, kvhttp.Handler(store, kvhttp.WithBodyLimit(1<<16)), func(conn net.Conn) {
			r, err := http.NewRequest(method, "http://host"+path, body)
			if err != nil {
				t.Fatal(err)
			}
			go r.Write(conn) // ends when the server closes the connection
			wantStatus(t, conn, 413)
		})
		wantValues(t, store, map[string]string{})
	}
}

func TestABodyThatIsTooLargeIsNotEvenRead(t *testing.T) {
	h := kvhttp.Handler(newFake(), kvhttp.WithBodyLimit(4))
	wantMade(t, call(t, h, "PUT", "/files/a", "1234"))
	body := &endless{}
	r := httptest.NewRequest("PUT", "/files/a", body)
	r.ContentLength = 5
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	wantProblem(t, w, 413)
	if body.read > 0 {
		t.Errorf("%d bytes were read", body.read)
	}
}

func TestABodyThatStallsTimesOut(t *testing.T) {
	for _, head := range []string{
		"PUT /files/a HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nonly",
		"POST /key HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{}",
		"PUT /files/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n",
	} {
		store := newFake()
		serve(t, kvhttp.Handler(store), func(conn net.Conn) {
			start := time.Now()
			fmt.Fprint(conn, head)
			wantStatus(t, conn, 408)
			if took := time.Since(start); took != 10*time.Second {
				t.Errorf("took %v, want 10s", took)
			}
			wantClosed(t, conn)
		})
		wantValues(t, store, map[string]string{})
	}
}

func TestABodyThatNobodyReadsDoesNotHoldTheConnection(t *testing.T) {
	serve(t, kvhttp.Handler(newFake()), func(conn net.Conn) {
		fmt.Fprint(conn, "PUT /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nonly")
		wantStatus(t, conn, 404)
		wantClosed(t, conn)
	})
}

func TestABodyThatIsCutShortChangesNothing(t *testing.T) {
	for _, request := range []string{
		"PUT /files/a HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nonly",
		"POST /key HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\n{\"a\":\"b\"}",
		"PUT /files/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n",
	} {
		store := newFake()
		serve(t, kvhttp.Handler(store), func(conn net.Conn) {
			fmt.Fprint(conn, request)
			conn.Close()
		})
		wantValues(t, store, map[string]string{})
	}
}

func TestAStoreThatDoesNotAnswerIsGivenUpInTime(t *testing.T) {
	store := newFake()
	store.fail = func(ctx context.Context) error {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", kvraft.ErrNoLeader, ctx.Err())
	}
	serve(t, kvhttp.Handler(store, kvhttp.WithTimeout(3*time.Second)), func(conn net.Conn) {
		start := time.Now()
		fmt.Fprint(conn, "PUT /files/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nvalue")
		wantStatus(t, conn, 503)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %v, want 3s", took)
		}
		// The deadline of the body must not break what comes later.
		<-time.After(time.Minute)
		store.mu.Lock()
		store.fail = nil
		store.mu.Unlock()
		fmt.Fprint(conn, "PUT /files/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nvalue")
		wantStatus(t, conn, 201)
	})
	wantValues(t, store, map[string]string{"a": "value"})
}

// serve runs a real server over one connection in virtual time, and waits for
// both to end.
func serve(t *testing.T, h http.Handler, client func(net.Conn)) {
	t.Helper()
	serveOn(t, &http.Server{Handler: h}, client)
}

func serveOn(t *testing.T, server *http.Server, client func(net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		l := &oneConn{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
		l.conn <- far
		done := make(chan error)
		go func() { done <- server.Serve(l) }()
		client(near)
		near.Close()
		synctest.Wait()
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn   chan net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conn:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error   { close(l.closed); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

func wantStatus(t *testing.T, conn net.Conn, status int) {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != status {
		t.Errorf("got %s %s, %v, want %d", response.Status, body, err, status)
	}
}

func wantClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read %d bytes, %v: the connection is open", n, err)
	}
}
