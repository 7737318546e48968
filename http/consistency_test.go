package kvhttp_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

// reads are targets of each kind of read, ready for more of a query.
var reads = []string{"/files/f?", "/key/f?", "/keys/f/?", "/key?prefix=&"}

// readable is a store with the key f.
func readable(t testing.TB) *fake {
	store := newFake()
	store.set("f", []byte("v"))
	store.views = openStore(t)
	return store
}

func TestTheQueryOfAReadNamesItsLevel(t *testing.T) {
	type options []kvraft.ReadOption
	store := readable(t)
	h := kvhttp.Handler(store)
	for query, opts := range map[string]options{
		"":                                    {},
		"consistency=linearizable":            {kvraft.Linearizable},
		"consistency=leader":                  {kvraft.LeaderLocal},
		"consistency=stale":                   {kvraft.Stale},
		"max_staleness=150ms":                 {kvraft.MaxStaleness(150 * time.Millisecond)},
		"max_staleness=1m30s":                 {kvraft.MaxStaleness(90 * time.Second)},
		"max_staleness=5":                     {kvraft.MaxStaleness(5 * time.Second)},
		"max_staleness=.25":                   {kvraft.MaxStaleness(250 * time.Millisecond)},
		"at_least=0":                          {kvraft.AtLeast(0)},
		"at_least=17":                         {kvraft.AtLeast(17)},
		"at_least=17&max_staleness=5":         {kvraft.MaxStaleness(5 * time.Second), kvraft.AtLeast(17)},
		"at_least=17&consistency=stale":       {kvraft.AtLeast(17), kvraft.Stale},
		"consistency=stale&max_staleness=5ms": {kvraft.MaxStaleness(5 * time.Millisecond), kvraft.Stale},
	} {
		for _, target := range reads {
			store.asked = ""
			w := call(t, h, "GET", target+query, "")
			if want := given(opts); w.Code != 200 || store.asked != want {
				t.Errorf("%s%s: got %d and %s, want %s", target, query, w.Code, store.asked, want)
			}
		}
	}
}

func TestALevelThatCannotBeIsRefused(t *testing.T) {
	store := readable(t)
	h := kvhttp.Handler(store)
	for query, why := range map[string]string{
		"consistency=":                                     "linearizable, leader and stale",
		"consistency=Stale":                                "linearizable, leader and stale",
		"consistency=stale&consistency=stale":              "more than once",
		"max_staleness=":                                   "duration above 0",
		"max_staleness=0":                                  "duration above 0",
		"max_staleness=-5s":                                "duration above 0",
		"max_staleness=.":                                  "duration above 0",
		"max_staleness=1.2.3":                              "duration above 0",
		"max_staleness=1h5":                                "duration above 0",
		"max_staleness=9999999999999":                      "duration above 0",
		"max_staleness=5&max_staleness=5":                  "more than once",
		"at_least=":                                        "want a version",
		"at_least=-1":                                      "want a version",
		"at_least=%2217%22":                                "without quotes",
		"at_least=18446744073709551616":                    "want a version",
		"at_least=1&at_least=1":                            "more than once",
		"at_least=1&consistency=linearizable":              "use one or the other",
		"at_least=1&consistency=leader":                    "use one or the other",
		"max_staleness=5&consistency=leader":               "use one or the other",
		"max_staleness=5&at_least=1&consistency=leader":    "use one or the other",
		"max_staleness=5s&at_least=x&consistency=stale":    "want a version",
		"max_staleness=5s&at_least=1&consistency=eventual": "linearizable, leader and stale",
	} {
		for _, target := range reads {
			p := wantProblem(t, call(t, h, "GET", target+query, ""), 400)
			if !strings.Contains(p.Detail, why) {
				t.Errorf("%s%s: %q does not say %q", target, query, p.Detail, why)
			}
		}
	}
	if store.asked != "" {
		t.Errorf("the store was read: %s", store.asked)
	}
}

func TestAWriteHasNoLevel(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store)
	const query = "?consistency=nonsense&max_staleness=&at_least=x"
	wantMade(t, call(t, h, "PUT", "/files/f"+query, "v", "If-None-Match: *"))
	store.asked = "nothing"
	wantAnswer(t, call(t, h, "POST", "/keys/f/"+query, `{"value":"w"}`, "If-Match: *"), 200, `{"value":"w"}`)
	if store.asked != "" {
		t.Errorf("a condition was looked at with %s", store.asked)
	}
	wantAnswer(t, call(t, h, "DELETE", "/key/f"+query, ""), 200, "")
	wantAnswer(t, call(t, h, "POST", "/key"+query, `{"f":"x"}`), 200, "")
	wantValues(t, store, map[string]string{"f": "x"})
}

func TestANodeThatIsNotFreshEnoughSaysSo(t *testing.T) {
	store := openStore(t)
	h := kvhttp.Handler(store, kvhttp.WithTimeout(10*time.Millisecond))
	version, err := store.Set(t.Context(), "f", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range reads {
		w := call(t, h, "GET", fmt.Sprintf("%sat_least=%d", target, version+1), "")
		p := wantProblem(t, w, 503)
		if !strings.HasSuffix(p.Type, "#ErrStale") || p.Applied != "" || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: got %v %+v", target, w.Header(), p)
		}
		if w := call(t, h, "GET", fmt.Sprintf("%sat_least=%d", target, version), ""); w.Code != 200 {
			t.Errorf("%s: got %d %s", target, w.Code, w.Body)
		}
	}
}

func TestTheETagOfAWriteIsAVersionToReadAtLeast(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	version := strings.Trim(call(t, h, "PUT", "/files/f", "v").Header().Get("ETag"), `"`)
	wantAnswer(t, call(t, h, "GET", "/files/f?max_staleness=1h&at_least="+version, ""), 200, "v")
}
