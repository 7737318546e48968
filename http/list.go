package kvhttp

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kvraft/kvraft"
)

// page is a part of the keys, as a request asks for it.
type page struct {
	prefix string
	from   string // the first key that may be in it
	limit  int
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
	body, err := page.of(view, r)
	if err != nil {
		return err
	}
	h.respond(w, r, "application/json", body)
	return nil
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

// of is the page as JSON: its entries, the version of the store, and whether the prefix
// goes on behind the last entry.
func (p page) of(view *kvraft.View, r *request) ([]byte, error) {
	body, entries, more := []byte(`{"entries":[`), 0, false
	for entry := range view.Range(p.from, "") {
		if !strings.HasPrefix(entry.Key, p.prefix) {
			break
		}
		if entries == p.limit || len(body) >= pageBytes {
			more = true
			break
		}
		encoded, err := json.Marshal(listedAs(entry))
		if err == nil {
			err = r.hold(len(body) + len(encoded))
		}
		if err != nil {
			return nil, err
		}
		if entries > 0 {
			body = append(body, ',')
		}
		body = append(body, encoded...)
		entries++
	}
	return fmt.Appendf(body, `],"version":%d,"more":%v}`, view.Version(), more), nil
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
