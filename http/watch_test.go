package kvhttp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

func TestAWatchIsAStreamOfEvents(t *testing.T) {
	store := newFake()
	store.events = []kvraft.Event{
		{Kind: kvraft.EventSync, Version: 4},
		{Kind: kvraft.EventSet, Key: "a", Value: []byte("1\n2"), Version: 5},
		{Kind: kvraft.EventSet, Key: "ü/\n", Value: []byte{}, Version: 6, More: true},
		{Kind: kvraft.EventDelete, Key: "b", Version: 6},
		{Kind: kvraft.EventSet, Key: "\xff", Value: []byte{0xfe}, Version: 7},
		{Kind: kvraft.EventDelete, Key: "\xff", Version: 8},
	}
	store.end = kvraft.ErrClosed
	w := call(t, kvhttp.Handler(store), "GET", "/watch", "")
	stream, end, _ := strings.Cut(w.Body.String(), "retry: 1000\nevent: problem\ndata: ")
	if want := `id: 4
event: sync
data: {"version":4}

id: 5
event: set
data: {"key":"a","value":"1\n2","version":5}

event: set
data: {"key":"ü/\n","value":"","version":6}

id: 6
event: delete
data: {"key":"b","version":6}

id: 7
event: set
data: {"key_base64":"/w==","value_base64":"/g==","version":7}

id: 8
event: delete
data: {"key_base64":"/w==","version":8}

`; w.Code != 200 || stream != want {
		t.Errorf("got %d %s, want %s", w.Code, stream, want)
	}
	var p problem
	if err := json.Unmarshal([]byte(end), &p); err != nil || p.Status != 503 || p.Applied != "" || p.Leader["id"] != "n2" {
		t.Errorf("it ends with %q", end)
	}
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "Raft-Index": "100"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// It is encoded in parts, which must not show.
func TestALongValueInAStreamIsThatOfAListing(t *testing.T) {
	for name, unit := range map[string]string{
		"letters": "x", "two bytes": "ü", "three": "你", "four": "😀", "escapes": "\x01<\\\"\u2028", "no text": "\xff\x00\x01",
	} {
		for shift := range 4 {
			value := []byte(strings.Repeat("x", shift) + strings.Repeat(unit, 100<<10/len(unit)))
			store := newFake()
			store.events = []kvraft.Event{{Kind: kvraft.EventSet, Key: "a\xff", Value: value, Version: 5}}
			store.end = kvraft.ErrClosed
			body := call(t, kvhttp.Handler(store), "GET", "/watch", "").Body.String()
			data, _, _ := strings.Cut(strings.TrimPrefix(body, "id: 5\nevent: set\ndata: "), "\n\n")
			want := map[string]any{"key_base64": []byte("a\xff"), "value": string(value), "version": 5}
			if name == "no text" {
				want["value_base64"] = value
				delete(want, "value")
			}
			text, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			if data != string(text) {
				t.Errorf("%s, %d: %d bytes that differ from %d", name, shift, len(data), len(text))
			}
		}
	}
}

func TestAWatchBeginsWhereItIsAskedTo(t *testing.T) {
	store := newFake()
	store.end = kvraft.ErrClosed
	const every = 15 * time.Second
	for _, c := range []struct {
		query, last, prefix string
		want                []kvraft.WatchOption
	}{
		{"", "", "", nil},
		{"?prefix=a%2F%ff+b", "", "a/\xff b", nil},
		{"?prefix=&from=", "", "", nil},
		{"?key=a%2F", "", "a/", []kvraft.WatchOption{kvraft.ExactKey}},
		{"?key=a&snapshot", "", "a", []kvraft.WatchOption{kvraft.ExactKey, kvraft.SnapshotFirst}},
		{"?key=&from=1", "", "", []kvraft.WatchOption{kvraft.ExactKey, kvraft.After(1)}}, // data of hraftd's may have it
		{"?from=17", "", "", []kvraft.WatchOption{kvraft.After(17)}},
		{"?prefix=a&from=0", "", "a", []kvraft.WatchOption{kvraft.After(0)}},
		{"?snapshot", "", "", []kvraft.WatchOption{kvraft.SnapshotFirst}},
		{"?snapshot=true", "", "", []kvraft.WatchOption{kvraft.SnapshotFirst}},
		{"?snapshot=false", "", "", nil},
		{"?from=17&snapshot=0", "", "", []kvraft.WatchOption{kvraft.After(17)}},
		{"?from=17", "19", "", []kvraft.WatchOption{kvraft.After(19)}},
		{"?from=old", "19", "", []kvraft.WatchOption{kvraft.After(19)}},
		{"?snapshot", "19", "", []kvraft.WatchOption{kvraft.After(19)}},
	} {
		var headers []string
		if c.last != "" {
			headers = append(headers, "Last-Event-ID: "+c.last)
		}
		call(t, kvhttp.Handler(store), "GET", "/watch"+c.query, "", headers...)
		if want := fmt.Sprintf("%q %s", c.prefix, given(append(c.want, kvraft.SyncEvery(every), kvraft.SharedValues))); store.asked != want {
			t.Errorf("%s, %s: asked for %s, want %s", c.query, c.last, store.asked, want)
		}
	}
}

func TestAWatchThatCannotBeginIsAProblem(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store, kvhttp.WithTimeout(time.Millisecond))
	for _, query := range []string{"?from=x", "?from=-1", `?from="1"`, "?from=1&from=1", "?prefix=a&prefix=b", "?key=a&key=b", "?key=a&prefix=a", "?from=1&snapshot", "?snapshot=perhaps", "?prefix=%x", "?a;b"} {
		wantProblem(t, call(t, h, "GET", "/watch"+query, ""), 400)
	}
	wantProblem(t, call(t, h, "GET", "/watch", "", "Last-Event-ID: x"), 400)
	wantProblem(t, call(t, h, "GET", "/watch/key", ""), 404)
	w := call(t, h, "POST", "/watch", "")
	if wantProblem(t, w, 405); w.Header().Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("got %v", w.Header())
	}
	for _, c := range []struct {
		end    error
		status int
	}{
		{nil, 504}, // nothing comes
		{fmt.Errorf("%w: %w", kvraft.ErrNoLeader, context.Canceled), 503},
		{kvraft.ErrInvalid, 400},
		{kvraft.ErrTooLarge, 413},
		{kvraft.ErrClosed, 503},
	} {
		store.end = c.end
		if p := wantProblem(t, call(t, h, "GET", "/watch?from=1", ""), c.status); p.Applied != "" || p.From != 0 {
			t.Errorf("%v: %+v", c.end, p)
		}
	}
	store.end = fmt.Errorf("watch: %w", &kvraft.CompactedError{Version: 17})
	if p := wantProblem(t, call(t, h, "GET", "/watch?from=1", ""), 410); p.From != 17 || !strings.HasSuffix(p.Type, "#ErrCompacted") {
		t.Errorf("%+v does not say where to begin", p)
	}
	if w := call(t, h, "HEAD", "/watch?from=1", ""); w.Code != 410 || w.Body.Len() > 0 {
		t.Errorf("HEAD: %d %q", w.Code, w.Body)
	}
}

func TestAWatchThatIsCompactedLaterSaysSoInTheStream(t *testing.T) {
	store := newFake()
	store.events, store.end = []kvraft.Event{{Kind: kvraft.EventSync, Version: 4}}, &kvraft.CompactedError{Version: 17}
	body := call(t, kvhttp.Handler(store), "GET", "/watch", "").Body.String()
	if !strings.Contains(body, "\nevent: problem\ndata: {") || !strings.Contains(body, `"status":410`) || !strings.HasSuffix(body, `"from":17}`+"\n\n") {
		t.Error(body)
	}
}

// An EventSource sends Last-Event-ID when it reconnects, and gives up for good when the
// answer is not 200.
func TestABrowserThatReconnectsIsToldOfAProblemInTheStream(t *testing.T) {
	for _, c := range []struct {
		end   error
		retry string
		told  string
	}{
		{fmt.Errorf("%w: %w", kvraft.ErrNoLeader, context.Canceled), "1000", `"status":503`},
		{kvraft.ErrClosed, "1000", `"status":503`},
		{nil, "1000", `"status":504`}, // nothing comes in time
		{&kvraft.CompactedError{Version: 17}, "10000", `"from":17`},
		{kvraft.ErrInvalid, "10000", `"status":400`},
	} {
		store := newFake()
		store.end = c.end
		h := kvhttp.Handler(store, kvhttp.WithTimeout(time.Millisecond))
		w := call(t, h, "GET", "/watch", "", "Last-Event-ID: 1")
		body := w.Body.String()
		if w.Code != 200 || w.Header().Get("Content-Type") != "text/event-stream" ||
			!strings.HasPrefix(body, "retry: "+c.retry+"\nevent: problem\ndata: {") || !strings.HasSuffix(body, "}\n\n") || !strings.Contains(body, c.told) {
			t.Errorf("%v: %d %v %s", c.end, w.Code, w.Header(), body)
		}
		if w := call(t, h, "HEAD", "/watch", "", "Last-Event-ID: 1"); w.Code != 200 || w.Body.Len() > 0 {
			t.Errorf("HEAD: %d %q", w.Code, w.Body)
		}
	}
	h := kvhttp.Handler(newFake())
	wantProblem(t, call(t, h, "GET", "/watch", "", "Last-Event-ID: x"), 400) // can never be right
}

func TestAHeadOfAWatchIsItsHeader(t *testing.T) {
	store := newFake()
	store.events = []kvraft.Event{{Kind: kvraft.EventSync, Version: 4}}
	w := call(t, kvhttp.Handler(store), "HEAD", "/watch", "")
	if wantAnswer(t, w, 200, ""); w.Header().Get("Content-Type") != "text/event-stream" {
		t.Errorf("got %v", w.Header())
	}
}

// client reads a stream.
type client struct {
	t     *testing.T
	resp  *http.Response
	lines *bufio.Scanner
}

func watch(t *testing.T, url string, headers ...string) *client {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return &client{t, resp, bufio.NewScanner(resp.Body)}
}

// next is the next event, its lines joined by spaces; empty: there is none.
func (c *client) next() string {
	var event []string
	for c.lines.Scan() && c.lines.Text() != "" {
		event = append(event, c.lines.Text())
	}
	return strings.Join(event, " ")
}

func (c *client) want(events ...string) {
	c.t.Helper()
	for _, want := range events {
		if got := c.next(); got != want {
			c.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func startServer(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections) // before Close, which would wait for streams
	return server.URL
}

func mustSet(t *testing.T, store *kvraft.Store, key, value string) {
	t.Helper()
	if _, err := store.Set(t.Context(), key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func TestAClientThatReconnectsMissesNothing(t *testing.T) {
	store := openStore(t)
	url := startServer(t, kvhttp.Handler(store))
	mustSet(t, store, "a/1", "old")
	first := watch(t, url+"/watch?prefix=a/&snapshot")
	first.want(`event: set data: {"key":"a/1","value":"old","version":1}`, `id: 1 event: sync data: {"version":1}`)
	mustSet(t, store, "a/1", "new")
	first.want(`id: 2 event: set data: {"key":"a/1","value":"new","version":2}`)
	if _, err := store.Batch(t.Context(), kvraft.SetOp("a/2", nil), kvraft.SetOp("b", nil), kvraft.DeleteOp("a/1")); err != nil {
		t.Fatal(err)
	}
	first.want(`event: set data: {"key":"a/2","value":"","version":3}`)
	first.resp.Body.Close() // in the middle of version 3

	second := watch(t, url+"/watch?prefix=a/&snapshot", "Last-Event-ID: 2")
	second.want(`event: set data: {"key":"a/2","value":"","version":3}`, `id: 3 event: delete data: {"key":"a/1","version":3}`, `id: 3 event: sync data: {"version":3}`)
	mustSet(t, store, "a/3", "v")
	second.want(`id: 4 event: set data: {"key":"a/3","value":"v","version":4}`)

	resp, err := http.Get(url + "/watch?from=99")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("a version of the future: %d", resp.StatusCode)
	}
}

// ticking is a store where nothing happens but heartbeats.
type ticking struct {
	*fake
	ended error // of the last watch; nil: the handler broke it off
}

func (s *ticking) Watch(ctx context.Context, _ string, _ ...kvraft.WatchOption) iter.Seq2[kvraft.Event, error] {
	return func(yield func(kvraft.Event, error) bool) {
		for version := uint64(1); yield(kvraft.Event{Kind: kvraft.EventSync, Version: version}, nil); version++ {
			select {
			case <-time.After(15 * time.Second): // virtual
			case <-ctx.Done():
				s.ended = context.Cause(ctx)
				yield(kvraft.Event{}, s.ended)
				return
			}
		}
	}
}

// The timeouts are all meant for requests that end.
func TestAStreamOutlivesEveryTimeout(t *testing.T) {
	const short = time.Second
	server := &http.Server{
		Handler:     kvhttp.Handler(&ticking{fake: newFake()}, kvhttp.WithTimeout(short)),
		ReadTimeout: short, WriteTimeout: short, IdleTimeout: short,
	}
	serveOn(t, server, func(conn net.Conn) {
		fmt.Fprint(conn, "GET /watch HTTP/1.1\r\nHost: h\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		c := &client{t, resp, bufio.NewScanner(resp.Body)}
		for n := range 100 {
			c.want(fmt.Sprintf(`id: %d event: sync data: {"version":%[1]d}`, n+1))
		}
	})
}

func TestAClientThatDoesNotReadIsCutOff(t *testing.T) {
	store := &ticking{fake: newFake()}
	server := &http.Server{Handler: kvhttp.Handler(store)}
	serveOn(t, server, func(conn net.Conn) {
		fmt.Fprint(conn, "GET /watch HTTP/1.1\r\nHost: h\r\n\r\n")
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
			t.Errorf("after a minute there is still %q to read, %v", rest, err)
		}
	})
	if store.ended != nil {
		t.Errorf("it was not the handler that ended it: %v", store.ended)
	}
}

func TestWatchesEndWhenTheServerShutsDown(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(kvhttp.Handler(openStore(t), kvhttp.WithWatchContext(ctx)))
	t.Cleanup(server.Close)
	server.Config.RegisterOnShutdown(cancel)
	c := watch(t, server.URL+"/watch")
	c.want(`id: 0 event: sync data: {"version":0}`)
	wait, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	if err := server.Config.Shutdown(wait); err != nil {
		t.Error(err)
	}
	if end := c.next(); !strings.HasPrefix(end, "retry: 1000 event: problem data: {") || !strings.Contains(end, "shutting down") || c.next() != "" {
		t.Errorf("it ends with %q", end)
	}
	wantProblem(t, call(t, kvhttp.Handler(newFake(), kvhttp.WithWatchContext(ctx)), "GET", "/watch", ""), 503)
}

// wrapped is what middleware makes of a writer.
type wrapped struct{ http.ResponseWriter }

type unwrappable struct{ wrapped }

func (u unwrappable) Unwrap() http.ResponseWriter { return u.ResponseWriter }

func TestAWatchGoesThroughMiddlewareThatUnwraps(t *testing.T) {
	h := kvhttp.Handler(openStore(t), kvhttp.WithHeartbeat(time.Millisecond))
	url := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(unwrappable{wrapped{w}}, r) }))
	watch(t, url+"/watch").want(`id: 0 event: sync data: {"version":0}`, `id: 0 event: sync data: {"version":0}`)

	w := httptest.NewRecorder()
	h.ServeHTTP(wrapped{w}, httptest.NewRequest("GET", "/watch", nil))
	if p := wantProblem(t, w, 501); !strings.Contains(p.Detail, "Unwrap") {
		t.Errorf("%+v", p)
	}
}

func TestAStreamEndsWithItsStore(t *testing.T) {
	store := openStore(t)
	c := watch(t, startServer(t, kvhttp.Handler(store))+"/watch")
	c.want(`id: 0 event: sync data: {"version":0}`)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if end := c.next(); !strings.Contains(end, `"status":503`) || c.next() != "" || errors.Is(c.lines.Err(), context.Canceled) {
		t.Errorf("it ends with %q", end)
	}
}
