package raftrpc

import (
	"bufio"
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

func (k Kind) String() string {
	switch k {
	case AppendEntries:
		return "AppendEntries"
	case RequestVote:
		return "RequestVote"
	case InstallSnapshot:
		return "InstallSnapshot"
	case TimeoutNow:
		return "TimeoutNow"
	case RequestPreVote:
		return "RequestPreVote"
	}
	return fmt.Sprintf("message of kind %d", byte(k))
}

// request is where a request of the kind is decoded to, and the most bytes that it may have. entries is the limit for one
// that carries them: the others hold a few addresses, or a configuration.
func (k Kind) request(entries int) (req any, limit int) {
	const small, large = 16 << 10, 1 << 20
	switch k {
	case AppendEntries:
		return new(raft.AppendEntriesRequest), entries
	case RequestVote:
		return new(raft.RequestVoteRequest), small
	case InstallSnapshot:
		return new(raft.InstallSnapshotRequest), large
	case TimeoutNow:
		return new(raft.TimeoutNowRequest), small
	case RequestPreVote:
		return new(raft.RequestPreVoteRequest), small
	}
	return nil, 0
}

// ErrBad is for bytes that are no message, or too large a one. Other errors of Read are those of its reader.
var ErrBad = errors.New("bad message")

// Read reads a request of the kind from r, and nothing behind it. One with entries may have so many bytes. grow is asked
// before more than a first few are allocated for it; nil: there is no need to ask.
//
// The request is read to its end before it is decoded. The decoder allocates what a length says, and an entry for each byte
// that stands for an empty one; here memory grows with what has arrived, and what is decoded has been counted.
func Read(r *bufio.Reader, k Kind, entries int, grow func(bytes int) error) (any, error) {
	req, limit := k.request(entries)
	if req == nil {
		return nil, fmt.Errorf("%w: unknown %v", ErrBad, k)
	}
	m := message{r: r, limit: limit, grow: grow}
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
	}
	switch head {
	case 0xc0, 0xc2, 0xc3: // nil, false, true
		return 0, nil
	case 0xc4, 0xd9: // bytes and strings, by the size of their lengths
		return 0, m.takeCounted(1, 0)
	case 0xc5, 0xda:
		return 0, m.takeCounted(2, 0)
	case 0xc6, 0xdb:
		return 0, m.takeCounted(4, 0)
	case 0xc7: // extensions, with a byte of type
		return 0, m.takeCounted(1, 1)
	case 0xc8:
		return 0, m.takeCounted(2, 1)
	case 0xc9:
		return 0, m.takeCounted(4, 1)
	case 0xcc, 0xd0: // numbers, by their size
		return 0, m.take(1)
	case 0xcd, 0xd1:
		return 0, m.take(2)
	case 0xca, 0xce, 0xd2:
		return 0, m.take(4)
	case 0xcb, 0xcf, 0xd3:
		return 0, m.take(8)
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // extensions of 1, 2, 4, 8 and 16 bytes
		return 0, m.take(1 + 1<<(head-0xd4))
	case 0xdc: // arrays and maps
		return m.count(2, 1)
	case 0xdd:
		return m.count(4, 1)
	case 0xde:
		return m.count(2, 2)
	case 0xdf:
		return m.count(4, 2)
	}
	return 0, fmt.Errorf("byte %#x is not MessagePack", head)
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

// count reads the length of a container whose elements are so many values each.
func (m *message) count(size, values int) (int, error) {
	n, err := m.number(size)
	if err == nil && n > maxItems {
		err = fmt.Errorf("more than %d values", maxItems)
	}
	return int(n) * values, err
}

// takeCounted reads a length of so many bytes, and then as many bytes and extra ones.
func (m *message) takeCounted(size int, extra uint64) error {
	n, err := m.number(size)
	if err != nil {
		return err
	}
	return m.take(n + extra)
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
