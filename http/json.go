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
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	if !utf8.Valid(body) || halfPair(body) {
		return nil, refuse(http.StatusBadRequest, "JSON is UTF-8, and escapes surrogates in pairs: set other bytes under /files/")
	}
	return r.decode(body)
}

// byteOrderMarks are what some programs write before a text.
var byteOrderMarks = map[string]string{"\xef\xbb\xbf": "UTF-8", "\xff\xfe": "UTF-16", "\xfe\xff": "UTF-16"}

// checkJSON wants one JSON object, of whatever.
func checkJSON(body []byte) error {
	for mark, encoding := range byteOrderMarks {
		if bytes.HasPrefix(body, []byte(mark)) {
			return refuse(http.StatusBadRequest, "the body begins with a byte order mark of %s: send JSON in UTF-8 without one", encoding)
		}
	}
	if err := json.Unmarshal(body, new(unread)); err != nil {
		return refuse(http.StatusBadRequest, "want a JSON object of strings: %v", err)
	}
	kind := "a number"
	switch bytes.TrimLeft(body, " \t\r\n")[0] {
	case '{':
		return nil
	case '[':
		kind = "an array"
	case '"':
		kind = "a string"
	case 'n':
		kind = "null"
	case 't', 'f':
		kind = "true or false"
	}
	return refuse(http.StatusBadRequest, "want a JSON object of strings, not %s", kind)
}

// unread is JSON of which only the syntax is looked at.
type unread struct{}

func (*unread) UnmarshalJSON([]byte) error { return nil }

// decode decodes an object, pair by pair: what it takes is counted before there is more
// of it.
func (r *request) decode(object []byte) (map[string]string, error) {
	decoder := json.NewDecoder(bytes.NewReader(object))
	if _, err := decoder.Token(); err != nil { // the brace
		return nil, err
	}
	pairs := map[string]string{}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		value, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		text, ok := value.(string)
		switch {
		case !ok:
			return nil, refuse(http.StatusBadRequest, "the value of %.100q is not a string", name)
		case len(pairs) == maxPairs:
			return nil, refuse(http.StatusRequestEntityTooLarge, "the object has more than %d pairs", maxPairs)
		case !r.body.grow(int64(pairBytes + 2*(len(name.(string))+len(text)))):
			return nil, errBodiesFull
		}
		pairs[name.(string)] = text
	}
	return pairs, nil
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
	return h.respondHeld(w, r, "application/json", body)
}
