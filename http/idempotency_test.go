package kvhttp_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

func TestEveryAnswerCarriesAnIndex(t *testing.T) {
	store := readable(t)
	h := kvhttp.Handler(store, kvhttp.WithBodyLimit(9))
	check := func(w *httptest.ResponseRecorder, status int, index string) {
		t.Helper()
		if got := w.Header().Values("Raft-Index"); w.Code != status || len(got) != 1 || got[0] != index {
			t.Errorf("got %d with Raft-Index %q, want %d with %s", w.Code, got, status, index)
		}
	}
	check(call(t, h, "GET", "/files/f", ""), 200, "100")
	check(call(t, h, "PUT", "/files/f", "new"), 200, "101") // of the time when the answer is written
	check(call(t, h, "HEAD", "/key/f", ""), 200, "101")
	check(call(t, h, "GET", "/key?prefix=", ""), 200, "101")
	check(call(t, h, "GET", "/healthz", ""), 200, "101")
	check(call(t, h, "OPTIONS", "/key/f", ""), 204, "101")
	check(call(t, h, "GET", "/files/f", "", `If-None-Match: *`), 304, "101")
	check(call(t, h, "GET", "/key", ""), 400, "101")
	check(call(t, h, "GET", "/nowhere", ""), 404, "101")
	check(call(t, h, "PATCH", "/key", ""), 405, "101")
	check(call(t, h, "DELETE", "/key/f", "", `If-Match: "9"`), 412, "101")
	check(call(t, h, "PUT", "/files/f", "0123456789"), 413, "101")
	store.fail = func(context.Context) error { return kvraft.ErrNoLeader }
	check(call(t, h, "GET", "/files/f", ""), 503, "101")
}

// keyed is an Idempotency-Key header of a name, with an index from an answer.
func keyed(t testing.TB, store kvhttp.Store, name string) string {
	t.Helper()
	index := call(t, kvhttp.Handler(store), "HEAD", "/healthz", "").Header().Get("Raft-Index")
	return "Idempotency-Key: " + index + "-" + name
}

func TestARepetitionIsAnsweredAsTheFirstWasAndTakesEffectOnce(t *testing.T) {
	store := openStore(t)
	h := kvhttp.Handler(store)
	for i, test := range []struct{ method, path, body, condition string }{
		{"PUT", "/files/%s", "first", ""},
		{"POST", "/files/%s", "first", ""},
		{"PUT", "/files/%s", "first", "If-None-Match: *"},
		{"PUT", "/files/%s", "first", "If-Match: %s"},
		{"PUT", "/files/%s", "never", `If-Match: "99999"`},
		{"POST", "/keys/%s/", `{"value":"first"}`, ""},
		{"POST", "/keys/%s/", `{"value":"first"}`, "If-None-Match: *"},
		{"POST", "/keys/%s/", `{"value":"never"}`, `If-Match: "99999"`},
		{"POST", "/key", `{"%s":"first"}`, ""},
		{"DELETE", "/key/%s", "", ""},
		{"DELETE", "/key/%s", "", "If-Match: %s"},
		{"DELETE", "/files/%s", "", "If-None-Match: *"},
	} {
		key := fmt.Sprint("key", i)
		fill := func(format, with string) string { return strings.ReplaceAll(format, "%s", with) }
		headers := []string{keyed(t, store, fmt.Sprint("name", i))}
		switch test.condition {
		case "":
		case "If-None-Match: *":
			headers = append(headers, test.condition)
		default:
			created := call(t, h, "PUT", "/files/"+key, "created")
			headers = append(headers, fill(test.condition, created.Header().Get("ETag")))
		}
		send := func() *httptest.ResponseRecorder {
			return call(t, h, test.method, fill(test.path, key), fill(test.body, key), headers...)
		}
		first := send()
		if refused := strings.Contains(test.condition, "99999"); refused != (first.Code == 412) || !refused && first.Code/100 != 2 {
			t.Errorf("%v: got %d %s", test, first.Code, first.Body)
		}
		wantMade(t, call(t, h, "PUT", "/files/"+key, "second"))
		for range 2 {
			again := send()
			wantAnswer(t, again, first.Code, first.Body.String())
			wantETag(t, again, first.Header().Get("ETag"))
			wantAnswer(t, call(t, h, "GET", "/files/"+key, ""), 200, "second")
		}
	}
}

func TestAConditionThatTakesALookFirstGoesWithoutAnIdempotencyKey(t *testing.T) {
	for _, condition := range []string{`If-Match: *`, `If-Match: "5", "6"`, `If-Match: W/"5"`, `If-None-Match: "5"`, `If-None-Match: "4"`} {
		for method, target := range map[string]string{"PUT": "/files/f", "POST": "/keys/f/", "DELETE": "/key/f"} {
			h, store := at5()
			p := wantProblem(t, call(t, h, method, target, `{"value":"new"}`, condition, "Idempotency-Key: 1-a"), 400)
			if p.Applied != "no" || !strings.Contains(p.Detail, "If-None-Match: *") {
				t.Errorf("%s, %s: %+v does not say which conditions go", method, condition, p)
			}
			wantValues(t, store, map[string]string{"f": "old"})
		}
	}
}

func TestAnotherWriteUnderTheSameIdempotencyKeyIsRefused(t *testing.T) {
	store := openStore(t)
	h := kvhttp.Handler(store)
	key := keyed(t, store, "a")
	wantMade(t, call(t, h, "PUT", "/files/f", "one", key))
	for _, other := range [][3]string{
		{"PUT", "/files/f", "two"}, {"PUT", "/files/g", "one"}, {"DELETE", "/files/f", ""}, {"POST", "/key", `{"f":"one","g":"one"}`}, {"POST", "/keys/f/", `{"value":"two"}`},
	} {
		p := wantProblem(t, call(t, h, other[0], other[1], other[2], key), 422)
		if p.Applied != "no" || !strings.HasSuffix(p.Type, "#ErrReused") || !strings.Contains(p.Detail, `"a"`) {
			t.Errorf("%v: %+v", other, p)
		}
	}
	wantMade(t, call(t, h, "PUT", "/files/f", "one", key))
	wantAnswer(t, call(t, h, "GET", "/files/f", ""), 200, "one")
	wantProblem(t, call(t, h, "GET", "/files/g", ""), 404)
}

func TestAnIdempotencyKeyIsTheSameInEveryForm(t *testing.T) {
	store := openStore(t)
	h := kvhttp.Handler(store)
	const name = "Idempotency-Key: "
	plain := strings.TrimPrefix(keyed(t, store, `a-\b c`), name)
	quoted := name + `"` + strings.ReplaceAll(plain, `\`, `\\`) + `"`
	first := call(t, h, "PUT", "/files/f", "first", quoted)
	wantMade(t, first)
	wantMade(t, call(t, h, "PUT", "/files/f", "second"))
	for _, headers := range [][]string{{quoted}, {quoted, quoted}} {
		w := call(t, h, "PUT", "/files/f", "first", headers...)
		wantMade(t, w)
		wantETag(t, w, first.Header().Get("ETag"))
	}

	plain = strings.TrimPrefix(keyed(t, store, "a;b:c"), name)
	first = call(t, h, "PUT", "/files/f", "third", name+plain)
	for _, headers := range [][]string{{name + plain}, {name + `"` + plain + `"`}, {name + `"` + plain + `"`, name + plain}} {
		w := call(t, h, "PUT", "/files/f", "third", headers...)
		wantAnswer(t, w, 200, "")
		wantETag(t, w, first.Header().Get("ETag"))
	}
}

func TestAnIdempotencyKeyThatCannotBeReadIsNotIgnored(t *testing.T) {
	for _, key := range []string{"", "8b1f9a52", "7", "7-", "-a", "x-7", "-7-a", `""`, `"7-a`, `7-a"`, `"7-a" x`, `"7-a", "7-b"`,
		`"7-\a"`, `"7-\`, `"7-` + "\t" + `"`, "7-a, 7-b", "7-a,7-b", "7-a b", "7-ä", `"7-ä"`, "7-" + strings.Repeat("a", 255), "99999999999999999999-a"} {
		for _, request := range [][3]string{
			{"PUT", "/files/f", "v"}, {"POST", "/keys/f/", `{"value":"v"}`}, {"POST", "/key", `{"f":"v"}`}, {"POST", "/key", `{}`}, {"DELETE", "/key/f", ""},
		} {
			h, store := at5()
			p := wantProblem(t, call(t, h, request[0], request[1], request[2], "Idempotency-Key: "+key), 400)
			if p.Applied != "no" || !strings.Contains(p.Detail, "Raft-Index") {
				t.Errorf("%q: %+v does not say where INDEX comes from", key, p)
			}
			wantValues(t, store, map[string]string{"f": "old"})
		}
	}
}

func TestARequestHasOneIdempotencyKey(t *testing.T) {
	for _, keys := range [][]string{{"7-a", "7-b"}, {"7-a", "8-a"}, {"7-a", `"7-a"`, "7-b"}} {
		var headers []string
		for _, key := range keys {
			headers = append(headers, "Idempotency-Key: "+key)
		}
		h, store := at5()
		wantProblem(t, call(t, h, "PUT", "/files/f", "v", headers...), 400)
		wantProblem(t, call(t, h, "POST", "/key", `{"f":"v"}`, headers...), 400)
		wantValues(t, store, map[string]string{"f": "old"})
	}
}

func TestAnEmptyObjectSetsNothingUnderAnIdempotencyKeyToo(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	for range 2 {
		wantAnswer(t, call(t, h, "POST", "/key", `{}`, "Idempotency-Key: 0-a"), 200, "")
	}
}

func TestReadsAndJoinsIgnoreAnIdempotencyKey(t *testing.T) {
	h, store := at5()
	wantAnswer(t, call(t, h, "GET", "/files/f", "", "Idempotency-Key: x"), 200, "old")
	wantAnswer(t, call(t, h, "POST", "/join", `{"id":"n9","addr":"h:1"}`, "Idempotency-Key: x"), 200, "")
	if len(store.changed) != 1 {
		t.Errorf("changed %q", store.changed)
	}
}

func TestAnIndexThatTheLogHasNotReachedIsNotTaken(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	for _, request := range [][3]string{{"PUT", "/files/f", "v"}, {"POST", "/key", `{"f":"v"}`}} {
		p := wantProblem(t, call(t, h, request[0], request[1], request[2], "Idempotency-Key: 9999999-a"), 400)
		if p.Applied != "no" || !strings.Contains(p.Detail, "INDEX 9999999") {
			t.Errorf("%+v", p)
		}
	}
	wantProblem(t, call(t, h, "GET", "/files/f", ""), 404)
}

func TestAnUnknownOutcomeSaysThatTheRequestCanBeRepeated(t *testing.T) {
	for _, cause := range []error{context.DeadlineExceeded, kvraft.ErrClosed} {
		store := newFake()
		store.fail = func(context.Context) error { return fmt.Errorf("%w: %w", kvraft.ErrUnknown, cause) }
		h := kvhttp.Handler(store)
		for _, request := range [][3]string{
			{"PUT", "/files/f", "v"}, {"POST", "/keys/f/", `{"value":"v"}`}, {"POST", "/key", `{"f":"v"}`}, {"DELETE", "/key/f", ""},
		} {
			for header, repeatable := range map[string]bool{"Idempotency-Key: 1-a": true, "X: y": false} {
				p := wantProblem(t, call(t, h, request[0], request[1], request[2], header), 504)
				if p.Applied != "unknown" || !strings.HasSuffix(p.Type, "#ErrUnknown") {
					t.Errorf("%v, %s: %+v", request, header, p)
				}
				if strings.Contains(p.Detail, "repeated safely") != repeatable {
					t.Errorf("%v, %s: detail %q", request, header, p.Detail)
				}
			}
		}
	}
}
