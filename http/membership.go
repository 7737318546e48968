package kvhttp

import (
	"net/http"
	"strconv"

	"github.com/kvraft/kvraft"
)

func (h *handler) join(w http.ResponseWriter, r *request) error {
	fields, err := h.fields(w, r, "id", "addr")
	if err != nil {
		return err
	}
	replica, err := asked(r, "replica")
	if err != nil {
		return err
	}
	var opts []kvraft.JoinOption
	if replica {
		opts = append(opts, kvraft.Replica)
	}
	if err := h.store.Join(r.Context(), fields[0], fields[1], opts...); err != nil {
		return err
	}
	h.respond(w, r, "", nil)
	return nil
}

func (h *handler) remove(w http.ResponseWriter, r *request) error {
	fields, err := h.fields(w, r, "id")
	if err != nil {
		return err
	}
	var opts []kvraft.RemoveOption
	for _, flag := range []struct {
		name string
		opt  kvraft.RemoveOption
	}{{"force", kvraft.Force}, {"may_return", kvraft.MayReturn}} {
		wanted, err := asked(r, flag.name)
		if err != nil {
			return err
		}
		if wanted {
			opts = append(opts, flag.opt)
		}
	}
	if err := h.store.Remove(r.Context(), fields[0], opts...); err != nil {
		return err
	}
	h.respond(w, r, "", nil)
	return nil
}

// asked reports whether a query asks for something: ?name, or with a truth value.
func asked(r *request, name string) (bool, error) {
	query := r.URL.Query()
	if !query.Has(name) || query.Get(name) == "" {
		return query.Has(name), nil
	}
	value, err := strconv.ParseBool(query.Get(name))
	if err != nil {
		return false, refuse(http.StatusBadRequest, "%s: want true or false, have %q", name, query.Get(name))
	}
	return value, nil
}

// transfer takes the id of the next leader, or no body for any.
func (h *handler) transfer(w http.ResponseWriter, r *request) error {
	id := ""
	if r.ContentLength != 0 {
		fields, err := h.fields(w, r, "id")
		if err != nil {
			return err
		}
		id = fields[0]
	}
	if err := h.store.TransferLeadership(r.Context(), id); err != nil {
		return err
	}
	h.respond(w, r, "", nil)
	return nil
}
