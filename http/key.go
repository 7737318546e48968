package kvhttp

import (
	"maps"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/kvraft/kvraft"
)

// setKeys sets several keys at once. An empty object sets none and asks nothing
// of the store.
func (h *handler) setKeys(w http.ResponseWriter, r *request) error {
	if r.Header["If-Match"] != nil || r.Header["If-None-Match"] != nil {
		return refuse(http.StatusBadRequest, "conditions are for one key: use /keys/{key}/ or /files/{key}")
	}
	id, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	pairs, err := h.object(w, r)
	if err != nil {
		return err
	}
	var ops []kvraft.Op
	for _, key := range slices.Sorted(maps.Keys(pairs)) {
		ops = append(ops, kvraft.SetOp(key, []byte(pairs[key])))
	}
	if len(ops) > 0 {
		version, err := h.batch(r, id, ops)
		if err != nil {
			return err
		}
		w.Header().Set("ETag", etag(version))
	}
	h.respond(w, r, "", nil)
	return nil
}

func (h *handler) getKey(w http.ResponseWriter, r *request) error {
	if !utf8.ValidString(r.key) {
		return notUTF8("key", r.key)
	}
	entry, err := h.read(w, r)
	if err != nil {
		return err
	}
	if !utf8.Valid(entry.Value) {
		return notUTF8("value", r.key)
	}
	body := make([]byte, 0, len(`{"":""}`)+len(r.key)+len(entry.Value))
	body = appendEscaped(append(body, `{"`...), []byte(r.key))
	body = appendEscaped(append(body, `":"`...), entry.Value)
	return h.respondHeld(w, r, "application/json", append(body, `"}`...))
}

// deleteKey is the same under /key/ and /files/.
func (h *handler) deleteKey(w http.ResponseWriter, r *request) error {
	_, err := h.write(r, func(opts ...kvraft.WriteOption) (uint64, error) {
		return h.store.Delete(r.Context(), r.key, opts...)
	})
	if err != nil {
		return err
	}
	h.respond(w, r, "", nil)
	return nil
}
