package raftrpc

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
)

// Kind is the byte that comes before a request on a connection. The numbers are raft's, and part of its protocol.
type Kind byte

const (
	AppendEntries   Kind = 0
	RequestVote     Kind = 1
	InstallSnapshot Kind = 2
	TimeoutNow      Kind = 3
	RequestPreVote  Kind = 4
)

// kinds has for each kind its name, the most bytes that a request may have, and what a request is decoded into. Those
// without entries hold a few addresses, or a configuration.
var kinds = map[Kind]struct {
	name  string
	limit int // 0: as many as Read is told for entries
	new   func() any
}{
	AppendEntries:   {"AppendEntries", 0, func() any { return new(raft.AppendEntriesRequest) }},
	RequestVote:     {"RequestVote", 16 << 10, func() any { return new(raft.RequestVoteRequest) }},
	InstallSnapshot: {"InstallSnapshot", 1 << 20, func() any { return new(raft.InstallSnapshotRequest) }},
	TimeoutNow:      {"TimeoutNow", 16 << 10, func() any { return new(raft.TimeoutNowRequest) }},
	RequestPreVote:  {"RequestPreVote", 16 << 10, func() any { return new(raft.RequestPreVoteRequest) }},
}

func (k Kind) String() string {
	if of, ok := kinds[k]; ok {
		return of.name
	}
	return fmt.Sprintf("message of kind %d", byte(k))
}

// ErrBad is for bytes that are no message, or too large a one. Other errors of Read are those of its reader.
var ErrBad = errors.New("bad message")

// Read reads a request of the kind from r, and nothing behind it. One with entries may have so many bytes. grow is asked
// before more than a first few are allocated for it; nil: there is no need to ask.
//
// The request is read to its end before it is decoded. The decoder allocates what a length says, and an entry for each byte
// that stands for an empty one; here memory grows with what has arrived, and what is decoded has been counted.
func Read(r *bufio.Reader, k Kind, entries int, grow func(bytes int) error) (any, error) {
	of, ok := kinds[k]
	if !ok {
		return nil, fmt.Errorf("%w: unknown %v", ErrBad, k)
	}
	req, m := of.new(), message{r: r, limit: cmp.Or(of.limit, entries), grow: grow}
	err := m.read()
	if m.broken != nil {
		return nil, m.broken
	}
	if err == nil {
		err = decode(m.bytes, req)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v: %w", ErrBad, k, err)
	}
	return req, nil
}

// decode decodes what has been counted: a length in it is that of bytes that are there.
func decode(bytes []byte, into any) (err error) {
	defer func() {
		if p := recover(); p != nil { // the decoder has its own recover; nothing here depends on that
			err = fmt.Errorf("decoder panicked: %v", p)
		}
	}()
	var handle codec.MsgpackHandle
	handle.MaxInitLen = max(len(bytes), 1)
	return codec.NewDecoderBytes(bytes, &handle).Decode(into)
}

// maxItems is how many values one message may consist of. An entry has a dozen, and a message up to 64 of them; a member of
// a configuration has seven.
const maxItems = 1 << 14

// message is one value of MessagePack, read token by token.
type message struct {
	r     *bufio.Reader
	limit int
	grow  func(bytes int) error

	bytes  []byte // read so far
	broken error  // of r
}

// read reads one value with all that is in it.
func (m *message) read() error {
	items := 0
	for open := 1; open > 0; open-- {
		inside, err := m.token()
		if err != nil {
			return err
		}
		open += inside
		if items++; items+open > maxItems {
			return fmt.Errorf("more than %d values", maxItems)
		}
	}
	return nil
}

// layouts tell what follows the first byte of a token, for those from 0xc0 on: a number of so many bytes, and then as many
// values for each that it counts, or bytes: as many as it says, and some beside. (0xc1 is no token.)
var layouts = [...]struct{ number, values, bytes int }{
	0xc0: {}, 0xc2: {}, 0xc3: {}, // nil, false, true
	0xc4: {number: 1}, 0xc5: {number: 2}, 0xc6: {number: 4}, // bytes
	0xc7: {number: 1, bytes: 1}, 0xc8: {number: 2, bytes: 1}, 0xc9: {number: 4, bytes: 1}, // extensions, with a byte of type
	0xca: {bytes: 4}, 0xcb: {bytes: 8}, // floating point
	0xcc: {bytes: 1}, 0xcd: {bytes: 2}, 0xce: {bytes: 4}, 0xcf: {bytes: 8}, // unsigned
	0xd0: {bytes: 1}, 0xd1: {bytes: 2}, 0xd2: {bytes: 4}, 0xd3: {bytes: 8}, // signed
	0xd4: {bytes: 2}, 0xd5: {bytes: 3}, 0xd6: {bytes: 5}, 0xd7: {bytes: 9}, 0xd8: {bytes: 17}, // extensions of a fixed size
	0xd9: {number: 1}, 0xda: {number: 2}, 0xdb: {number: 4}, // text
	0xdc: {number: 2, values: 1}, 0xdd: {number: 4, values: 1}, // arrays
	0xde: {number: 2, values: 2}, 0xdf: {number: 4, values: 2}, // maps
}

// token reads one token and returns how many values are in it: those of an array, the keys and values of a map.
func (m *message) token() (inside int, err error) {
	head, err := m.number(1)
	if err != nil {
		return 0, err
	}
	switch {
	case head <= 0x7f || head >= 0xe0: // small numbers
		return 0, nil
	case head <= 0x8f: // small map
		return 2 * int(head&0x0f), nil
	case head <= 0x9f: // small array
		return int(head & 0x0f), nil
	case head <= 0xbf: // short string
		return 0, m.take(head & 0x1f)
	case head == 0xc1:
		return 0, fmt.Errorf("byte %#x is not MessagePack", head)
	}
	layout := layouts[head]
	n, err := m.number(layout.number)
	if err != nil {
		return 0, err
	}
	if layout.values == 0 {
		return 0, m.take(n + uint64(layout.bytes))
	}
	if n > maxItems {
		return 0, fmt.Errorf("more than %d values", maxItems)
	}
	return int(n) * layout.values, nil
}

// number reads a number of so many bytes.
func (m *message) number(size int) (uint64, error) {
	at := len(m.bytes)
	if err := m.take(uint64(size)); err != nil {
		return 0, err
	}
	var b [8]byte
	copy(b[8-size:], m.bytes[at:])
	return binary.BigEndian.Uint64(b[:]), nil
}

// take reads the next n bytes.
func (m *message) take(n uint64) error {
	if n > uint64(m.limit-len(m.bytes)) {
		return fmt.Errorf("more than %d bytes", m.limit)
	}
	for end := len(m.bytes) + int(n); len(m.bytes) < end; {
		room, err := m.room(end)
		if err != nil {
			return err
		}
		read, err := io.ReadFull(m.r, room)
		m.bytes = m.bytes[:len(m.bytes)+read]
		if err != nil {
			m.broken = err
			return err
		}
	}
	return nil
}

// room is where the bytes up to end go, or as many of them as there is memory for before those have arrived.
func (m *message) room(end int) ([]byte, error) {
	const first = 4 << 10
	if len(m.bytes) == cap(m.bytes) {
		size := min(max(2*cap(m.bytes), first), m.limit)
		if more := size - cap(m.bytes); m.grow != nil && size > first {
			if err := m.grow(more); err != nil {
				return nil, err
			}
		}
		m.bytes = append(make([]byte, 0, size), m.bytes...)
	}
	return m.bytes[len(m.bytes):min(end, cap(m.bytes))], nil
}
