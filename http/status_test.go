package kvhttp_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

func TestStatusIsHraftdsAndMore(t *testing.T) {
	store := newFake()
	store.status.Term, store.status.CommitIndex, store.status.AppliedIndex = 3, 20, 19
	store.status.Version, store.status.Keys, store.status.Bytes = 12, 2, 34
	store.status.Protection = kvraft.SecretShared
	store.status.Nodes = append(store.status.Nodes, kvraft.Node{ID: "n4", Addr: "10.0.0.4:7000", Replica: true})
	store.status.Progress = map[string]kvraft.Progress{"n3": {Index: 7, Behind: 12, Bytes: 345, Rate: 67}}
	w := call(t, kvhttp.Handler(store), "GET", "/status", "")
	var got, want any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(`{
		"me":        {"id":"n1","address":"10.0.0.1:7000"},
		"leader":    {"id":"n2","address":"10.0.0.2:7000"},
		"followers": [{"id":"n1","address":"10.0.0.1:7000"}, {"id":"n3","address":"10.0.0.3:7000"}, {"id":"n4","address":"10.0.0.4:7000"}],
		"nodes":     [{"id":"n1","address":"10.0.0.1:7000","voter":true}, {"id":"n2","address":"10.0.0.2:7000","voter":true},
		              {"id":"n3","address":"10.0.0.3:7000","voter":false, "progress":{"index":7,"behind":12,"bytes":345,"bytes_per_second":67}},
		              {"id":"n4","address":"10.0.0.4:7000","voter":false,"replica":true}],
		"cluster": "c", "state": "follower", "protection": "secret", "term": 3, "commit_index": 20, "applied_index": 19,
		"state_version": 12, "keys": 2, "bytes": 34, "ready": true}`), &want); err != nil {
		t.Fatal(err)
	}
	if w.Code != 200 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestStatusHashesTheStateOnRequest(t *testing.T) {
	body := call(t, kvhttp.Handler(newFake()), "GET", "/status?hash", "").Body.String()
	if want := `"hash":"ab` + strings.Repeat("00", 31) + `","hash_index":19}`; !strings.HasSuffix(strings.TrimSpace(body), want) {
		t.Errorf("got %s, want it to end in %s", body, want)
	}
	if body := call(t, kvhttp.Handler(newFake()), "GET", "/status?hash=false", "").Body.String(); strings.Contains(body, `"hash"`) {
		t.Error(body)
	}
	wantProblem(t, call(t, kvhttp.Handler(newFake()), "GET", "/status?hash=perhaps", ""), 400)
}

func TestWithoutALeaderNobodyIsAFollower(t *testing.T) {
	store := newFake()
	store.status.Leader = kvraft.Node{}
	body := call(t, kvhttp.Handler(store), "GET", "/status", "").Body.String()
	if !strings.Contains(body, `"leader":{"id":"","address":""},"followers":[],"nodes":[{"id":"n1",`) {
		t.Error(body)
	}
}

func TestHealthAndReadinessSayWhyNot(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store)
	wantAnswer(t, call(t, h, "GET", "/healthz", ""), 200, "ok\n")
	wantAnswer(t, call(t, h, "GET", "/readyz", ""), 200, "ok\n")

	store.status.Ready, store.status.Reason = false, "no leader since 12:00"
	wantAnswer(t, call(t, h, "GET", "/healthz", ""), 200, "ok\n")
	w := call(t, h, "GET", "/readyz", "")
	if p := wantProblem(t, w, 503); p.Detail != "no leader since 12:00" || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %v %+v", w.Header(), p)
	}

	store.status.State, store.status.Reason = kvraft.Stopped, "disk on fire"
	for _, path := range []string{"/healthz", "/readyz"} {
		if p := wantProblem(t, call(t, h, "GET", path, ""), 503); !strings.Contains(p.Detail, "disk on fire") {
			t.Errorf("%s: %+v", path, p)
		}
	}
}

// hashing is a store whose hash takes until released.
type hashing struct {
	*fake
	begun, release chan bool
}

func (s hashing) Hash() (uint64, [32]byte) {
	s.begun <- true
	<-s.release
	return s.fake.Hash()
}

func TestOneHashIsComputedAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := hashing{newFake(), make(chan bool, 9), make(chan bool)}
		h := kvhttp.Handler(store)
		first := make(chan *httptest.ResponseRecorder)
		go func() { first <- call(t, h, "GET", "/status?hash", "") }()
		synctest.Wait()
		began := time.Now()
		w := call(t, h, "GET", "/status?hash", "")
		if wantProblem(t, w, 503); w.Header().Get("Retry-After") == "" || time.Since(began) != 10*time.Second {
			t.Errorf("after %v: %v", time.Since(began), w.Header())
		}
		if w := call(t, h, "GET", "/status", ""); w.Code != 200 {
			t.Errorf("without a hash: %d", w.Code)
		}
		if len(store.begun) != 1 {
			t.Errorf("%d hashes are computed at a time", len(store.begun))
		}
		close(store.release)
		if w := <-first; w.Code != 200 {
			t.Errorf("the first: %d %s", w.Code, w.Body)
		}
		if w := call(t, h, "GET", "/status?hash", ""); w.Code != 200 {
			t.Errorf("afterwards: %d %s", w.Code, w.Body)
		}
	})
}

func TestADrainingServerIsNotReadyAndEndsItsConnections(t *testing.T) {
	ctx, begin := context.WithCancel(t.Context())
	h := kvhttp.Handler(newFake(), kvhttp.WithDrainContext(ctx))
	wantAnswer(t, call(t, h, "GET", "/readyz", ""), 200, "ok\n")
	if w := call(t, h, "PUT", "/files/f", "v"); w.Code != 201 || w.Header().Get("Connection") != "" {
		t.Errorf("before: %d %v", w.Code, w.Header())
	}
	begin()
	w := call(t, h, "GET", "/readyz", "")
	if p := wantProblem(t, w, 503); !strings.Contains(p.Detail, "shut down") {
		t.Errorf("%+v", p)
	}
	for _, target := range []string{"/files/f", "/files/absent", "/healthz", "/key/f"} {
		if w := call(t, h, "GET", target, ""); w.Code != 200 && w.Code != 404 || w.Header().Get("Connection") != "close" {
			t.Errorf("%s: %d %v", target, w.Code, w.Header())
		}
	}
	if w := call(t, h, "PUT", "/files/f", "v"); w.Code != 200 {
		t.Errorf("a write: %d %s", w.Code, w.Body)
	}
}
