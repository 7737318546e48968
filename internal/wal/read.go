package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"
)

// GetLog reads the entry at index, or returns [raft.ErrLogNotFound]. The entry's bytes are
// the caller's.
func (l *Log) GetLog(index uint64, entry *raft.Log) error {
	for {
		where, ok := l.find(index)
		if !ok {
			return raft.ErrLogNotFound
		}
		err := where.read(index, entry)
		if now, _ := l.find(index); err == nil || now == where {
			return err
		}
		// It was deleted meanwhile, and its segment taken again.
	}
}

// location is where an entry is.
type location struct {
	segment *segment
	offset  uint32
	salt    uint64
	size    int64 // of the segment
}

func (l *Log) find(index uint64) (where location, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.first == 0 || index < l.first || index > l.last {
		return where, false
	}
	for _, s := range l.segments {
		if offset, ok := s.has(index); ok {
			return location{s, offset, s.saltAt(offset), s.size}, true
		}
	}
	return where, false
}

func (w location) read(index uint64, entry *raft.Log) error {
	s, offset := w.segment, int64(w.offset)
	var head [recordHead]byte
	if _, err := s.file.ReadAt(head[:], offset); err != nil {
		return fmt.Errorf("read %s at offset %d: %w", s.name, offset, err)
	}
	length := min(recordHead+int64(binary.BigEndian.Uint32(head[:])), w.size-offset)
	record := make([]byte, length)
	if _, err := s.file.ReadAt(record, offset); err != nil {
		return fmt.Errorf("read %s at offset %d: %w", s.name, offset, err)
	}
	if _, err := recordAt(record, index, w.salt); err != nil {
		return s.damaged(offset, err)
	}
	decodeRecord(record, index, entry)
	return nil
}

// Each reads all entries in their order, many at once, until visit returns an error. Nobody
// may write meanwhile. The entries' bytes are visit's.
func (l *Log) Each(visit func(*raft.Log) error) error {
	var content []byte
	for _, s := range l.segments {
		if l.first == 0 || len(s.offsets) == 0 || s.last() < l.first {
			continue
		}
		var err error
		if content, err = s.read(content, s.end); err != nil {
			return err
		}
		for index := max(s.first, l.first); index <= s.last(); index++ {
			offset, _ := s.has(index)
			length, err := recordAt(content[offset:], index, s.saltAt(offset))
			if err != nil {
				return s.damaged(int64(offset), err)
			}
			var entry raft.Log
			decodeRecord(bytes.Clone(content[offset:int(offset)+length]), index, &entry)
			if err := visit(&entry); err != nil {
				return err
			}
		}
	}
	return nil
}
