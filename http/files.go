package kvhttp

import (
	"net/http"

	"github.com/kvraft/kvraft"
)

func (h *handler) getFile(w http.ResponseWriter, r *request) error {
	entry, err := h.read(w, r)
	if err != nil {
		return err
	}
	return h.respondHeld(w, r, "application/octet-stream", entry.Value)
}

func (h *handler) setFile(w http.ResponseWriter, r *request) error {
	if r.Header.Get("Content-Range") != "" {
		return refuse(http.StatusBadRequest, "Content-Range: only a whole value can be set")
	}
	value, err := h.body(w, r)
	if err != nil {
		return err
	}
	created := false
	version, err := h.write(r, func(opts ...kvraft.WriteOption) (uint64, error) {
		return h.store.Set(r.Context(), r.key, value, append(opts, kvraft.WithCreated(&created))...)
	})
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(version))
	status := http.StatusOK
	if created && r.Method == http.MethodPut { // raftd's POST answers 200
		status = http.StatusCreated
	}
	h.send(w, r.Request, status, nil)
	return nil
}
