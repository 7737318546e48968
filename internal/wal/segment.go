package wal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/kvraft/kvraft/internal/errs"
)

// ID tells a log from any other. It is in each of its segments.
type ID [16]byte

// segmentHeader is what a segment begins with, in one sector, which a disk writes whole or
// not at all:
//
//	magic 8, version 4, log's ID 16, number 8, salt 8, size 8, CRC-32C 4
//
// The numbers of a log's segments have no gaps. A segment of which nothing is needed is
// taken again as the next one, the lowest number first: one header that is overwritten
// makes the step, and wherever a crash comes between there is no gap either.
const (
	segmentHeader = 4096 // what is kept for it: frames share no block with it
	headerSize    = 56
	version       = 1
)

var magic = []byte("kvraftwl")

// segment is a file of the log's. It belongs to the one that writes, but for its entries
// and its size, which are guarded by the log's mu. Whoever reads may have it in hand when its file is
// taken again, or removed: then the entry that was sought is none of the log's any more.
type segment struct {
	name   string
	file   file
	id     ID
	number uint64
	salt   uint64 // of its last session
	size   int64
	end    int64  // where its next frame goes
	newest int64  // where its last frame is, as it was found; 0: it had none
	ends   uint64 // the log's last entry as that frame has it; 0: none

	first   uint64     // the index of the entry at offsets[0]
	offsets []uint32   // of its entries that are in the log, or were at its beginning
	salts   []saltFrom // of its records
}

// saltFrom is the salt of the records from an offset on.
type saltFrom struct {
	offset uint32
	salt   uint64
}

// last is the index of the last entry that begins in it; first-1: there is none.
func (s *segment) last() uint64 { return s.first + uint64(len(s.offsets)) - 1 }

// at is the place of a mark at an offset.
func (s *segment) at(offset int64) place { return place{s.number, s.salt, offset} }

func (s *segment) header() []byte {
	b := slices.Clone(magic)
	b = binary.BigEndian.AppendUint32(b, version)
	b = append(b, s.id[:]...)
	b = binary.BigEndian.AppendUint64(b, s.number)
	b = binary.BigEndian.AppendUint64(b, s.salts[0].salt)
	b = binary.BigEndian.AppendUint64(b, uint64(s.size))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readHeader reads what a segment's file says of itself, whole or not. The file may be
// shorter than that all the same.
func (s *segment) readHeader() (whole bool, err error) {
	var b [headerSize]byte
	if _, err := s.file.ReadAt(b[:], 0); err == io.EOF {
		return false, s.damaged(0, fmt.Errorf("read its header: %w", err))
	} else if err != nil {
		return false, fmt.Errorf("read %s at offset 0: %w", s.name, err)
	}
	body, sum := b[:headerSize-4], binary.BigEndian.Uint32(b[headerSize-4:])
	if !bytes.HasPrefix(b[:], magic) || crc32.Checksum(body, castagnoli) != sum {
		return false, s.damaged(0, fmt.Errorf("its header does not match its checksum"))
	}
	if v := binary.BigEndian.Uint32(b[8:]); v != version {
		return false, fmt.Errorf("%w: %s has format %d, this version reads %d", errs.Newer, s.name, v, version)
	}
	copy(s.id[:], b[12:])
	s.number = binary.BigEndian.Uint64(b[28:])
	s.size = int64(binary.BigEndian.Uint64(b[44:]))
	s.end = segmentHeader
	s.resalt(binary.BigEndian.Uint64(b[36:]))
	if s.size < segmentHeader {
		return false, s.damaged(0, fmt.Errorf("it has an impossible size, %d", s.size))
	}
	size, err := s.file.size()
	if err == nil && size < s.size {
		err = s.damaged(size, fmt.Errorf("it is cut short, to %d bytes of %d", size, s.size))
	}
	return err == nil || size >= segmentHeader, err
}

// damaged says where something is wrong.
func (s *segment) damaged(offset int64, err error) error {
	return fmt.Errorf("%w: %s at offset %d: %w", errs.Damaged, s.name, offset, err)
}

// begin makes the file an empty segment, with a salt of its own.
func (s *segment) begin() error {
	s.end, s.salts = segmentHeader, nil
	s.resalt(newSalt())
	if _, err := s.file.WriteAt(s.header(), 0); err != nil {
		return err
	}
	return s.file.Sync()
}

// allocate makes the file as large as the segment, durably: its header says so.
func (s *segment) allocate() error {
	err := s.file.allocate(s.size)
	if err == nil {
		err = s.file.Sync()
	}
	return noRoom(err)
}

// rewrite writes what it has from one offset to another.
func (s *segment) rewrite(from, to int64) error {
	b := make([]byte, to-from)
	if _, err := s.file.ReadAt(b, from); err != nil {
		return err
	}
	_, err := s.file.WriteAt(b, from)
	return err
}

// resalt gives what comes a salt of its own.
func (s *segment) resalt(salt uint64) {
	s.salt = salt
	s.salts = append(s.salts, saltFrom{uint32(s.end), salt})
}

// newSalt is one that no frame has had.
func newSalt() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // which never fails
	return binary.BigEndian.Uint64(b[:])
}

// saltAt is the salt of the record at an offset.
func (s *segment) saltAt(offset uint32) (salt uint64) {
	for _, from := range s.salts {
		if from.offset > offset {
			break
		}
		salt = from.salt
	}
	return salt
}

// has reports whether the entry at index begins in the segment, and where.
func (s *segment) has(index uint64) (offset uint32, ok bool) {
	if len(s.offsets) == 0 || index < s.first || index > s.last() {
		return 0, false
	}
	return s.offsets[index-s.first], true
}

// add takes note of entries from index on, which follow those that are there.
func (s *segment) add(index uint64, offsets []uint32) {
	if len(s.offsets) == 0 {
		s.first = index
	}
	s.offsets = append(s.offsets, offsets...)
}

// cut forgets the entries from index on.
func (s *segment) cut(index uint64) {
	if len(s.offsets) > 0 && index <= s.last() {
		s.offsets = s.offsets[:max(index, s.first)-s.first]
	}
}
