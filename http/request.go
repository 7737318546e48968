package kvhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/kvraft/kvraft"
)

// request is a request whose target has been taken apart.
type request struct {
	*http.Request
	ctx   context.Context // also ends with the time that the request has; in place of a copy of the Request
	key   string          // the key that the target names; empty: none
	query url.Values      // of targets that can name a key; else nil

	body, answer share // what it holds of the budgets
}

func (r *request) Context() context.Context { return r.ctx }

// methods are what a resource does, by HTTP method; GET stands for HEAD too.
// They either write an answer or return an error, which has not been written.
type methods map[string]func(http.ResponseWriter, *request) error

// resource is what the first segment of a path stands for.
type resource struct {
	bare  methods // without a key
	keyed methods // with a key
	slash bool    // one trailing slash belongs to the route, not to the key

	stream bool // it may take as long as it likes
}

// requestError is an error of this package's own: the store has changed nothing.
type requestError struct {
	status int
	detail string
}

func (e *requestError) Error() string { return e.detail }

func refuse(status int, format string, args ...any) error {
	return &requestError{status, fmt.Sprintf(format, args...)}
}

// serve goes by the escaped path: only there can a slash of the key be told
// from one that separates.
func (h *handler) serve(w http.ResponseWriter, r *http.Request) error {
	noun, rest, slash := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	res, found := h.resources[noun]
	if !found || slash && res.keyed == nil {
		return refuse(http.StatusNotFound, "there is nothing at this path")
	}
	req, err := res.parse(r, rest)
	if err != nil {
		return err
	}
	req.ctx = r.Context()
	if !res.stream {
		ctx, cancel := context.WithTimeoutCause(req.ctx, h.timeout, h.gaveUp)
		defer cancel()
		req.ctx = ctx
	}
	req.body.of, req.answer.of = &h.bodies, &h.answers
	defer req.body.release()
	defer req.answer.release()
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	here := res.keyed
	if req.key == "" && (method != http.MethodDelete || !req.query.Has("key")) { // data of hraftd's may have an empty key
		here = res.bare
	}
	if do := here[method]; do != nil {
		return tellKeyTooLong(req, do(w, req))
	}
	if res.keyed[method] != nil {
		return refuse(http.StatusBadRequest, "no key: name it as /%s/{key} or /%[1]s?key={key}", noun)
	}
	allowed := allow(here, res.keyed)
	w.Header().Set("Allow", allowed)
	if r.Method == http.MethodOptions {
		h.respondBare(w, r, http.StatusNoContent)
		return nil
	}
	return refuse(http.StatusMethodNotAllowed, "this path takes %s", allowed)
}

func (res resource) parse(r *http.Request, rest string) (*request, error) {
	if res.keyed == nil {
		return &request{Request: r}, nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the query: %v", err)
	}
	if res.slash {
		rest = strings.TrimSuffix(rest, "/")
	}
	key, err := url.PathUnescape(rest)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the path: %v", err)
	}
	if keys := query["key"]; len(keys) > 0 {
		if key != "" || len(keys) > 1 {
			return nil, refuse(http.StatusBadRequest, "the key is named more than once")
		}
		key = keys[0]
	}
	return &request{Request: r, key: key, query: query}, nil
}

// parameter is the value of a query parameter; ok: it is there.
func parameter(query url.Values, name string) (value string, ok bool, err error) {
	if len(query[name]) > 1 {
		return "", false, refuse(http.StatusBadRequest, "%s is given more than once", name)
	}
	return query.Get(name), query.Has(name), nil
}

func allow(sets ...methods) string {
	names := []string{http.MethodOptions}
	for _, set := range sets {
		for name := range set {
			names = append(names, name)
			if name == http.MethodGet {
				names = append(names, http.MethodHead)
			}
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// tellKeyTooLong is 414 where the key that is too large stands in the target.
func tellKeyTooLong(r *request, err error) error {
	if errors.Is(err, kvraft.ErrKeyTooLarge) && r.key != "" {
		return refuse(http.StatusRequestURITooLong, "%v", err)
	}
	return err
}

// body reads the whole body; on an error nothing may be applied.
func (h *handler) body(w http.ResponseWriter, r *request) ([]byte, error) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		w.Header().Set("Accept-Encoding", "identity")
		return nil, refuse(http.StatusUnsupportedMediaType, "Content-Encoding: the body is to be sent as it is, not in %.100q", coding)
	}
	if r.ContentLength > h.bodyLimit {
		return nil, h.bodyTooLarge()
	}
	body, err := r.readAll(http.MaxBytesReader(w, r.Body, h.bodyLimit))
	var overLimit *http.MaxBytesError
	switch {
	case errors.As(err, &overLimit):
		return nil, h.bodyTooLarge()
	case errors.Is(err, errBodiesFull):
		return nil, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, refuse(http.StatusRequestTimeout, "the body did not arrive within %v", h.timeout)
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "the body: %v", err)
	}
	return body, nil
}

func (h *handler) bodyTooLarge() error {
	return refuse(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", h.bodyLimit)
}

// readAll reads body into a buffer that grows with what arrives, and is counted before
// it does.
func (r *request) readAll(body io.Reader) ([]byte, error) {
	size := int64(freeBytes)
	if r.ContentLength >= 0 {
		size = min(size, r.ContentLength+1) // one more, to meet the end
	}
	buf := make([]byte, 0, size)
	for {
		n, err := body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
		if len(buf) < cap(buf) {
			continue
		}
		grown := 2 * size
		if r.ContentLength >= 0 {
			grown = min(grown, r.ContentLength+1)
		}
		if !r.body.grow(grown - size) {
			return nil, errBodiesFull
		}
		size = grown
		buf = append(make([]byte, 0, size), buf...)
	}
}

// respondBare is an answer without a body.
func (h *handler) respondBare(w http.ResponseWriter, r *http.Request, status int) {
	h.stamp(w)
	w.WriteHeader(status)
	_ = h.sender(w, r).flush() // an error means that the client is gone
}

// stamp is called as late as can be: the later the index is taken, the longer a key
// that is made of it serves.
func (h *handler) stamp(w http.ResponseWriter) {
	w.Header().Set("Raft-Index", strconv.FormatUint(h.store.Index(), 10))
}

// hold counts the answer to a request, of which only the first bytes are free.
func (r *request) hold(bytes int) error {
	if more := int64(bytes) - freeBytes - r.answer.held; more > 0 && !r.answer.grow(more) {
		return errAnswersFull
	}
	return nil
}

// respondHeld answers 200 if there is room for the body.
func (h *handler) respondHeld(w http.ResponseWriter, r *request, contentType string, body []byte) error {
	if err := r.hold(len(body)); err != nil {
		return err
	}
	h.respond(w, r, contentType, body)
	return nil
}

// respond answers 200.
func (h *handler) respond(w http.ResponseWriter, r *request, contentType string, body []byte) {
	if contentType != "" {
		w.Header().Set("Content-Type", contentType)
	}
	h.send(w, r.Request, http.StatusOK, body)
}

// send ends a request. A HEAD gets the headers of its GET, length included.
func (h *handler) send(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	h.stamp(w)
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		body = nil
	}
	to := h.sender(w, r)
	if len(body) > freeBytes {
		defer to.resettable()()
	}
	_ = to.end(body) // an error means that the client is gone
}
