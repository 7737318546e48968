package kvhttp

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/kvraft/kvraft"
)

// conditions are the If-Match and If-None-Match of a request (RFC 9110,
// section 13.1); nil where there is none. An absent key has version 0.
type conditions struct {
	match, noneMatch *tags
}

// tags is a list of entity tags. Those that are no version are left out: no key
// ever has them.
type tags struct {
	any      bool // "*"
	versions []uint64
}

func (t *tags) has(version uint64) bool {
	return version != 0 && (t.any || slices.Contains(t.versions, version))
}

func (c conditions) matched(version uint64) bool { return c.match == nil || c.match.has(version) }

func (c conditions) modified(version uint64) bool {
	return c.noneMatch == nil || !c.noneMatch.has(version)
}

// only is the one version under which c can hold, if there is just one.
func (c conditions) only() (version uint64, ok bool) {
	switch {
	case c.match == nil:
		return 0, c.noneMatch != nil && c.noneMatch.any
	case len(c.match.versions) == 1:
		return c.match.versions[0], true
	default:
		return 0, false
	}
}

func parseConditions(header http.Header) (c conditions, err error) {
	if c.match, err = parseTags(header, "If-Match", false); err != nil {
		return c, err
	}
	c.noneMatch, err = parseTags(header, "If-None-Match", true)
	return c, err
}

// parseTags reads the tags of one header; weak says whether weak ones count.
func parseTags(header http.Header, name string, weak bool) (*tags, error) {
	lines := header.Values(name)
	if len(lines) == 0 {
		return nil, nil
	}
	list := strings.Trim(strings.Join(lines, ","), " \t,")
	if list == "*" {
		return &tags{any: true}, nil
	}
	malformed := refuse(http.StatusBadRequest, `%s: want "version", a list of them, or *`, name)
	if list == "" {
		return nil, malformed
	}
	t := &tags{}
	for list != "" { // a tag may hold commas: no splitting at them
		tag, isWeak := strings.CutPrefix(list, "W/")
		parts := strings.SplitN(tag, `"`, 3)
		if len(parts) < 3 || parts[0] != "" {
			return nil, malformed
		}
		version, err := strconv.ParseUint(parts[1], 10, 64)
		if err == nil && version != 0 && etag(version) == `"`+parts[1]+`"` && (weak || !isWeak) {
			t.versions = append(t.versions, version)
		}
		list = strings.TrimLeft(parts[2], " \t,")
	}
	return t, nil
}

func etag(version uint64) string { return `"` + strconv.FormatUint(version, 10) + `"` }

// errNotModified is answered by 304.
var errNotModified = errors.New("not modified")

// read gets the key of r at the level that r asks for. It sets the ETag.
func (h *handler) read(w http.ResponseWriter, r *request) (kvraft.Entry, error) {
	opts, err := readOptions(r.query)
	if err != nil {
		return kvraft.Entry{}, err
	}
	conds, err := parseConditions(r.Header)
	if err != nil {
		return kvraft.Entry{}, err
	}
	entry, err := h.store.Get(r.Context(), r.key, opts...)
	if err != nil {
		return kvraft.Entry{}, err
	}
	w.Header().Set("ETag", etag(entry.Version))
	if !conds.matched(entry.Version) {
		return kvraft.Entry{}, &kvraft.ConflictError{Version: entry.Version}
	}
	if !conds.modified(entry.Version) {
		return kvraft.Entry{}, errNotModified
	}
	return entry, nil
}

// write makes a write to the key of r under the conditions of r: do carries it
// out under the options it gets. A repetition would read what the first attempt
// wrote; so with an Idempotency-Key conditions go only into the write itself,
// whose outcome the store remembers.
func (h *handler) write(r *request, do func(...kvraft.WriteOption) (uint64, error)) (uint64, error) {
	conds, err := parseConditions(r.Header)
	if err != nil {
		return 0, err
	}
	id, err := idempotencyKey(r.Header)
	if err != nil {
		return 0, err
	}
	if id != nil {
		do = once(*id, do)
	}
	if conds.match == nil && conds.noneMatch == nil {
		return do()
	}
	current, known := conds.only()
	if !known && id != nil {
		return 0, refuse(http.StatusBadRequest, `with an Idempotency-Key the conditions are If-Match with one "version", or If-None-Match: *`)
	}
	if !known {
		if current, err = h.version(r); err != nil {
			return 0, err
		}
	}
	for {
		if !conds.matched(current) || !conds.modified(current) {
			return 0, &kvraft.ConflictError{Version: current}
		}
		version, err := do(kvraft.IfVersion(current))
		var conflict *kvraft.ConflictError
		if !errors.As(err, &conflict) || conflict.Version == current {
			return version, err
		}
		current = conflict.Version // the conditions may hold for this one too
	}
}

func (h *handler) version(r *request) (uint64, error) {
	entry, err := h.store.Get(r.Context(), r.key)
	if errors.Is(err, kvraft.ErrNotFound) {
		return 0, nil
	}
	return entry.Version, err
}
