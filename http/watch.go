package kvhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/kvraft/kvraft"
)

// errWatchesEnd is the answer to a watch when the context of WithWatchContext ends.
var errWatchesEnd = refuse(http.StatusServiceUnavailable, "the server is shutting down")

// stream is a watch on its way to a client.
type stream struct {
	*sender
	h *handler
}

// watch streams events until the client goes, the watch ends, or the server does.
// Until there is a first event it is a request like any other; SyncEvery sees to it
// that there is one as soon as the store can serve.
func (h *handler) watch(w http.ResponseWriter, r *request) error {
	prefix, opts, err := parseWatch(r)
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
	for event, err := range h.store.Watch(ctx, prefix, append(opts, kvraft.SyncEvery(h.heartbeat))...) {
		late.Stop()
		switch {
		case err != nil && !begun:
			return err
		case err != nil:
			s.send(kvraft.Event{}, "problem", h.problem(r.Request, err))
			return nil
		case !begun:
			if err := s.begin(); err != nil {
				return err
			}
			begun = true
		}
		if r.Method == http.MethodHead || s.send(event, string(event.Kind), eventAs(event)) != nil {
			return nil
		}
	}
	return nil
}

// parseWatch takes the position of a client that reconnects before that of its
// address, which says where it first began.
func parseWatch(r *request) (prefix string, opts []kvraft.WatchOption, err error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", nil, refuse(http.StatusBadRequest, "the query: %v", err)
	}
	if prefix, _, err = parameter(query, "prefix"); err != nil {
		return "", nil, err
	}
	from, _, err := parameter(query, "from")
	if err != nil {
		return "", nil, err
	}
	resumes := from != ""
	snapshot, err := asked(r, "snapshot")
	if err != nil {
		return "", nil, err
	}
	if snapshot && resumes {
		return "", nil, refuse(http.StatusBadRequest, "from and snapshot exclude each other")
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		from, resumes, snapshot = last, true, false
	}
	if resumes {
		version, err := strconv.ParseUint(from, 10, 64)
		if err != nil {
			return "", nil, refuse(http.StatusBadRequest, "from, or Last-Event-ID, %q: want a version, without quotes", from)
		}
		opts = append(opts, kvraft.After(version))
	}
	if snapshot {
		opts = append(opts, kvraft.SnapshotFirst)
	}
	return prefix, opts, nil
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

// send writes one event. Only the last of a version has an id: a client that
// reconnects gets a version whole.
func (s *stream) send(e kvraft.Event, kind string, data any) error {
	var b bytes.Buffer
	if e.Kind != "" && !e.More {
		fmt.Fprintf(&b, "id: %d\n", e.Version)
	}
	text, err := json.Marshal(data) // on one line
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", kind, text)
	if err := s.write(b.Bytes()); err != nil || e.More {
		return err
	}
	return s.flush()
}

// eventAs is an event as JSON.
func eventAs(e kvraft.Event) listed {
	switch e.Kind {
	case kvraft.EventSet:
		return listedAs(kvraft.Entry{Key: e.Key, Value: e.Value, Version: e.Version})
	case kvraft.EventDelete:
		l := listed{Version: e.Version}
		l.Key, l.KeyBase64 = text([]byte(e.Key))
		return l
	default:
		return listed{Version: e.Version}
	}
}
