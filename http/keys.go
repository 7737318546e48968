package kvhttp

import (
	"encoding/json"
	"errors"
	"net/http"
	"unicode/utf8"

	"github.com/kvraft/kvraft"
)

// envelope is what /keys/ speaks.
type envelope struct {
	Value string `json:"value"`
}

// getValue reads an absent key as "". That is no version of it, which If-Match asks for.
func (h *handler) getValue(w http.ResponseWriter, r *request) error {
	entry, err := h.read(w, r)
	if errors.Is(err, kvraft.ErrNotFound) && r.Header["If-Match"] != nil {
		return &kvraft.ConflictError{}
	}
	if err != nil && !errors.Is(err, kvraft.ErrNotFound) {
		return err
	}
	if !utf8.Valid(entry.Value) {
		return notUTF8("value", r.key)
	}
	return h.respondJSON(w, r, envelope{string(entry.Value)})
}

func (h *handler) setValue(w http.ResponseWriter, r *request) error {
	fields, err := h.fields(w, r, "value")
	if err != nil {
		return err
	}
	value := fields[0]
	answer, err := json.Marshal(envelope{value})
	if err == nil {
		err = r.hold(len(answer)) // while nothing is written
	}
	if err != nil {
		return err
	}
	version, err := h.write(r, func(opts ...kvraft.WriteOption) (uint64, error) {
		return h.store.Set(r.Context(), r.key, []byte(value), opts...)
	})
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(version))
	h.respond(w, r, "application/json", answer)
	return nil
}
