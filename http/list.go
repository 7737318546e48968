package kvhttp

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kvraft/kvraft"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	pageBytes    = 4 << 20 // of keys and values: a page ends with the entry that reaches it
)

// page is a part of the keys, as a request asks for it.
type page struct {
	prefix string
	from   string // the first key that may be in it
	limit  int
}

// listing is the answer.
type listing struct {
	Entries []listed `json:"entries"`
	Version uint64   `json:"version"` // of the store
	More    bool     `json:"more"`    // the prefix goes on behind the last entry
}

// listed is an entry. JSON cannot carry what is not UTF-8: base64 takes its place.
type listed struct {
	Key         *string `json:"key,omitempty"`
	KeyBase64   []byte  `json:"key_base64,omitempty"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
	Version     uint64  `json:"version"`
}

// list answers from one view, and so at one version. Without any parameter it
// is a read of a key whose name went missing, more likely than a wish for all.
func (h *handler) list(w http.ResponseWriter, r *request) error {
	if q := r.query; q.Has("key") || !q.Has("prefix") && !q.Has("limit") && !q.Has("after") {
		return refuse(http.StatusBadRequest, "no key: name it as /key/{key} or /key?key={key}; /key?prefix= lists all keys")
	}
	page, err := parsePage(r.query)
	if err != nil {
		return err
	}
	opts, err := readOptions(r.query)
	if err != nil {
		return err
	}
	conds, err := parseConditions(r.Header)
	if err != nil {
		return err
	}
	view, err := h.store.View(r.Context(), opts...)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(view.Version()))
	if !conds.matched(view.Version()) {
		return refuse(http.StatusPreconditionFailed, "the store is at version %d", view.Version())
	}
	if !conds.modified(view.Version()) {
		return errNotModified
	}
	return h.respondJSON(w, r, page.of(view))
}

func parsePage(query url.Values) (p page, err error) {
	if p.prefix, _, err = parameter(query, "prefix"); err != nil {
		return p, err
	}
	after, ok, err := parameter(query, "after")
	if err != nil {
		return p, err
	}
	p.from = p.prefix
	if ok {
		p.from = max(p.prefix, after+"\x00") // the key that comes next
	}
	limit, _, err := parameter(query, "limit")
	if err != nil {
		return p, err
	}
	p.limit = defaultLimit
	if limit != "" {
		p.limit, err = strconv.Atoi(limit)
		if err != nil || p.limit < 1 || p.limit > maxLimit {
			return p, refuse(http.StatusBadRequest, "limit %q: want 1 to %d", limit, maxLimit)
		}
	}
	return p, nil
}

func (p page) of(view *kvraft.View) listing {
	l := listing{Entries: []listed{}, Version: view.Version()}
	size := 0
	for entry := range view.Range(p.from, "") {
		if !strings.HasPrefix(entry.Key, p.prefix) {
			break
		}
		if len(l.Entries) == p.limit || size >= pageBytes {
			l.More = true
			break
		}
		size += len(entry.Key) + len(entry.Value)
		l.Entries = append(l.Entries, listedAs(entry))
	}
	return l
}

func listedAs(entry kvraft.Entry) listed {
	l := listed{Version: entry.Version}
	l.Key, l.KeyBase64 = text([]byte(entry.Key))
	l.Value, l.ValueBase64 = text(entry.Value)
	return l
}

// text is b as a string, or as it is if it is not UTF-8.
func text(b []byte) (*string, []byte) {
	if !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}
