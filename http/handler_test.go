package kvhttp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

// call makes one request of a handler, with headers as "Name: value".
func call(t testing.TB, h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func wantAnswer(t testing.TB, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if w.Code != status || w.Body.String() != body {
		t.Errorf("got %d %q, want %d %q", w.Code, w.Body, status, body)
	}
}

// wantMade wants a PUT to have been carried out, whether it made its key or not:
// TestAPutThatMakesItsKeyIsAnswered201 looks at the difference.
func wantMade(t testing.TB, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code != 200 && w.Code != 201 || w.Body.Len() > 0 {
		t.Errorf("got %d %q, want 200 or 201", w.Code, w.Body)
	}
}

func wantETag(t testing.TB, w *httptest.ResponseRecorder, etag string) {
	t.Helper()
	if got := w.Header().Get("ETag"); got != etag {
		t.Errorf("got ETag %s, want %s", got, etag)
	}
}

type problem struct {
	Type, Title, Detail, Applied string
	Status                       int
	From                         uint64
	Leader                       map[string]string
}

func wantProblem(t testing.TB, w *httptest.ResponseRecorder, status int) problem {
	t.Helper()
	var p problem
	d := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		t.Fatalf("%d %q is not a problem: %v", w.Code, w.Body, err)
	}
	if w.Code != status || p.Status != status || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %v %s, want %d", w.Code, w.Header(), w.Body, status)
	}
	if p.Type == "" || p.Title == "" || p.Detail == "" {
		t.Errorf("a problem says what is wrong: %s", w.Body)
	}
	return p
}

func wantValues(t testing.TB, store *fake, want map[string]string) {
	t.Helper()
	if got := store.values(); !maps.Equal(got, want) {
		t.Errorf("the store holds %q, want %q", got, want)
	}
}

func TestTheCommandsOfHraftdsReadmeWork(t *testing.T) {
	h := kvhttp.Handler(newFake())
	form := "Content-Type: application/x-www-form-urlencoded" // what curl -d says
	wantAnswer(t, call(t, h, "POST", "/key", `{"user1": "batman"}`, form), 200, "")
	wantAnswer(t, call(t, h, "POST", "/key", `{"user2": "robin", "user3": "joker"}`, form), 200, "")
	wantAnswer(t, call(t, h, "GET", "/key/user1", ""), 200, `{"user1":"batman"}`)
	wantAnswer(t, call(t, h, "GET", "/key/user3", ""), 200, `{"user3":"joker"}`)
	wantAnswer(t, call(t, h, "DELETE", "/key/user3", ""), 200, "")
	wantAnswer(t, call(t, h, "DELETE", "/key/user3", ""), 200, "")
	wantProblem(t, call(t, h, "GET", "/key/user3", ""), 404)
}

func TestTheCommandsOfRaftKVExamplesReadmeWork(t *testing.T) {
	h := kvhttp.Handler(newFake())
	for _, path := range []string{"/keys/some-key/", "/keys/other"} {
		wantAnswer(t, call(t, h, "GET", path, ""), 200, `{"value":""}`)
		wantAnswer(t, call(t, h, "POST", path, `{"value": "some-value"}`), 200, `{"value":"some-value"}`)
		wantAnswer(t, call(t, h, "GET", path, ""), 200, `{"value":"some-value"}`)
	}
}

func TestTheCommandsOfRaftdsReadmeWork(t *testing.T) {
	h := kvhttp.Handler(newFake())
	wantProblem(t, call(t, h, "GET", "/files/foo", ""), 404)
	wantAnswer(t, call(t, h, "POST", "/files/foo", "BAR", "Content-Type: application/x-www-form-urlencoded"), 200, "")
	wantAnswer(t, call(t, h, "GET", "/files/foo", ""), 200, "BAR")
}

func TestSeveralKeysAreOneBatchInTheOrderOfTheKeys(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store)
	w := call(t, h, "POST", "/key", `{"c":"3","a":"1","b":"2","g":"","f":"","e":"","d":"","a":"last"}`)
	wantAnswer(t, w, 200, "")
	wantETag(t, w, `"1"`)
	wantValues(t, store, map[string]string{"a": "last", "b": "2", "c": "3", "d": "", "e": "", "f": "", "g": ""})
	if want := strings.Split("abcdefg", ""); len(store.batches) != 1 || !slices.Equal(store.batches[0], want) {
		t.Errorf("got batches %q, want one of %q", store.batches, want)
	}
}

func TestAnEmptyObjectSetsNothing(t *testing.T) {
	store := newFake()
	wantAnswer(t, call(t, kvhttp.Handler(store), "POST", "/key/", `{}`), 200, "")
	if len(store.batches) != 0 {
		t.Errorf("got batches %q, want none", store.batches)
	}
}

func TestABodyThatIsNotWhatItShouldBeChangesNothing(t *testing.T) {
	notStrings := []string{``, `{`, `null`, `[]`, `"a"`, `{"a":null}`, `{"a":1}`, `{"a":{"b":"c"}}`, `{"b":"1","a":["x"]}`,
		`{"a":"b"} {"c":"d"}`, `{"a":"b"}x`, "{\"a\":\"\xff\"}", `{"a":"\ud83d"}`, `{"a":"\ud83dx"}`, `{"\ude00":"a"}`,
		`{"a":"\ud83dxude00"}`, `{"a":"\\\ud83d\ud83d"}`, `{"a":"\ud83d\`, `{"":"a"}`, `{"a":"b",}`}
	bodies := map[string][]string{
		"/key":      notStrings,
		"/keys/k/":  append(notStrings, `{}`, `{"Value":"v"}`, `{"value":"v","ttl":"5"}`, `{"value":null}`, `{"value":5}`),
		"/join":     append(notStrings, `{}`, `{"id":"a"}`, `{"addr":"b:1"}`, `{"id":"a","addr":"b:1","role":"voter"}`, `{"id":"a","addr":7}`),
		"/remove":   append(notStrings, `{}`, `{"addr":"b:1"}`, `{"id":"a","addr":"b:1"}`, `{"id":7}`),
		"/transfer": append(notStrings[1:], `{}`, `{"addr":"b:1"}`, `{"id":"a","addr":"b:1"}`, `{"id":7}`),
	}
	for path, bodies := range bodies {
		for _, body := range bodies {
			store := newFake()
			w := call(t, kvhttp.Handler(store), "POST", path, body)
			if p := wantProblem(t, w, 400); p.Applied != "no" {
				t.Errorf("%s %q: applied %q, want no", path, body, p.Applied)
			}
			wantValues(t, store, map[string]string{})
			if store.changed != nil {
				t.Errorf("%s %q: changed %q", path, body, store.changed)
			}
		}
	}
}

func TestTextInJSONIsAnyUnicode(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store)
	wantAnswer(t, call(t, h, "POST", "/key", `{"grüße \ud83d\ude00\u00e9":"\u0000<&\\ud83d\"\ufffd�"}`), 200, "")
	wantValues(t, store, map[string]string{"grüße 😀é": "\x00<&\\ud83d\"\ufffd\ufffd"})
	var got map[string]string
	w := call(t, h, "GET", "/key/gr%C3%BC%C3%9Fe%20%F0%9F%98%80%C3%A9", "")
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || !maps.Equal(got, store.values()) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestWhatIsNotUTF8IsNotMangledIntoJSON(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store)
	call(t, h, "PUT", "/files/raw", "\xff\xfe")
	call(t, h, "PUT", "/files/%ff%2F", "text")
	for _, target := range []string{"/key/raw", "/keys/raw/", "/key/%ff%2F"} {
		p := wantProblem(t, call(t, h, "GET", target, ""), 406)
		if !strings.Contains(p.Detail, "/files?key=") {
			t.Errorf("%s: %q does not say where to read it", target, p.Detail)
		}
	}
	wantAnswer(t, call(t, h, "GET", "/files?key=%ff%2F", ""), 200, "text")
	wantAnswer(t, call(t, h, "GET", "/files/raw", ""), 200, "\xff\xfe")
	wantAnswer(t, call(t, h, "GET", "/keys/%ff%2F", ""), 200, `{"value":"text"}`)
}

func TestAFileIsItsBytes(t *testing.T) {
	h := kvhttp.Handler(newFake())
	for i, value := range []string{"", "\x00\xff\r\n", "<html>", strings.Repeat("x", limits.value)} {
		w := call(t, h, "PUT", "/files/f", value, "Content-Type: text/html")
		wantMade(t, w)
		wantETag(t, w, fmt.Sprintf("%q", fmt.Sprint(i+1)))
		w = call(t, h, "GET", "/files/f", "")
		if w.Code != 200 || w.Body.String() != value || w.Header().Get("Content-Type") != "application/octet-stream" {
			t.Errorf("got %d %v and %d bytes, want %d", w.Code, w.Header(), w.Body.Len(), len(value))
		}
		wantETag(t, w, fmt.Sprintf("%q", fmt.Sprint(i+1)))
	}
	wantAnswer(t, call(t, h, "DELETE", "/files/f", ""), 200, "")
	wantAnswer(t, call(t, h, "DELETE", "/files/f", ""), 200, "")
	wantProblem(t, call(t, h, "GET", "/files/f", ""), 404)
}

func TestPartOfAFileCannotBeSet(t *testing.T) {
	store := newFake()
	wantProblem(t, call(t, kvhttp.Handler(store), "PUT", "/files/f", "part", "Content-Range: bytes 0-3/9"), 400)
	wantValues(t, store, map[string]string{})
}

func TestAHeadAnswersTheHeadersOfItsGet(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store)
	call(t, h, "PUT", "/files/f", "value")
	for _, target := range []string{"/files/f", "/files/absent", "/key/f", "/keys/f/", "/keys/absent/", "/status", "/healthz", "/readyz", "/nowhere"} {
		get, head := call(t, h, "GET", target, ""), call(t, h, "HEAD", target, "")
		if head.Code != get.Code || !maps.EqualFunc(head.Header(), get.Header(), slices.Equal) || head.Body.Len() > 0 {
			t.Errorf("%s: HEAD answers %d %v %q, GET %d %v", target, head.Code, head.Header(), head.Body, get.Code, get.Header())
		}
		if want := fmt.Sprint(get.Body.Len()); get.Header().Get("Content-Length") != want {
			t.Errorf("%s: Content-Length %s, want %s", target, get.Header().Get("Content-Length"), want)
		}
	}
}

func TestA503SaysHowLongTheRequestWaited(t *testing.T) {
	leaderless := openStore(t, kvraft.WithJoinFunc(func(context.Context) ([]string, error) { return nil, nil }))
	h := kvhttp.Handler(leaderless, kvhttp.WithTimeout(20*time.Millisecond))
	for _, c := range []struct{ method, target, body string }{
		{"GET", "/key/a", ""}, {"GET", "/key/a?max_staleness=1s", ""}, {"GET", "/key/a?at_least=7", ""}, {"GET", "/key?limit=1", ""},
		{"POST", "/key", `{"a": "b"}`}, {"DELETE", "/key/a", ""}, {"GET", "/watch?from=7", ""}, {"POST", "/remove", `{"id": "n2"}`},
	} {
		if p := wantProblem(t, call(t, h, c.method, c.target, c.body), 503); !strings.Contains(p.Detail, ": gave up after 20ms") {
			t.Errorf("%s %s: %q", c.method, c.target, p.Detail)
		}
	}
}

func TestTheStoresErrorsBecomeStatuses(t *testing.T) {
	deadline := context.DeadlineExceeded
	tests := []struct {
		err     error
		status  int
		applied string
	}{
		{kvraft.ErrInvalid, 400, "no"},
		{kvraft.ErrRefused, 409, "no"},
		{&kvraft.ConflictError{Version: 7}, 412, "no"},
		{kvraft.ErrUnreachable, 502, "no"},
		{fmt.Errorf("%w: %w", kvraft.ErrNoLeader, deadline), 503, "no"},
		{fmt.Errorf("%w: disk full", kvraft.ErrClosed), 503, "no"},
		{kvraft.ErrUnknown, 504, "unknown"},
		{fmt.Errorf("%w: %w: %w", kvraft.ErrUnknown, kvraft.ErrClosed, deadline), 504, "unknown"},
		{fmt.Errorf("waiting: %w", deadline), 504, "unknown"},
		{fmt.Errorf("waiting: %w", context.Canceled), 504, "unknown"},
		{errors.New("never seen before"), 500, "unknown"},
	}
	for _, test := range tests {
		store := newFake()
		store.fail = func(context.Context) error { return test.err }
		h := kvhttp.Handler(store)
		for _, w := range []*httptest.ResponseRecorder{
			call(t, h, "POST", "/key", `{"a":"b"}`),
			call(t, h, "DELETE", "/key/a", ""),
			call(t, h, "POST", "/keys/a/", `{"value":"b"}`),
			call(t, h, "PUT", "/files/a", "b"),
			call(t, h, "PUT", "/files/a", "b", "If-Match: *"),
			call(t, h, "POST", "/join", `{"id":"n9","addr":"h:1"}`),
		} {
			p := wantProblem(t, w, test.status)
			if p.Applied != test.applied {
				t.Errorf("%v: applied %q, want %q", test.err, p.Applied, test.applied)
			}
			if p.Leader["id"] != "n2" || p.Leader["address"] != "10.0.0.2:7000" {
				t.Errorf("%v: leader %v, want n2", test.err, p.Leader)
			}
			if again := w.Header().Get("Retry-After") != ""; again != (test.status == 503) {
				t.Errorf("%v: Retry-After: %v", test.err, again)
			}
		}
		if p := wantProblem(t, call(t, h, "GET", "/files/a", ""), test.status); p.Applied != "" {
			t.Errorf("%v: a read is not applied: %q", test.err, p.Applied)
		}
	}
}

func TestAnErrorsTypeNamesItsDocumentation(t *testing.T) {
	h := kvhttp.Handler(newFake())
	const docs = "https://pkg.go.dev/github.com/kvraft/kvraft#ErrNotFound"
	if p := wantProblem(t, call(t, h, "GET", "/files/absent", ""), 404); p.Type != docs {
		t.Errorf("type %q, want %q", p.Type, docs)
	}
	if p := wantProblem(t, call(t, h, "GET", "/nowhere", ""), 404); p.Type != "about:blank" {
		t.Errorf("type %q: an unknown path is no absent key", p.Type)
	}
}

func TestAProblemNamesNoLeaderWhereNoneIsKnown(t *testing.T) {
	store := newFake()
	store.status.Leader = kvraft.Node{}
	if p := wantProblem(t, call(t, kvhttp.Handler(store), "GET", "/files/absent", ""), 404); p.Leader != nil {
		t.Errorf("leader %v, want none", p.Leader)
	}
}

func TestTheKeyOrTheValueIsTooLong(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store)
	long, large := strings.Repeat("k", limits.key+1), strings.Repeat("v", limits.value+1)
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		wantProblem(t, call(t, h, method, "/files/"+long, "v"), 414)
	}
	wantProblem(t, call(t, h, "POST", "/keys/"+long, `{"value":"v"}`), 414)
	wantProblem(t, call(t, h, "POST", "/key", `{"`+long+`":"v"}`), 413)
	wantProblem(t, call(t, h, "PUT", "/files/k", large), 413)
	wantProblem(t, call(t, h, "PUT", "/files/k", large, "If-None-Match: *"), 413)
	wantValues(t, store, map[string]string{})
}

func TestAPathThatIsNotThereIsNotFound(t *testing.T) {
	h := kvhttp.Handler(newFake())
	for _, path := range []string{"/", "/keyX/a", "/Key/a", "/keyX", "//key/a", "/status/", "/status/x", "/join/", "/v1/key/a", "/files2"} {
		wantProblem(t, call(t, h, "GET", path, ""), 404)
		wantProblem(t, call(t, h, "OPTIONS", path, ""), 404)
	}
}

func TestAMethodThatDoesNotGoIsToldWhichDo(t *testing.T) {
	h := kvhttp.Handler(newFake())
	for path, test := range map[string]struct{ not, allow string }{
		"/key":          {"PUT", "DELETE, GET, HEAD, OPTIONS, POST"},
		"/key/a":        {"POST", "DELETE, GET, HEAD, OPTIONS"},
		"/key?key=a":    {"POST", "DELETE, GET, HEAD, OPTIONS"},
		"/keys/a/":      {"DELETE", "GET, HEAD, OPTIONS, POST"},
		"/files/a":      {"PATCH", "DELETE, GET, HEAD, OPTIONS, POST, PUT"},
		"/files":        {"PATCH", "DELETE, GET, HEAD, OPTIONS, POST, PUT"},
		"/join":         {"GET", "OPTIONS, POST"},
		"/status":       {"POST", "GET, HEAD, OPTIONS"},
		"/healthz":      {"DELETE", "GET, HEAD, OPTIONS"},
		"/readyz":       {"get", "GET, HEAD, OPTIONS"},
		"/key/a?x=%20y": {"PUT", "DELETE, GET, HEAD, OPTIONS"},
	} {
		w := call(t, h, test.not, path, "")
		wantProblem(t, w, 405)
		options := call(t, h, "OPTIONS", path, "")
		wantAnswer(t, options, 204, "")
		for _, w := range []*httptest.ResponseRecorder{w, options} {
			if got := w.Header().Get("Allow"); got != test.allow {
				t.Errorf("%s: Allow: %s, want %s", path, got, test.allow)
			}
		}
	}
}

func TestTwoHandlersInOneProcessShareNothing(t *testing.T) {
	a, b := newFake(), newFake()
	ha, hb := kvhttp.Handler(a), kvhttp.Handler(b)
	call(t, ha, "PUT", "/files/f", "of a")
	call(t, hb, "PUT", "/files/f", "of b")
	wantAnswer(t, call(t, ha, "GET", "/files/f", ""), 200, "of a")
	wantAnswer(t, call(t, hb, "GET", "/files/f", ""), 200, "of b")
}

func TestChangesOfTheMembershipArePassedOnAsTheyAre(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store)
	for _, c := range []struct{ path, body, want string }{
		{"/join", `{"addr":"h:1","id":"n9"}`, "join n9 h:1"},
		{"/join?replica", `{"addr":"h:1","id":"n9"}`, "join n9 h:1 " + given([]kvraft.JoinOption{kvraft.Replica})},
		{"/remove", `{"id":"n9"}`, "remove n9"},
		{"/remove?force&may_return", `{"id":"n9"}`, "remove n9 " + given([]kvraft.RemoveOption{kvraft.Force, kvraft.MayReturn})},
		{"/remove?force=false&may_return=0", `{"id":"n9"}`, "remove n9"},
		{"/transfer", `{"id":"n9"}`, "transfer n9"},
		{"/transfer", ``, "transfer"},
	} {
		store.changed = nil
		wantAnswer(t, call(t, h, "POST", c.path, c.body), 200, "")
		if !slices.Equal(store.changed, []string{c.want}) {
			t.Errorf("POST %s %s: %q, want %q", c.path, c.body, store.changed, c.want)
		}
	}
}

func TestAQueryThatIsNeitherTrueNorFalseIsRefused(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store)
	wantProblem(t, call(t, h, "POST", "/remove?force=yes", `{"id":"n9"}`), 400)
	wantProblem(t, call(t, h, "POST", "/join?replica=2", `{"id":"n9","addr":"h:1"}`), 400)
	if store.changed != nil {
		t.Errorf("changed %q", store.changed)
	}
}

func TestAnswersAreNeitherCachedUnaskedNorGuessedAt(t *testing.T) {
	h := kvhttp.Handler(newFake())
	for _, target := range []string{"/keys/a/", "/files/absent", "/status", "/nowhere"} {
		header := call(t, h, "GET", target, "").Header()
		if header.Get("Cache-Control") != "no-cache" || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", target, header)
		}
	}
}

// FuzzHandler: whatever comes in, the answer is one of those documented, and an
// error changes nothing.
func FuzzHandler(f *testing.F) {
	f.Add("GET", "/key/a", "", "", "")
	f.Add("POST", "/key", `{"a":"b","\ud83d\ude00":"\ud83d"}`, "", `"1-\"\\"`)
	f.Add("POST", "/keys/a/", `{"value":"\\"}`, `"1"`, "1-a")
	f.Add("PUT", "/files/a%2f..//b?key=", "\xff", `W/"1", "2"`, "")
	f.Add("DELETE", "/files?key=a;b", "", "*", `"`)
	f.Add("HEAD", "/files?key=held", "", `"1`, "")
	f.Add("GET", "/files/held?consistency=stale&max_staleness=.5&at_least=1", "", "", "")
	f.Add("GET", "/key?prefix=h&after=%ff&limit=2", "", "", "")
	f.Add("GET", "/key?limit=1", "", `"1"`, "")
	f.Add("POST", "/join", `{"id":"","addr":null}`, ",", "")
	f.Add("OPTIONS", "/status", "", "", "")
	f.Add("GET", "/watch?prefix=%ff&from=1&snapshot", "", "", "")
	f.Add("HEAD", "/watch?from=+1", "", "", "")
	views := openStore(f)
	if _, err := views.Set(f.Context(), "held", []byte("\xfe")); err != nil {
		f.Fatal(err)
	}
	known := []int{200, 201, 204, 304, 400, 404, 405, 406, 412, 413, 414}
	f.Fuzz(func(t *testing.T, method, target, body, tags, key string) {
		r, err := http.NewRequest(method, "http://host"+target, strings.NewReader(body))
		if err != nil {
			t.Skip("no client can send this")
		}
		if tags != "" {
			r.Header.Set("If-Match", tags)
			r.Header.Set("If-None-Match", tags)
		}
		if key != "" {
			r.Header.Set("Idempotency-Key", key)
		}
		store := newFake()
		store.views = views
		store.events, store.end = []kvraft.Event{{Kind: kvraft.EventSet, Key: "held", Value: []byte("\xfe"), Version: 1}}, kvraft.ErrClosed
		store.revision = 1
		store.set("held", []byte("\xfe"))
		w := httptest.NewRecorder()
		kvhttp.Handler(store, kvhttp.WithBodyLimit(4096)).ServeHTTP(w, r)

		if !slices.Contains(known, w.Code) {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
		if w.Header().Get("Raft-Index") == "" {
			t.Errorf("%d without a Raft-Index", w.Code)
		}
		if method == "HEAD" && w.Body.Len() > 0 {
			t.Errorf("a HEAD was answered a body: %q", w.Body)
		}
		if w.Code >= 400 && method != "HEAD" {
			wantProblem(t, w, w.Code)
		}
		if w.Code >= 300 || method == "GET" || method == "HEAD" || method == "OPTIONS" {
			wantValues(t, store, map[string]string{"held": "\xfe"})
		}
		if w.Code == 200 && w.Header().Get("Content-Type") == "application/json" && method != "HEAD" && !json.Valid(w.Body.Bytes()) {
			t.Errorf("not JSON: %q", w.Body)
		}
	})
}

func TestAPutThatMakesItsKeyIsAnswered201(t *testing.T) {
	store := openStore(t)
	h := kvhttp.Handler(store)
	key := keyed(t, store, "made")
	for i, c := range []struct {
		method, target, body, header string
		status                       int
	}{
		{"PUT", "/files/a", "1", "", 201},
		{"PUT", "/files/a", "1", "", 200},
		{"DELETE", "/files/a", "", "", 200},
		{"PUT", "/files/a", "", "", 201},
		{"PUT", "/files/b", "1", "If-None-Match: *", 201},
		{"PUT", "/files/b", "1", "If-Match: *", 200},
		{"PUT", "/files/c", "1", key, 201},
		{"PUT", "/files/c", "1", key, 201}, // as the first was
		{"PUT", "/files/c", "1", "", 200},
		{"POST", "/files/d", "1", "", 200}, // as raftd's
		{"POST", "/keys/e", `{"value":"1"}`, "", 200},
		{"POST", "/key", `{"f":"1"}`, "", 200},
	} {
		if w := call(t, h, c.method, c.target, c.body, c.header); w.Code != c.status {
			t.Errorf("%d: %s %s: got %d %s, want %d", i, c.method, c.target, w.Code, w.Body, c.status)
		}
	}
}
