package kvhttp_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

// openStore opens a real store, alone and in memory.
func openStore(t testing.TB, opts ...kvraft.Option) *kvraft.Store {
	t.Helper()
	store, err := kvraft.Open("", append(opts, kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"),
		kvraft.WithTiming(kvraft.Timing{Heartbeat: 100 * time.Millisecond}))...)
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

func TestARealStoreAnswersAsTheFakeDoes(t *testing.T) {
	store := openStore(t)
	h := kvhttp.Handler(store)
	long, large := strings.Repeat("k", 1<<10+1), strings.Repeat("v", 1<<20+1)

	created := call(t, h, "PUT", "/files/f", "old", "If-None-Match: *")
	wantAnswer(t, created, 201, "")
	current := created.Header().Get("ETag")
	for _, header := range []string{"If-None-Match: *", `If-Match: "99"`, `If-Match: "98", "99"`, "If-None-Match: W/" + current} {
		w := call(t, h, "PUT", "/files/f", "new", header)
		wantProblem(t, w, 412)
		wantETag(t, w, current)
	}
	wantProblem(t, call(t, h, "DELETE", "/key/absent", "", "If-Match: *"), 412)
	wantAnswer(t, call(t, h, "DELETE", "/key/absent", ""), 200, "")
	wantAnswer(t, call(t, h, "GET", "/files/f", "", "If-None-Match: "+current), 304, "")
	wantAnswer(t, call(t, h, "POST", "/keys/f/", `{"value":"new"}`, "If-Match: "+current), 200, `{"value":"new"}`)
	wantAnswer(t, call(t, h, "GET", "/key/f?consistency=stale", ""), 200, `{"f":"new"}`)

	wantProblem(t, call(t, h, "GET", "/files/absent", ""), 404)
	wantProblem(t, call(t, h, "POST", "/key", `{"a":"b","":"c"}`), 400)
	wantProblem(t, call(t, h, "POST", "/join", `{"id":"n 2","addr":"nowhere"}`), 400)
	wantProblem(t, call(t, h, "PUT", "/files/f", large), 413)
	wantProblem(t, call(t, h, "PUT", "/files/"+long, "v"), 414)
	wantProblem(t, call(t, h, "GET", "/files?key="+long, ""), 404) // another node's limit may have let it in
	wantProblem(t, call(t, h, "GET", "/files/a", ""), 404)         // of {"a":"b","":"c"}

	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if p := wantProblem(t, call(t, h, "PUT", "/files/f", "late"), 503); p.Applied != "no" {
		t.Errorf("applied %q, want no", p.Applied)
	}
	wantProblem(t, call(t, h, "GET", "/healthz", ""), 503)
	wantProblem(t, call(t, h, "GET", "/readyz", ""), 503)
}

// Two stores and two handlers, closed and opened again: nothing that they share
// breaks, and no goroutine is left.
func TestTwoStoresAndTwoHandlersLeaveNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	dirs := []string{t.TempDir(), t.TempDir()}
	for round := range 2 {
		var stores []*kvraft.Store
		for i, dir := range dirs {
			store, err := kvraft.Open(dir, kvraft.WithAddr("127.0.0.1:0"))
			if err != nil {
				t.Fatal(err)
			}
			stores = append(stores, store)
			h := kvhttp.Handler(store)
			if round == 0 {
				wantAnswer(t, call(t, h, "POST", "/key", fmt.Sprintf(`{"store":"%d"}`, i)), 200, "")
			}
		}
		for i, store := range stores {
			wantAnswer(t, call(t, kvhttp.Handler(store), "GET", "/key/store", ""), 200, fmt.Sprintf(`{"store":"%d"}`, i))
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for began := time.Now(); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Since(began) > 10*time.Second {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
