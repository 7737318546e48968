package kvhttp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

type listing struct {
	Entries []struct {
		Key, Value  string
		KeyBase64   []byte `json:"key_base64"`
		ValueBase64 []byte `json:"value_base64"`
		Version     uint64
	}
	Version uint64
	More    bool
}

func (l listing) keys() (keys []string) {
	for _, entry := range l.Entries {
		keys = append(keys, entry.Key+string(entry.KeyBase64))
	}
	return keys
}

func TestAListingIsAPageOfTheKeysInOrder(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	wantAnswer(t, call(t, h, "GET", "/key?prefix=", ""), 200, `{"entries":[],"version":0,"more":false}`)
	for i, key := range []string{"b/2", "a", "b/1", "c", "b", "b/3", "é<"} {
		wantMade(t, call(t, h, "PUT", "/files?key="+url.QueryEscape(key), fmt.Sprint(i)))
	}
	const (
		a  = `{"key":"a","value":"1","version":2}`
		b  = `{"key":"b","value":"4","version":5}`
		b1 = `{"key":"b/1","value":"2","version":3}`
		b2 = `{"key":"b/2","value":"0","version":1}`
		b3 = `{"key":"b/3","value":"5","version":6}`
		c  = `{"key":"c","value":"3","version":4}`
		e  = `{"key":"é\u003c","value":"6","version":7}`
	)
	for query, want := range map[string]struct {
		entries []string
		more    bool
	}{
		"prefix=":                       {[]string{a, b, b1, b2, b3, c, e}, false},
		"prefix=&limit=1":               {[]string{a}, true},
		"prefix=&after=&limit=":         {[]string{a, b, b1, b2, b3, c, e}, false},
		"limit=7":                       {[]string{a, b, b1, b2, b3, c, e}, false},
		"limit=6":                       {[]string{a, b, b1, b2, b3, c}, true},
		"limit=1&after=c":               {[]string{e}, false},
		"after=":                        {[]string{a, b, b1, b2, b3, c, e}, false},
		"after=b":                       {[]string{b1, b2, b3, c, e}, false},
		"after=bb":                      {[]string{c, e}, false},
		"after=%ff":                     {nil, false},
		"prefix=b":                      {[]string{b, b1, b2, b3}, false},
		"prefix=b/":                     {[]string{b1, b2, b3}, false},
		"prefix=b&limit=2":              {[]string{b, b1}, true},
		"prefix=b&limit=2&after=b/1":    {[]string{b2, b3}, false},
		"prefix=b/&after=a":             {[]string{b1, b2, b3}, false},
		"prefix=b/&after=b/3":           {nil, false},
		"prefix=b/&after=c":             {nil, false},
		"prefix=x":                      {nil, false},
		"prefix=%C3":                    {[]string{e}, false},
		"prefix=b&x=y&limit=1&after=b1": {nil, false},
	} {
		for _, path := range []string{"/key?", "/key/?"} {
			body := fmt.Sprintf(`{"entries":[%s],"version":7,"more":%v}`, strings.Join(want.entries, ","), want.more)
			w := call(t, h, "GET", path+query, "")
			if w.Code != 200 || w.Body.String() != body || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%s: got %d %v %s, want %s", query, w.Code, w.Header(), w.Body, body)
			}
		}
	}
}

func TestPagesGoThroughAllKeysOnce(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	pairs := map[string]string{}
	for i := range 1001 {
		pairs[fmt.Sprintf("key %d&", i)] = ""
	}
	body, err := json.Marshal(pairs)
	if err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, call(t, h, "POST", "/key", string(body)), 200, "")
	wantMade(t, call(t, h, "PUT", "/files?key=key+%ff", ""))
	want := append(slices.Sorted(maps.Keys(pairs)), "key \xff")

	for limit, size := range map[string]int{"": 100, "&limit=1000": 1000, "&limit=1": 1, "&limit=334": 334} {
		var got []string
		for after, more := "", true; more && len(got) <= len(want); {
			page := list(t, h, "prefix=key"+after+limit)
			if len(page.Entries) > size || page.More && len(page.Entries) < size {
				t.Fatalf("limit %q: a page of %d, and more: %v", limit, len(page.Entries), page.More)
			}
			got, more = append(got, page.keys()...), page.More
			after = "&after=" + url.QueryEscape(got[len(got)-1])
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %q: got %d keys, want %d", limit, len(got), len(want))
		}
	}
}

func list(t testing.TB, h http.Handler, query string) (l listing) {
	t.Helper()
	w := call(t, h, "GET", "/key?"+query, "")
	if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || w.Code != 200 {
		t.Fatalf("got %d %s, %v", w.Code, w.Body, err)
	}
	return l
}

func TestWhatIsNotUTF8IsListedInBase64(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	call(t, h, "PUT", "/files/a", "\xff\x00")
	call(t, h, "PUT", "/files/%ff", "text")
	call(t, h, "PUT", "/files/%fe", "")
	wantAnswer(t, call(t, h, "GET", "/key?prefix=", ""), 200, `{"entries":[`+
		`{"key":"a","value_base64":"/wA=","version":1},`+
		`{"key_base64":"/g==","value":"","version":3},`+
		`{"key_base64":"/w==","value":"text","version":2}],"version":3,"more":false}`)
}

func TestAListingEndsWithTheEntryThatMakesItLarge(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	for i := range 6 {
		wantMade(t, call(t, h, "PUT", fmt.Sprint("/files/", i), strings.Repeat("x", 1<<20)))
	}
	if first := list(t, h, "prefix="); !slices.Equal(first.keys(), []string{"0", "1", "2", "3"}) || !first.More {
		t.Errorf("got %q, more: %v", first.keys(), first.More)
	}
	if rest := list(t, h, "after=3"); !slices.Equal(rest.keys(), []string{"4", "5"}) || rest.More {
		t.Errorf("got %q, more: %v", rest.keys(), rest.More)
	}
}

func TestAListingThatCannotBeIsRefused(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	for _, query := range []string{"limit=0", "limit=-1", "limit=1001", "limit=x", "limit=1e2", "limit=99999999999999999999",
		"limit=1&limit=1", "prefix=a&prefix=a", "after=a&after=a", "prefix=a&key=", "prefix=a;b", "prefix=%zz", "prefix=&at_least=x"} {
		wantProblem(t, call(t, h, "GET", "/key?"+query, ""), 400)
	}
}

func TestAReadThatHasLostItsKeyIsNoListing(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	for _, target := range []string{"/key", "/key/", "/key?key=", "/key?consistency=stale", "/key?key=&prefix="} {
		if p := wantProblem(t, call(t, h, "GET", target, ""), 400); !strings.Contains(p.Detail, "/key?prefix= lists") {
			t.Errorf("%s: %q does not say how to list", target, p.Detail)
		}
	}
	wantProblem(t, call(t, h, "GET", "/files?prefix=", ""), 400)
	wantProblem(t, call(t, h, "GET", "/keys?prefix=", ""), 400)
	wantProblem(t, call(t, h, "DELETE", "/key?prefix=", ""), 400)
}

func TestTheETagOfAListingIsTheVersionOfTheStore(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	call(t, h, "POST", "/key", `{"a":"1","b":"2"}`)
	const first, second = "/key?prefix=&limit=1", "/key?prefix=&limit=1&after=a"
	w := call(t, h, "GET", first, "")
	wantETag(t, w, `"1"`)
	wantAnswer(t, call(t, h, "GET", first, "", `If-None-Match: "1"`), 304, "")
	page := `{"entries":[{"key":"b","value":"2","version":1}],"version":1,"more":false}`
	wantAnswer(t, call(t, h, "GET", second, "", `If-Match: "1"`), 200, page)

	call(t, h, "DELETE", "/key/a", "")
	w = call(t, h, "GET", second, "", `If-Match: "1"`)
	wantETag(t, w, `"2"`)
	if p := wantProblem(t, w, 412); !strings.Contains(p.Detail, "version 2") {
		t.Errorf("detail %q", p.Detail)
	}
	w = call(t, h, "GET", first, "", `If-None-Match: "1"`)
	wantETag(t, w, `"2"`)
	wantAnswer(t, w, 200, strings.Replace(page, `"version":1,"more"`, `"version":2,"more"`, 1))
	wantProblem(t, call(t, h, "GET", first, "", "If-Match: 1"), 400)
}

func TestAHeadOfAListingAnswersTheHeadersOfItsGet(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	call(t, h, "POST", "/key", `{"a":"1"}`)
	get, head := call(t, h, "GET", "/key?prefix=", ""), call(t, h, "HEAD", "/key?prefix=", "")
	if head.Code != 200 || head.Body.Len() > 0 || !maps.EqualFunc(head.Header(), get.Header(), slices.Equal) {
		t.Errorf("HEAD answers %d %v %q, GET %v", head.Code, head.Header(), head.Body, get.Header())
	}
}

func TestAListingThatTheStoreCannotGiveIsItsError(t *testing.T) {
	store := newFake()
	store.fail = func(context.Context) error { return kvraft.ErrNoLeader }
	if p := wantProblem(t, call(t, kvhttp.Handler(store), "GET", "/key?prefix=", ""), 503); p.Applied != "" {
		t.Errorf("a listing is not applied: %q", p.Applied)
	}
}
