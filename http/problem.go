package kvhttp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/kvraft/kvraft"
)

// problem is the body of every error: RFC 9457, and two members of its own.
type problem struct {
	Type    string `json:"type"`
	Title   string `json:"title"`
	Status  int    `json:"status"`
	Detail  string `json:"detail"`
	Applied string `json:"applied,omitempty"` // of a request that would change something: "no" or "unknown"
	Leader  *node  `json:"leader,omitempty"`
	From    uint64 `json:"from,omitempty"` // of a watch that has missed something: the lowest that it can begin with
}

// kinds maps the store's errors; the first that fits counts. The names are those
// of package kvraft: an error's type is the address of its documentation.
var kinds = []struct {
	err     error
	name    string
	status  int
	applied string
}{
	{kvraft.ErrUnknown, "ErrUnknown", http.StatusGatewayTimeout, "unknown"}, // it may wrap any of the others
	{kvraft.ErrNotFound, "ErrNotFound", http.StatusNotFound, "no"},
	{kvraft.ErrConflict, "ErrConflict", http.StatusPreconditionFailed, "no"},
	{kvraft.ErrReused, "ErrReused", http.StatusUnprocessableEntity, "no"},
	{kvraft.ErrTooLarge, "ErrTooLarge", http.StatusRequestEntityTooLarge, "no"},
	{kvraft.ErrInvalid, "ErrInvalid", http.StatusBadRequest, "no"},
	{kvraft.ErrRefused, "ErrRefused", http.StatusConflict, "no"},
	{kvraft.ErrUnreachable, "ErrUnreachable", http.StatusBadGateway, "no"},
	{kvraft.ErrStale, "ErrStale", http.StatusServiceUnavailable, "no"}, // it may wrap ErrNoLeader
	{kvraft.ErrCompacted, "ErrCompacted", http.StatusGone, "no"},
	{kvraft.ErrNoLeader, "ErrNoLeader", http.StatusServiceUnavailable, "no"},
	{kvraft.ErrClosed, "ErrClosed", http.StatusServiceUnavailable, "no"},
}

func describe(err error) problem {
	var fault *requestError
	if errors.As(err, &fault) {
		return plain(fault.status, fault.detail, "no")
	}
	for _, kind := range kinds {
		if errors.Is(err, kind.err) {
			return problem{
				Type:    "https://pkg.go.dev/github.com/kvraft/kvraft#" + kind.name,
				Title:   strings.TrimPrefix(kind.err.Error(), "kvraft: "),
				Status:  kind.status,
				Detail:  err.Error(),
				Applied: kind.applied,
			}
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return plain(http.StatusGatewayTimeout, err.Error(), "unknown")
	}
	return plain(http.StatusInternalServerError, err.Error(), "unknown")
}

func plain(status int, detail, applied string) problem {
	return problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Applied: applied}
}

// cut is detail in few bytes, from both of its ends: the cause comes last.
func cut(detail string) string {
	const gap = " ... "
	if len(detail) <= detailBytes {
		return detail
	}
	half := (detailBytes - len(gap)) / 2
	return strings.ToValidUTF8(detail[:half], "") + gap + strings.ToValidUTF8(detail[len(detail)-half:], "")
}

// problem is what the answer to r says of err.
func (h *handler) problem(r *http.Request, err error) problem {
	p := describe(err)
	p.Detail = cut(p.Detail)
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		p.Applied = ""
	}
	if leader := h.store.Status().Leader; leader.ID != "" {
		p.Leader = &node{leader.ID, leader.Addr}
	}
	var compacted *kvraft.CompactedError
	if errors.As(err, &compacted) {
		p.From = compacted.Version
	}
	return p
}

// fail is the only writer of errors. Nothing has been written before.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errNotModified) {
		h.respondBare(w, r, http.StatusNotModified)
		return
	}
	p := h.problem(r, err)
	var conflict *kvraft.ConflictError
	if errors.As(err, &conflict) && conflict.Version != 0 {
		w.Header().Set("ETag", etag(conflict.Version))
	}
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	body, _ := json.Marshal(p) // strings and an int: it cannot fail
	w.Header().Set("Content-Type", "application/problem+json")
	h.send(w, r, p.Status, body)
}
