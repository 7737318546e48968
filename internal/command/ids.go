package command

import (
	"crypto/rand"
	"encoding/binary"
	"sync/atomic"
)

// IDs makes the ids of a store's own requests: a random session and a counter. Its methods may be called from any goroutine.
type IDs struct {
	session [8]byte
	count   atomic.Uint64
}

// NewIDs begins a session.
func NewIDs() *IDs {
	ids := new(IDs)
	rand.Read(ids.session[:]) // never fails
	return ids
}

// Stamp gives r an id that no request had before. No copy of r is in the log up to the index at which it is born.
func (ids *IDs) Stamp(r *Request, born uint64) {
	r.Origin, r.Born = Own, born
	copy(r.ID[:], ids.session[:])
	binary.BigEndian.PutUint64(r.ID[8:], ids.count.Add(1))
}
