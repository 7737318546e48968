package kvhttp

import "net/http"

func (h *handler) join(w http.ResponseWriter, r *request) error {
	fields, err := h.fields(w, r, "id", "addr")
	if err != nil {
		return err
	}
	if err := h.store.Join(r.Context(), fields[0], fields[1]); err != nil {
		return err
	}
	h.respond(w, r, "", nil)
	return nil
}
