// Package command is what a log entry says: a group of requests, each with its own result, and their encoding.
//
// An entry is
//
//	version (1 byte, now 2)
//	count of requests, then for each:
//	    origin of the id (1 byte), id (16 bytes), for Caller digest (8 bytes), born,
//	    count of ops, then for each:
//	        kind (1 byte), key, and value for Set and Note, version for Check
//
// and the results of an entry are
//
//	version (1 byte, now 1)
//	count of results, then for each: code (1 byte), version
//
// Entries of version 1 have no origins and no digests. They are in the logs of earlier versions of this program, and an
// entry without requests is still written as one. Numbers are uvarints of minimal length; keys and values are their length followed by their bytes. There is exactly one
// encoding of a group, so equal entries have equal bytes.
package command

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"unsafe"
)

// The versions are part of the format.
const (
	entryUnmarked  = 1 // of an entry whose requests are Unmarked
	entryMarked    = 2 // of an entry whose requests are not
	resultsVersion = 1
)

// The least that a request, an op and a result take: what a count is held against before anything is allocated.
const (
	minRequest = len(ID{}) + 2 // Unmarked
	minOp      = 2
	minResult  = 2
)

// What is counted beside keys and values where bytes are bounded.
const (
	Overhead        = 64 // of an operation or a change in memory and of an entry on disk, about
	EncodedOverhead = 32 // of a request or an operation in an entry, and more than that
)

// ID names one request. Every copy of a request in the log carries the same ID.
type ID [16]byte

// Origin says who made an ID.
type Origin uint8

// The origins are part of the format. Others may come, with ids of another make.
const (
	Unmarked Origin = 0 // not told, by an entry of version 1: Own or a Caller's
	Own      Origin = 1 // the store itself, for a write that it repeats until its caller goes
	Caller   Origin = 2 // whoever wrote, to repeat the write later
)

// Digest is a hash of the ops of a Caller's request: by it a caller's ID that comes with other ops is told from a copy.
type Digest [8]byte

// Kind is what an Op does.
type Kind uint8

// The kinds are part of the format.
const (
	Set    Kind = 1 // write Value to Key
	Delete Kind = 2 // remove Key; an absent Key is no error
	Check  Kind = 3 // refuse the whole request unless Key has Version
	Note   Kind = 4 // write down Value under Key, which is none of the users' keys; an empty Value strikes it out
)

// Op is one step of a request.
type Op struct {
	Kind    Kind
	Key     string
	Value   []byte // of a Set or a Note; not encoded for other kinds
	Version uint64 // of a Check: the version that Key must have, 0 = absent; not encoded for other kinds
}

// Request is a list of ops that take effect all or not at all, and once however often the request is in the log.
type Request struct {
	Origin Origin
	ID     ID
	Digest Digest // of a Caller's; not encoded for other origins
	Born   uint64 // log index that the origin had applied when it minted ID; every copy of the request in the log lies above it
	Ops    []Op
}

// Code says what became of a request.
type Code uint8

// The codes are part of the format.
const (
	OK       Code = 0 // applied
	Conflict Code = 1 // a Check failed, nothing changed
	Expired  Code = 2 // too old to be told from a repetition, nothing changed
	Reused   Code = 3 // its ID is a caller's, who has used it for other ops, nothing changed
	TooLarge Code = 4 // over a limit of the leader's, which did not take it into its log
	Invalid  Code = 5 // likewise: it is none that a caller can make
	Created  Code = 6 // applied as OK, and all that it changed is one key that was not there before
)

// Result is the outcome of one request.
type Result struct {
	Code Code

	// Version is for OK and Created the revision after the request, for Conflict the version that the key has (0 = absent), and for
	// Expired and Reused the log index at which the request was refused: what a new ID for it may be born at.
	Version uint64
}

// Append appends the entry for a group of requests to dst. The group may be empty. Kinds and origins are not looked at: an
// Op of unknown Kind makes an entry that Decode refuses, and so does an Unmarked request among others.
func Append(dst []byte, reqs []Request) []byte {
	size := 1 + uvarintSize(uint64(len(reqs)))
	version := byte(entryUnmarked)
	for i := range reqs {
		size += Size(reqs[i])
		if reqs[i].Origin != Unmarked {
			version = entryMarked
		}
	}
	dst = append(slices.Grow(dst, size), version)
	dst = binary.AppendUvarint(dst, uint64(len(reqs)))
	for i := range reqs {
		dst = AppendRequest(dst, &reqs[i])
	}
	return dst
}

// Join appends the entry for a group of requests, each as AppendRequest encodes it, to dst: what Append does, for requests
// that were encoded before their group was known. There is one at least, and none is Unmarked.
func Join(dst []byte, encoded [][]byte) []byte {
	size := 1 + uvarintSize(uint64(len(encoded)))
	for _, r := range encoded {
		size += len(r)
	}
	dst = append(slices.Grow(dst, size), entryMarked)
	dst = binary.AppendUvarint(dst, uint64(len(encoded)))
	for _, r := range encoded {
		dst = append(dst, r...)
	}
	return dst
}

// AppendRequest appends the encoding of one request to dst. It is no entry by itself; see Join.
func AppendRequest(dst []byte, r *Request) []byte {
	dst = slices.Grow(dst, Size(*r))
	if r.Origin != Unmarked {
		dst = append(dst, byte(r.Origin))
	}
	dst = append(dst, r.ID[:]...)
	if r.Origin == Caller {
		dst = append(dst, r.Digest[:]...)
	}
	dst = binary.AppendUvarint(dst, r.Born)
	dst = binary.AppendUvarint(dst, uint64(len(r.Ops)))
	for i := range r.Ops {
		op := &r.Ops[i]
		dst = append(dst, byte(op.Kind))
		dst = binary.AppendUvarint(dst, uint64(len(op.Key)))
		dst = append(dst, op.Key...)
		switch op.Kind {
		case Set, Note:
			dst = binary.AppendUvarint(dst, uint64(len(op.Value)))
			dst = append(dst, op.Value...)
		case Check:
			dst = binary.AppendUvarint(dst, op.Version)
		}
	}
	return dst
}

// Size returns how many bytes Append writes for r. The entry around a group takes a few more: one, and the uvarint of the
// number of requests.
func Size(r Request) int {
	size := len(r.ID) + uvarintSize(r.Born) + uvarintSize(uint64(len(r.Ops)))
	if r.Origin != Unmarked {
		size++
	}
	if r.Origin == Caller {
		size += len(r.Digest)
	}
	for i := range r.Ops {
		op := &r.Ops[i]
		size += 1 + uvarintSize(uint64(len(op.Key))) + len(op.Key)
		switch op.Kind {
		case Set, Note:
			size += uvarintSize(uint64(len(op.Value))) + len(op.Value)
		case Check:
			size += uvarintSize(op.Version)
		}
	}
	return size
}

func uvarintSize(n uint64) int {
	return (bits.Len64(n|1) + 6) / 7
}

// Decode returns the requests of an entry. Their keys and values are parts of entry: nobody may write to it while they are
// used, and who keeps one of them takes a copy. An entry that Append cannot have written is an error, and so is one of another
// format version; the error names that version.
func Decode(entry []byte) ([]Request, error) {
	r := reader{rest: entry}
	version, n := r.entry()
	reqs := make([]Request, n)
	ops := make([]Op, 0, n) // of all requests: most have one
	for i := range reqs {
		reqs[i] = r.request(version)
		more := r.count(minOp)
		if cap(ops)-len(ops) < more {
			ops = make([]Op, 0, max(more, n-i))
		}
		first := len(ops)
		for range more {
			ops = append(ops, r.op())
		}
		reqs[i].Ops = ops[first:len(ops):len(ops)]
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("decode log entry: %w", err)
	}
	return reqs, nil
}

// Verify returns nil if Decode, or for an entry of hraftd's DecodeLegacy, takes the entry, and keeps nothing of it.
func Verify(entry []byte) error {
	if IsLegacy(entry) {
		_, err := DecodeLegacy(entry)
		return err
	}
	r := reader{rest: entry}
	version, n := r.entry()
	for range n {
		r.request(version)
		for range r.count(minOp) {
			r.op()
		}
	}
	if err := r.end(); err != nil {
		return fmt.Errorf("decode log entry: %w", err)
	}
	return nil
}

// AppendResults appends the encoding of the results of an entry to dst.
func AppendResults(dst []byte, rs []Result) []byte {
	dst = append(dst, resultsVersion)
	dst = binary.AppendUvarint(dst, uint64(len(rs)))
	for _, r := range rs {
		dst = append(dst, byte(r.Code))
		dst = binary.AppendUvarint(dst, r.Version)
	}
	return dst
}

// DecodeResults returns what AppendResults encoded, and an error for anything that it cannot have encoded.
func DecodeResults(b []byte) ([]Result, error) {
	r := reader{rest: b}
	r.version(resultsVersion)
	rs := make([]Result, r.count(minResult))
	for i := range rs {
		code := Code(r.byte())
		if code > Created {
			r.fail(fmt.Errorf("unknown result code %d", code))
		}
		rs[i] = Result{code, r.uvarint()}
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("decode results: %w", err)
	}
	return rs, nil
}

var (
	errTruncated = errors.New("truncated")
	errTrailing  = errors.New("trailing bytes")
	errUvarint   = errors.New("malformed number")
	errEmpty     = errors.New("no requests in an entry of version 2")
	errCount     = errors.New("count is larger than the bytes that are left can hold")
)

// reader takes values off rest. After the first error it has nothing left and returns zeros, so that callers look at the
// error once, at the end.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.rest = nil
}

func (r *reader) end() error {
	if len(r.rest) > 0 {
		r.fail(errTrailing)
	}
	return r.err
}

// version reads one that is not above newest.
func (r *reader) version(newest byte) byte {
	v := r.byte()
	if v == 0 || v > newest {
		r.fail(fmt.Errorf("unknown format version %d", v))
	}
	return v
}

// entry reads what stands before the requests of an entry.
func (r *reader) entry() (version byte, requests int) {
	version = r.version(entryMarked)
	requests = r.count(minRequest)
	if version == entryMarked && requests == 0 {
		r.fail(errEmpty)
	}
	return version, requests
}

// request reads a request up to its ops.
func (r *reader) request(version byte) (req Request) {
	if version == entryMarked {
		req.Origin = Origin(r.byte())
		if req.Origin != Own && req.Origin != Caller {
			r.fail(fmt.Errorf("unknown origin %d of an id", req.Origin))
		}
	}
	copy(req.ID[:], r.take(uint64(len(ID{}))))
	if req.Origin == Caller {
		copy(req.Digest[:], r.take(uint64(len(Digest{}))))
	}
	req.Born = r.uvarint()
	return req
}

// op reads an op. Its key and value are parts of what is read.
func (r *reader) op() (op Op) {
	op.Kind = Kind(r.byte())
	key := r.bytes()
	op.Key = unsafe.String(unsafe.SliceData(key), len(key))
	switch op.Kind {
	case Set, Note:
		op.Value = r.bytes()
	case Delete:
	case Check:
		op.Version = r.uvarint()
	default:
		r.fail(fmt.Errorf("unknown kind %d", op.Kind))
	}
	return op
}

// count reads how many elements follow, each of at least size bytes.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.rest)/size) {
		r.fail(errCount)
		return 0
	}
	return int(n)
}

func (r *reader) bytes() []byte {
	return r.take(r.uvarint())
}

func (r *reader) byte() byte {
	b := r.take(1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.fail(errTruncated)
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size == 0 {
		r.fail(errTruncated)
		return 0
	}
	// A last byte of zero adds nothing to the number: the same number has a shorter encoding.
	if size < 0 || size > 1 && r.rest[size-1] == 0 {
		r.fail(errUvarint)
		return 0
	}
	r.rest = r.rest[size:]
	return n
}
