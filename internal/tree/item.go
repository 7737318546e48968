package tree

import (
	"encoding/binary"
	"strings"
	"unsafe"
)

// Item is what a key holds. Its value shares an allocation with the key: whoever keeps a part of one keeps both in memory.
type Item struct {
	Value   string
	Version uint64
}

// Bytes returns the value without a copy: whoever gets it must not write to it.
func (it Item) Bytes() []byte { return unsafe.Slice(unsafe.StringData(it.Value), len(it.Value)) }

// A record is a key, its value and its version in one allocation without pointers: the garbage collector has one object for
// each key, and does not scan it.
//
//	version (8 bytes), length of the key (4 bytes), key, value
type record string

const recordHeader = 8 + 4

func newRecord(key string, value []byte, version uint64) record {
	var header [recordHeader]byte
	binary.LittleEndian.PutUint64(header[:], version)
	binary.LittleEndian.PutUint32(header[8:], uint32(len(key)))
	var b strings.Builder // whose String copies nothing
	b.Grow(recordHeader + len(key) + len(value))
	b.Write(header[:])
	b.WriteString(key)
	b.Write(value)
	return record(b.String())
}

func (r record) version() uint64 {
	return uint64(r[0]) | uint64(r[1])<<8 | uint64(r[2])<<16 | uint64(r[3])<<24 |
		uint64(r[4])<<32 | uint64(r[5])<<40 | uint64(r[6])<<48 | uint64(r[7])<<56
}

func (r record) valueAt() int {
	return recordHeader + int(uint32(r[8])|uint32(r[9])<<8|uint32(r[10])<<16|uint32(r[11])<<24)
}

// size is what the key and the value take.
func (r record) size() int { return len(r) - recordHeader }

func (r record) key() string { return string(r[recordHeader:r.valueAt()]) }

func (r record) item() Item { return Item{string(r[r.valueAt():]), r.version()} }
