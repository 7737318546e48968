package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/hashicorp/raft"
)

// A segment is a header and then frames, one after the other, each at a multiple of eight
// bytes. A frame is one write and one sync. It begins and ends with a mark, and the two
// say the same:
//
//	mark     salt 8, CRC-32C 4, kind 1, end 1, configures 1, zero 1, count 4, length 4, index 8, first 8, term 8
//	record   length 4, CRC-32C 4, then a body of that length: term 8, type 1, time 8,
//	         length of the extensions 4, extensions, data
//
// Numbers are big-endian. Behind the last record zeros fill up to eight bytes.
//
// The salt is the segment's, or that of the last session in it: what a segment held before
// it was taken again, and what a crash has left behind the end, do not have it. The CRC of
// a mark is over where it stands, too, and that of a record over the salt and the entry's
// index: neither is valid at another place.
const (
	markSize   = 48
	recordHead = 8
	bodyHead   = 21
	alignment  = 8
)

type kind byte

const (
	// kindEntries has count records, the first for index. term is that of the last one.
	kindEntries kind = 1
	// kindCut says that the entries from index on are deleted; 0: all of them. term is the
	// index of the last one.
	kindCut kind = 2
	// kindSession is written before all else when a log is opened for writing. What follows
	// it has a salt that is one higher. first is the index of the log's last entry, index
	// and term are its [Doubt], if it has one.
	kindSession kind = 3
)

// mark is what a frame begins and ends with. It has all that a frame without entries says,
// so that either of the two is enough there.
type mark struct {
	kind kind
	end  bool // it is the one at the end
	// configures says that there is a configuration among the entries, or in what is in
	// doubt.
	configures bool
	count      uint32
	length     uint32 // of the frame in bytes, with both marks
	index      uint64
	first      uint64 // entries and cut: the first entry of the log by then; 0: it is empty
	term       uint64
}

// ends is the last entry that the log has with the frame; 0: none.
func (m mark) ends() uint64 {
	switch m.kind {
	case kindEntries:
		return m.index + uint64(m.count) - 1
	case kindCut:
		return max(m.index, 1) - 1
	}
	return m.first
}

// place is where a mark stands.
type place struct {
	segment uint64 // its number
	salt    uint64
	offset  int64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (m mark) append(b []byte, at place) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint64(b, at.salt)
	b = append(b, 0, 0, 0, 0, byte(m.kind), 0, 0, 0)
	if m.end {
		b[start+13] = 1
	}
	if m.configures {
		b[start+14] = 1
	}
	b = binary.BigEndian.AppendUint32(b, m.count)
	b = binary.BigEndian.AppendUint32(b, m.length)
	b = binary.BigEndian.AppendUint64(b, m.index)
	b = binary.BigEndian.AppendUint64(b, m.first)
	b = binary.BigEndian.AppendUint64(b, m.term)
	binary.BigEndian.PutUint32(b[start+8:], markSum(b[start:], at))
	return b
}

// markAt decodes the mark that b begins with, if it is one that was written at that place.
func markAt(b []byte, at place) (m mark, valid bool) {
	if len(b) < markSize || binary.BigEndian.Uint64(b) != at.salt || binary.BigEndian.Uint32(b[8:]) != markSum(b[:markSize], at) {
		return m, false
	}
	return mark{
		kind:       kind(b[12]),
		end:        b[13] != 0,
		configures: b[14] != 0,
		count:      binary.BigEndian.Uint32(b[16:]),
		length:     binary.BigEndian.Uint32(b[20:]),
		index:      binary.BigEndian.Uint64(b[24:]),
		first:      binary.BigEndian.Uint64(b[32:]),
		term:       binary.BigEndian.Uint64(b[40:]),
	}, true
}

func markSum(encoded []byte, at place) uint32 {
	var where [16]byte
	binary.BigEndian.PutUint64(where[0:], at.segment)
	binary.BigEndian.PutUint64(where[8:], uint64(at.offset))
	return crc32.Update(crc32.Checksum(where[:], castagnoli), castagnoli, encoded[12:markSize])
}

// frameSize is the length of a frame with the entries.
func frameSize(entries []*raft.Log) int64 {
	size := int64(2 * markSize)
	for _, entry := range entries {
		size += recordHead + bodyHead + int64(len(entry.Extensions)) + int64(len(entry.Data))
	}
	return (size + alignment - 1) / alignment * alignment
}

// appendFrame appends a frame of m, whose length it fills in, and the entries.
func appendFrame(b []byte, m mark, entries []*raft.Log, at place) (frame []byte, offsets []uint32) {
	m.length = uint32(frameSize(entries))
	start := len(b)
	b = m.append(b, at)
	for _, entry := range entries {
		offsets = append(offsets, uint32(at.offset)+uint32(len(b)-start))
		b = appendRecord(b, entry, at.salt)
	}
	b = append(b, make([]byte, int(m.length)-markSize-(len(b)-start))...)
	m.end = true
	at.offset += int64(len(b) - start)
	return m.append(b, at), offsets
}

func appendRecord(b []byte, entry *raft.Log, salt uint64) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(bodyHead+len(entry.Extensions)+len(entry.Data)))
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, entry.Term)
	b = append(b, byte(entry.Type))
	b = binary.BigEndian.AppendUint64(b, encodeTime(entry.AppendedAt))
	b = binary.BigEndian.AppendUint32(b, uint32(len(entry.Extensions)))
	b = append(b, entry.Extensions...)
	b = append(b, entry.Data...)
	binary.BigEndian.PutUint32(b[start+4:], recordSum(b[start+recordHead:], entry.Index, salt))
	return b
}

// recordAt checks the record that b begins with and returns how long it is; 0: that cannot
// be told.
func recordAt(b []byte, index, salt uint64) (length int, err error) {
	if len(b) < recordHead {
		return 0, fmt.Errorf("entry %d is cut short", index)
	}
	size := uint64(binary.BigEndian.Uint32(b))
	if size < bodyHead || size > uint64(len(b)-recordHead) {
		return 0, fmt.Errorf("entry %d has an impossible length, %d", index, size)
	}
	length = recordHead + int(size)
	if binary.BigEndian.Uint32(b[4:]) != recordSum(b[recordHead:length], index, salt) {
		return length, fmt.Errorf("entry %d does not match its checksum", index)
	}
	if !hasExtensions(b[recordHead:length]) {
		return length, fmt.Errorf("entry %d has extensions longer than itself", index)
	}
	return length, nil
}

// hasExtensions reports whether the body of a record is as long as its extensions want.
func hasExtensions(body []byte) bool {
	return uint64(binary.BigEndian.Uint32(body[17:])) <= uint64(len(body)-bodyHead)
}

// decodeRecord decodes a record that recordAt has checked. The entry shares its bytes.
func decodeRecord(record []byte, index uint64, entry *raft.Log) {
	body := record[recordHead:]
	data := bodyHead + int(binary.BigEndian.Uint32(body[17:]))
	*entry = raft.Log{
		Index:      index,
		Term:       binary.BigEndian.Uint64(body),
		Type:       raft.LogType(body[8]),
		AppendedAt: decodeTime(binary.BigEndian.Uint64(body[9:])),
	}
	if data > bodyHead {
		entry.Extensions = body[bodyHead:data:data]
	}
	if data < len(body) {
		entry.Data = body[data:]
	}
}

// recordSum is a CRC-32C that does not begin with zero: at one index no two salts of a
// segment begin with the same, and with one salt no two indexes.
func recordSum(body []byte, index, salt uint64) uint32 {
	const odd = 0x9E3779B1
	return crc32.Update(uint32(salt)^uint32(index)*odd, castagnoli, body)
}

// noTime stands for the zero time, which has no nanoseconds since 1970.
const noTime = math.MaxUint64

func encodeTime(t time.Time) uint64 {
	if t.IsZero() {
		return noTime
	}
	return uint64(t.UnixNano())
}

func decodeTime(nanoseconds uint64) time.Time {
	if nanoseconds == noTime {
		return time.Time{}
	}
	return time.Unix(0, int64(nanoseconds))
}
