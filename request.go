package kvraft

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/kvraft/kvraft/internal/command"
)

// The state remembers the ids of recent requests, and so knows a copy of one
// that it has applied. What it has forgotten it must still not apply twice: each
// id comes with a log index that lies below every copy of the request, and when
// the state has forgotten requests above that index it refuses.
//
// Callers' own ids are remembered apart from these, and for longer: a store is done with
// an id when it has answered, a caller may come back with one after minutes.

// idSource mints the ids of a store's own requests: a random session and a
// counter.
type idSource struct {
	session [8]byte
	count   atomic.Uint64
}

func newIDSource() *idSource {
	s := new(idSource)
	rand.Read(s.session[:]) // never fails
	return s
}

// stamp gives r an id that no request had before.
func (s *idSource) stamp(r *command.Request, born uint64) {
	r.Origin, r.ID, r.Born = command.Own, s.next(), born
}

func (s *idSource) next() (id command.ID) {
	copy(id[:], s.session[:])
	binary.BigEndian.PutUint64(id[8:], s.count.Add(1))
	return id
}

// RequestID is a caller's own id for a write, by which it can be repeated safely;
// see WithRequestID. It can be kept as text, by String, beyond the life of the
// program.
type RequestID struct {
	born uint64 // a log index from before the first attempt
	name string
}

// NewRequestID mints an id, to be used for one write, before its first attempt. On
// a node that is far behind the id is old from the start, and its first use may be
// answered ErrUnknown: mint it where Status says Ready.
func (s *Store) NewRequestID() RequestID {
	return RequestID{born: s.Index(), name: rand.Text()}
}

// String returns INDEX-NAME. INDEX is a log index of the time when the id was
// made, such as Index returns.
func (id RequestID) String() string { return strconv.FormatUint(id.born, 10) + "-" + id.name }

const maxRequestID = 256

// ParseRequestID is the inverse of String. NAME may be anything, but must not be
// used for two writes: the second fails with ErrReused.
func ParseRequestID(text string) (RequestID, error) {
	index, name, ok := strings.Cut(text, "-")
	born, err := strconv.ParseUint(index, 10, 64)
	if !ok || err != nil || name == "" || len(text) > maxRequestID {
		return RequestID{}, fmt.Errorf("%w: request id %.100q: want INDEX-NAME of at most %d bytes, where INDEX is a log index that an earlier answer gave", ErrInvalid, text, maxRequestID)
	}
	return RequestID{born, name}, nil
}

// stamp gives r the id: a hash of the name. Beside it goes a digest of the operations, so
// that the same name on another write is told, and not answered with what that never did.
func (id *RequestID) stamp(r *command.Request) error {
	if id.name == "" {
		return fmt.Errorf("%w: the zero RequestID; use NewRequestID", ErrInvalid)
	}
	name := sha256.Sum256([]byte(id.name))
	ops := sha256.Sum256(command.Append(nil, []command.Request{{Ops: r.Ops}}))
	r.Origin, r.Born = command.Caller, id.born
	copy(r.ID[:], name[:])
	copy(r.Digest[:], ops[:])
	return nil
}
