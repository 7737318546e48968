package kvhttp_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

// at5 is a handler over a store whose key "f" has version 5, and the store.
func at5() (http.Handler, *fake) {
	store := newFake()
	store.revision = 5
	store.set("f", []byte("old"))
	return kvhttp.Handler(store), store
}

func TestAWriteIsMadeOnlyUnderItsConditions(t *testing.T) {
	tests := []struct {
		header          string
		present, absent bool // whether the write is made to a key at version 5, and to one that is not there
	}{
		{`If-Match: "5"`, true, false},
		{`If-Match: "4"`, false, false},
		{`If-Match: "0"`, false, false},
		{`If-Match: "05"`, false, false},
		{`If-Match: "+5"`, false, false},
		{`If-Match: "5-gzip"`, false, false},
		{`If-Match: W/"5"`, false, false},
		{`If-Match: *`, true, false},
		{`If-Match: "3", "5"`, true, false},
		{`If-Match: "5,", "x,5"`, false, false},
		{`If-Match: , "3",,"5" ,`, true, false},
		{`If-None-Match: *`, false, true},
		{`If-None-Match: "5"`, false, true},
		{`If-None-Match: W/"5"`, false, true},
		{`If-None-Match: "4"`, true, true},
		{`If-None-Match: "W/5"`, true, true},
		{`If-None-Match: "4", "5"`, false, true},
		{`If-None-Match: "0"`, true, true},
	}
	for _, test := range tests {
		for path, made := range map[string]bool{"f": test.present, "absent": test.absent} {
			for method, target := range map[string]string{"PUT": "/files/", "POST": "/keys/", "DELETE": "/key/"} {
				h, store := at5()
				before := store.values()
				w := call(t, h, method, target+path, `{"value":"new"}`, test.header)
				if made {
					status := 200
					if method == "PUT" && path == "absent" {
						status = 201
					}
					if w.Code != status {
						t.Errorf("%s %s%s, %s: got %d %s", method, target, path, test.header, w.Code, w.Body)
					}
					if _, ok := store.values()[path]; ok == (method == "DELETE") {
						t.Errorf("%s %s%s, %s: not made", method, target, path, test.header)
					}
					continue
				}
				if p := wantProblem(t, w, 412); p.Applied != "no" {
					t.Errorf("%s: applied %q", test.header, p.Applied)
				}
				wantValues(t, store, before)
				if got, want := w.Header().Get("ETag"), map[string]string{"f": `"5"`}[path]; got != want {
					t.Errorf("%s %s%s, %s: got ETag %s, want %s", method, target, path, test.header, got, want)
				}
			}
		}
	}
}

func TestBothConditionsMustHold(t *testing.T) {
	h, store := at5()
	wantProblem(t, call(t, h, "PUT", "/files/f", "new", `If-Match: "5"`, `If-None-Match: "5"`), 412)
	wantProblem(t, call(t, h, "PUT", "/files/f", "new", `If-Match: *`, `If-None-Match: *`), 412)
	wantProblem(t, call(t, h, "PUT", "/files/absent", "new", `If-Match: *`, `If-None-Match: *`), 412)
	wantValues(t, store, map[string]string{"f": "old"})
	wantMade(t, call(t, h, "PUT", "/files/f", "new", `If-Match: "4"`, `If-Match: "5"`, `If-None-Match: "4"`))
	wantValues(t, store, map[string]string{"f": "new"})
}

func TestAConditionThatCannotBeReadIsNotIgnored(t *testing.T) {
	for _, name := range []string{"If-Match: ", "If-None-Match: "} {
		for _, tags := range []string{"", "5", `"5`, `5"`, `w/"5"`, `"5", *`, `*, *`, ",", `"5" x`, "**"} {
			h, store := at5()
			wantProblem(t, call(t, h, "PUT", "/files/f", "new", name+tags), 400)
			wantProblem(t, call(t, h, "GET", "/files/f", "", name+tags), 400)
			wantValues(t, store, map[string]string{"f": "old"})
		}
		h, store := at5()
		wantProblem(t, call(t, h, "POST", "/key", `{"f":"new"}`, name+"*"), 400)
		wantValues(t, store, map[string]string{"f": "old"})
	}
}

func TestAWriteThatComesBetweenMakesAConditionFail(t *testing.T) {
	for _, header := range []string{`If-Match: "5"`, `If-Match: "4", "5"`, `If-None-Match: "9", "6"`} {
		h, store := at5()
		store.before = func(f *fake) { f.revision++; f.set("f", []byte("between")) }
		w := call(t, h, "PUT", "/files/f", "new", header)
		wantProblem(t, w, 412)
		wantETag(t, w, `"6"`)
		wantValues(t, store, map[string]string{"f": "between"})
	}
}

func TestAConditionThatStillHoldsIsTriedAgain(t *testing.T) {
	for _, header := range []string{`If-Match: *`, `If-Match: "5", "6"`, `If-None-Match: "4"`} {
		h, store := at5()
		store.before = func(f *fake) { f.revision++; f.set("f", []byte("between")) }
		w := call(t, h, "PUT", "/files/f", "new", header)
		wantAnswer(t, w, 200, "")
		wantETag(t, w, `"7"`)
		wantValues(t, store, map[string]string{"f": "new"})
	}
}

func TestAReadAnswersOnlyWhatTheClientHasNot(t *testing.T) {
	for header, status := range map[string]int{
		`If-None-Match: "5"`:      304,
		`If-None-Match: W/"5"`:    304,
		`If-None-Match: "1", "5"`: 304,
		`If-None-Match: *`:        304,
		`If-None-Match: "6"`:      200,
		`If-Match: "5"`:           200,
		`If-Match: *`:             200,
		`If-Match: "6"`:           412,
		`If-Match: W/"5"`:         412,
	} {
		h, _ := at5()
		for _, path := range []string{"/files/f", "/key/f", "/keys/f/"} {
			for _, method := range []string{"GET", "HEAD"} {
				w := call(t, h, method, path, "", header)
				if w.Code != status {
					t.Errorf("%s %s, %s: got %d, want %d", method, path, header, w.Code, status)
				}
				if status == 304 && (w.Body.Len() > 0 || w.Header().Get("Content-Type") != "") {
					t.Errorf("304 with %v %q", w.Header(), w.Body)
				}
				wantETag(t, w, `"5"`)
			}
		}
		wantProblem(t, call(t, h, "GET", "/files/absent", "", header), 404)
		w := call(t, h, "GET", "/keys/absent/", "", header)
		if strings.HasPrefix(header, "If-Match") {
			wantProblem(t, w, 412)
			wantETag(t, w, "")
		} else {
			wantAnswer(t, w, 200, `{"value":""}`)
		}
	}
}

func TestAConflictWithTheVersionThatWasAskedForEndsTheWrite(t *testing.T) {
	store := newFake()
	store.fail = func(context.Context) error { return &kvraft.ConflictError{Version: 0} }
	wantProblem(t, call(t, kvhttp.Handler(store), "DELETE", "/files/f", "", "If-None-Match: *"), 412)
}
