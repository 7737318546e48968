package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// remote is the store of a node as HTTP clients see it. What goes wrong gives the
// errors of package kvraft. An answer that no fault explains gives an error that
// is none of them.
type remote struct {
	addr      string // of the HTTP API
	condition http.Header
}

var _ kvrafttest.KV = remote{}

// ifVersion is the store for a Set under kvraft.IfVersion(version), an option that
// only package kvraft can look into.
func (r remote) ifVersion(version uint64) remote {
	if version == 0 {
		r.condition = http.Header{"If-None-Match": {"*"}}
	} else {
		r.condition = http.Header{"If-Match": {fmt.Sprintf("%q", fmt.Sprint(version))}}
	}
	return r
}

func (r remote) Get(ctx context.Context, key string, _ ...kvraft.ReadOption) (kvraft.Entry, error) {
	tag, value, err := r.do(ctx, http.MethodGet, file(key), nil)
	if err != nil {
		return kvraft.Entry{}, err
	}
	version, err := parseETag(tag)
	return kvraft.Entry{Key: key, Value: value, Version: version}, err
}

func (r remote) Set(ctx context.Context, key string, value []byte, opts ...kvraft.WriteOption) (uint64, error) {
	if (len(opts) > 0) != (r.condition != nil) {
		return 0, errors.New("a condition goes into ifVersion as well as into the options")
	}
	tag, _, err := r.do(ctx, http.MethodPut, file(key), value)
	if err != nil {
		return 0, err
	}
	return parseETag(tag)
}

// Delete returns a version that the store had reached before, as the answer to a
// DELETE tells none: it bounds the delete's own from below. A History asks no more.
func (r remote) Delete(ctx context.Context, key string, _ ...kvraft.WriteOption) (uint64, error) {
	tag, _, err := r.do(ctx, http.MethodGet, "/key?limit=1", nil)
	if err != nil {
		return 0, err
	}
	if _, _, err := r.do(ctx, http.MethodDelete, file(key), nil); err != nil {
		return 0, err
	}
	return parseETag(tag)
}

func file(key string) string { return "/files?key=" + url.QueryEscape(key) }

func parseETag(tag string) (uint64, error) {
	return strconv.ParseUint(strings.Trim(tag, `"`), 10, 64)
}

func (r remote) do(ctx context.Context, method, path string, body []byte) (tag string, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.addr+path, bytes.NewReader(body))
	if err != nil {
		return "", nil, err
	}
	if r.condition != nil {
		req.Header = r.condition.Clone()
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", nil, unanswered(req, err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		return "", nil, unanswered(req, err)
	}
	if resp.StatusCode/100 != 2 {
		return "", nil, refused(req, resp.StatusCode, answer)
	}
	return resp.Header.Get("ETag"), answer, nil
}

// unanswered is the error of a request without an answer. A write that the node may
// have got is unknown; it has not got it if no connection came about.
func unanswered(req *http.Request, err error) error {
	var op *net.OpError
	if req.Method == http.MethodGet || errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: %v", kvraft.ErrNoLeader, err)
	}
	return fmt.Errorf("%w: %v", kvraft.ErrUnknown, err)
}

// refused is the error of an answer other than 200.
func refused(req *http.Request, code int, body []byte) error {
	var problem struct{ Applied string }
	if err := json.Unmarshal(body, &problem); err != nil {
		return fmt.Errorf("%s %s: %d, and no problem+json: %w", req.Method, req.URL, code, err)
	}
	reads := req.Method == http.MethodGet
	conditional := req.Header.Get("If-Match")+req.Header.Get("If-None-Match") != ""
	var sentinel error
	switch {
	case code == http.StatusNotFound && reads:
		sentinel = kvraft.ErrNotFound
	case code == http.StatusPreconditionFailed && problem.Applied == "no" && conditional:
		sentinel = kvraft.ErrConflict
	case code == http.StatusServiceUnavailable && (problem.Applied == "no" || reads):
		sentinel = kvraft.ErrNoLeader
	case code == http.StatusGatewayTimeout && reads: // nothing is unknown of a read
		sentinel = kvraft.ErrNoLeader
	case code == http.StatusGatewayTimeout && problem.Applied == "unknown":
		sentinel = kvraft.ErrUnknown
	default:
		return fmt.Errorf("%s %s: %d %s", req.Method, req.URL, code, body)
	}
	return fmt.Errorf("%w: %d %s", sentinel, code, body)
}

func TestAnswersBecomeTheErrorsOfTheStore(t *testing.T) {
	get := func(r remote) error { _, err := r.Get(t.Context(), "k"); return err }
	set := func(r remote) error { _, err := r.Set(t.Context(), "k", nil); return err }
	setIf := func(r remote) error {
		_, err := r.ifVersion(7).Set(t.Context(), "k", nil, kvraft.IfVersion(7))
		return err
	}
	for _, c := range []struct {
		name    string
		call    func(remote) error
		code    int
		applied string
		want    error // nil: an error that is none of the sentinels
	}{
		{"get", get, 404, "", kvraft.ErrNotFound},
		{"get", get, 503, "", kvraft.ErrNoLeader},
		{"get", get, 504, "", kvraft.ErrNoLeader},
		{"get", get, 0, "", kvraft.ErrNoLeader},
		{"get", get, 500, "", nil},
		{"set", set, 503, "no", kvraft.ErrNoLeader},
		{"set", set, 503, "unknown", nil},
		{"set", set, 503, "", nil},
		{"set", set, 504, "unknown", kvraft.ErrUnknown},
		{"set", set, 504, "no", nil},
		{"set", set, 0, "", kvraft.ErrUnknown},
		{"set", set, 404, "no", nil},
		{"set", set, 412, "no", nil},
		{"set if", setIf, 412, "no", kvraft.ErrConflict},
		{"set if", setIf, 412, "unknown", nil},
		{"set if", setIf, 500, "unknown", nil},
	} {
		err := c.call(answering(t, c.code, c.applied))
		if c.want == nil && (err == nil || foreseen(err)) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s, %d, applied %q: %v, want %v", c.name, c.code, c.applied, err, c.want)
		}
	}
	if entry, err := answering(t, 200, "").Get(t.Context(), "k"); err != nil || entry.Version != 7 {
		t.Errorf("get, 200: %+v, %v", entry, err)
	}
	if err := set(remote{addr: freeAddr(t)}); !errors.Is(err, kvraft.ErrNoLeader) {
		t.Errorf("nobody listens: %v, want ErrNoLeader", err)
	}
}

// answering is a node with one answer to everything; code 0: it breaks the connection.
func answering(t *testing.T, code int, applied string) remote {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if code == 0 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("ETag", `"7"`)
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"applied": %q}`, applied)
	}))
	t.Cleanup(server.Close)
	return remote{addr: server.Listener.Addr().String()}
}

// foreseen reports whether an error is one that clients get when nodes fail.
func foreseen(err error) bool {
	for _, sentinel := range []error{kvraft.ErrNotFound, kvraft.ErrConflict, kvraft.ErrNoLeader, kvraft.ErrUnknown} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}
