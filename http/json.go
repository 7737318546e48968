package kvhttp

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// object reads a body that is a JSON object of strings. What encoding/json
// would change in silence is refused: bytes that are not UTF-8, and halves of
// surrogate pairs.
func (h *handler) object(w http.ResponseWriter, r *request) (map[string]string, error) {
	body, err := h.body(w, r)
	if err != nil {
		return nil, err
	}
	var found map[string]any
	if err := json.Unmarshal(body, &found); err != nil {
		return nil, refuse(http.StatusBadRequest, "want a JSON object of strings: %v", err)
	}
	if found == nil {
		return nil, refuse(http.StatusBadRequest, "want a JSON object of strings, not null")
	}
	if !utf8.Valid(body) || halfPair(body) {
		return nil, refuse(http.StatusBadRequest, "JSON is UTF-8, and escapes surrogates in pairs: set other bytes under /files/")
	}
	strs := make(map[string]string, len(found))
	for name, value := range found {
		s, ok := value.(string)
		if !ok {
			return nil, refuse(http.StatusBadRequest, "the value of %q is not a string", name)
		}
		strs[name] = s
	}
	return strs, nil
}

// fields reads a body that is a JSON object of exactly these strings.
func (h *handler) fields(w http.ResponseWriter, r *request, names ...string) ([]string, error) {
	object, err := h.object(w, r)
	if err != nil {
		return nil, err
	}
	var values []string
	for _, name := range names {
		if value, ok := object[name]; ok {
			values = append(values, value)
		}
	}
	if len(values) != len(names) || len(object) != len(names) {
		return nil, refuse(http.StatusBadRequest, "want a JSON object of exactly the strings %s", strings.Join(names, " and "))
	}
	return values, nil
}

// halfPair reports whether a string in valid JSON escapes one half of a UTF-16
// surrogate pair without the other.
func halfPair(body []byte) bool {
	for {
		i := bytes.IndexByte(body, '\\')
		if i < 0 {
			return false
		}
		body = body[i:]
		unit := escapedUnit(body)
		if !utf16.IsSurrogate(unit) {
			body = body[2:]
			continue
		}
		if utf16.DecodeRune(unit, escapedUnit(body[6:])) == utf8.RuneError {
			return true
		}
		body = body[12:]
	}
}

// escapedUnit is the UTF-16 code unit that b begins with as \uXXXX, or -1.
func escapedUnit(b []byte) rune {
	if len(b) < 6 || b[1] != 'u' || b[0] != '\\' {
		return -1
	}
	unit, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(unit)
}

// notUTF8 is the error of a read that JSON cannot answer.
func notUTF8(what, key string) error {
	return refuse(http.StatusNotAcceptable, "the %s is not UTF-8, which JSON cannot carry: read /files?key=%s", what, url.QueryEscape(key))
}

func (h *handler) respondJSON(w http.ResponseWriter, r *request, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h.respond(w, r, "application/json", body)
	return nil
}
