package kvhttp

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/kvraft/kvraft"
)

// errWatchesEnd is the answer to a watch when the context of WithWatchContext ends.
var errWatchesEnd = refuse(http.StatusServiceUnavailable, "the server is shutting down")

// How long a browser waits before it reconnects: what passes by itself is soon over, and
// all else only its page can mend.
const retrySoon, retryLater = time.Second, 10 * time.Second

// stream is a watch on its way to a client.
type stream struct {
	*sender
	h *handler
}

// watch streams events until the client goes, the watch ends, or the server does.
// Until there is a first event it is a request like any other; SyncEvery sees to it
// that there is one as soon as the store can serve.
func (h *handler) watch(w http.ResponseWriter, r *request) error {
	keys, opts, err := parseWatch(r)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(r.Context())
	defer end(nil)
	defer context.AfterFunc(h.watches, func() { end(errWatchesEnd) })()
	late := time.AfterFunc(h.timeout, func() { end(h.gaveUp) })
	defer late.Stop()

	s := &stream{h.sender(w, r.Request), h}
	defer s.resettable()()
	begun := false
	for event, err := range h.store.Watch(ctx, keys, append(opts, kvraft.SyncEvery(h.heartbeat), kvraft.SharedValues)...) {
		late.Stop()
		if err != nil && !begun && r.Header.Get("Last-Event-ID") == "" {
			return err
		}
		if !begun {
			if err := s.begin(); err != nil {
				return err
			}
			begun = true
		}
		if r.Method == http.MethodHead {
			return nil
		}
		if err != nil {
			return s.fail(h.problem(r.Request, err))
		}
		if s.send(event) != nil {
			return nil
		}
	}
	return nil
}

// parseWatch returns the prefix, or the key, and where to begin.
func parseWatch(r *request) (keys string, opts []kvraft.WatchOption, err error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", nil, refuse(http.StatusBadRequest, "the query: %v", err)
	}
	if keys, opts, err = watchedKeys(query); err != nil {
		return "", nil, err
	}
	begin, err := watchBegin(r, query)
	return keys, append(opts, begin...), err
}

func watchedKeys(query url.Values) (string, []kvraft.WatchOption, error) {
	prefix, all, err := parameter(query, "prefix")
	if err != nil {
		return "", nil, err
	}
	key, exact, err := parameter(query, "key")
	switch {
	case err != nil:
		return "", nil, err
	case exact && all:
		return "", nil, refuse(http.StatusBadRequest, "key and prefix exclude each other")
	case exact:
		return key, []kvraft.WatchOption{kvraft.ExactKey}, nil
	}
	return prefix, nil, nil
}

// watchBegin takes the position of a client that reconnects before that of its address,
// which says where it first began.
func watchBegin(r *request, query url.Values) ([]kvraft.WatchOption, error) {
	from, _, err := parameter(query, "from")
	if err != nil {
		return nil, err
	}
	snapshot, err := asked(r, "snapshot")
	if err != nil {
		return nil, err
	}
	if snapshot && from != "" {
		return nil, refuse(http.StatusBadRequest, "from and snapshot exclude each other")
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		from, snapshot = last, false
	}
	switch {
	case snapshot:
		return []kvraft.WatchOption{kvraft.SnapshotFirst}, nil
	case from == "":
		return nil, nil
	}
	version, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "from, or Last-Event-ID, %q: want a version, without quotes", from)
	}
	return []kvraft.WatchOption{kvraft.After(version)}, nil
}

// begin sends the header, or fails without having sent anything.
func (s *stream) begin() error {
	header := s.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // nginx would gather a page of events first
	s.h.stamp(s.w)
	if errors.Is(s.flush(), http.ErrNotSupported) { // other errors are met by the first event too
		return refuse(http.StatusNotImplemented, "this server cannot stream: its ResponseWriter has neither Flush nor Unwrap")
	}
	return nil
}

// fail ends the stream with a problem. A browser would give up for good on any status but
// 200, and so one that reconnects is told in the stream, also of what has gone wrong
// before it began, and when to try again.
func (s *stream) fail(p problem) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	again := retryLater
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusGatewayTimeout {
		again = retrySoon
	}
	if s.write(fmt.Appendf(nil, "retry: %d\nevent: problem\ndata: %s\n\n", again.Milliseconds(), text)) == nil { // or the client is gone
		_ = s.flush()
	}
	return nil
}

// send writes one event. Only the last of a version has an id: a client that
// reconnects gets a version whole.
func (s *stream) send(e kvraft.Event) error {
	var b []byte
	if !e.More {
		b = fmt.Appendf(b, "id: %d\n", e.Version)
	}
	b = fmt.Appendf(b, "event: %s\ndata: {", e.Kind)
	var err error
	if e.Kind != kvraft.EventSync {
		b, err = s.text(b, "key", []byte(e.Key))
	}
	if e.Kind == kvraft.EventSet && err == nil {
		b, err = s.text(b, "value", e.Value)
	}
	if err == nil {
		err = s.write(fmt.Appendf(b, "\"version\":%d}\n\n", e.Version))
	}
	if err != nil || e.More {
		return err
	}
	return s.flush()
}

// text appends a member of a JSON object to b, as a listing has it. What is long is
// written meanwhile: many watches may have the same long value to tell at the same time,
// and each holds only a part of it as text.
func (s *stream) text(b []byte, name string, value []byte) ([]byte, error) {
	encode, cut := appendEscaped, betweenRunes
	if !utf8.Valid(value) {
		encode, cut, name = base64.StdEncoding.AppendEncode, betweenTriples, name+"_base64"
	}
	b = fmt.Appendf(b, "%q:\"", name)
	for len(value) > partBytes {
		end := cut(value)
		b = encode(b, value[:end])
		if err := s.write(b); err != nil {
			return nil, err
		}
		b, value = b[:0], value[end:]
	}
	return append(encode(b, value), `",`...), nil
}

// betweenRunes is the last end of a character in the first partBytes of UTF-8.
func betweenRunes(text []byte) int {
	end := partBytes
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return end
}

// betweenTriples is where base64 can be cut.
func betweenTriples([]byte) int { return partBytes / 3 * 3 }

// appendEscaped appends UTF-8 as it stands between the quotes of JSON.
func appendEscaped(b, text []byte) []byte {
	quoted, _ := json.Marshal(string(text)) // of a string it cannot fail
	return append(b, quoted[1:len(quoted)-1]...)
}
