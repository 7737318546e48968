package kvhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/kvraft/kvraft"
)

// idempotencyKey is the client's id for its write; nil: it has none.
func idempotencyKey(header http.Header) (*kvraft.RequestID, error) {
	var found *kvraft.RequestID
	for _, line := range header.Values("Idempotency-Key") {
		text, ok := keyText(line)
		id, err := kvraft.ParseRequestID(text)
		if !ok || err != nil {
			return nil, refuse(http.StatusBadRequest, "Idempotency-Key: want INDEX-NAME, plain or in quotes and of at most 256 bytes; INDEX is the Raft-Index of any answer before the first attempt, NAME the client's choice")
		}
		if found != nil && *found != id {
			return nil, refuse(http.StatusBadRequest, "Idempotency-Key: there are two")
		}
		found = &id
	}
	return found, nil
}

// keyText is the key in a header line: an RFC 9651 string, or the bare text of
// one. Bare text is visible ASCII without commas and quotes, so that two lines
// which were joined on their way are not taken for one key.
func keyText(line string) (text string, ok bool) {
	if !strings.HasPrefix(line, `"`) {
		unfit := func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == ',' }
		return line, !strings.ContainsFunc(line, unfit)
	}
	var b strings.Builder
	for i := 1; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '"':
			return b.String(), i == len(line)-1
		case c < ' ' || c > '~':
			return "", false
		case c == '\\':
			i++
			if i == len(line) || line[i] != '"' && line[i] != '\\' {
				return "", false
			}
			c = line[i]
		}
		b.WriteByte(c)
	}
	return "", false
}

// once makes do write under id.
func once(id kvraft.RequestID, do func(...kvraft.WriteOption) (uint64, error)) func(...kvraft.WriteOption) (uint64, error) {
	return func(opts ...kvraft.WriteOption) (uint64, error) {
		version, err := do(append(opts, kvraft.WithRequestID(id))...)
		return version, tellRepeatable(err)
	}
}

// batch is Batch, under id if there is one.
func (h *handler) batch(r *request, id *kvraft.RequestID, ops []kvraft.Op) (uint64, error) {
	if id == nil {
		return h.store.Batch(r.Context(), ops...)
	}
	version, err := h.store.Batch(r.Context(), append(ops, kvraft.IDOp(*id))...)
	return version, tellRepeatable(err)
}

// tellRepeatable adds to the error of a write under an id what can be done about
// it. An outcome that is unknown for another reason than these, because the
// store has forgotten as far back as the id was made, stays unknown.
func tellRepeatable(err error) error {
	cut := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, kvraft.ErrClosed)
	if errors.Is(err, kvraft.ErrUnknown) && cut {
		return fmt.Errorf("%w; the same request with the same Idempotency-Key can be repeated safely, on any node", err)
	}
	return err
}
