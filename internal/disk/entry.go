package disk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
)

// verifyEntry checks that entry is the one that was stored at index.
func (m *Record) verifyEntry(entry *raft.Log, index uint64) error {
	if entry.Index != index {
		return fmt.Errorf("%w: entry %d is stored where entry %d belongs", errs.Damaged, entry.Index, index)
	}
	if len(entry.Extensions) == 0 && m.isOld(index) {
		return verifyLegacy(entry)
	}
	if err := verifyChecksum(entry); err != nil {
		return err
	}
	return verifyType(entry)
}

// verifyType refuses what raft would panic on when it starts, or applies the entry. It
// may have been stored before messages were judged; see raftrpc.
func verifyType(entry *raft.Log) (err error) {
	switch entry.Type {
	case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
	case raft.LogConfiguration:
		_, err = DecodeConfiguration(entry.Data)
	default:
		err = fmt.Errorf("it is of type %v, which this version does not know", entry.Type)
	}
	if err != nil {
		return fmt.Errorf("%w: entry %d: %w", errs.Damaged, entry.Index, err)
	}
	return nil
}

// DecodeConfiguration is raft's, which panics.
func DecodeConfiguration(data []byte) (config raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return raft.DecodeConfiguration(data), nil
}

// VerifyReceived is verifyChecksum for an entry that may come without: one of hraftd's that
// a leader passes on.
func VerifyReceived(entry *raft.Log) error {
	if len(entry.Extensions) == 0 {
		return nil
	}
	return verifyChecksum(entry)
}

// The checksum of an entry travels with it in Extensions: a tag, then CRC-32C
// over index, term, type and data. The time stamp is left out, as it carries
// no meaning and is not restored to the bit by every encoding.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	checksumTag  = 0xC5
	checksumSize = 5
)

func appendChecksum(b []byte, entry *raft.Log) []byte {
	var head [17]byte
	binary.BigEndian.PutUint64(head[0:], entry.Index)
	binary.BigEndian.PutUint64(head[8:], entry.Term)
	head[16] = byte(entry.Type)
	sum := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, entry.Data)
	return binary.BigEndian.AppendUint32(append(b, checksumTag), sum)
}

func verifyChecksum(entry *raft.Log) error {
	if len(entry.Extensions) == 0 {
		return fmt.Errorf("%w: entry %d has no checksum", errs.Damaged, entry.Index)
	}
	var want [checksumSize]byte
	if string(appendChecksum(want[:0], entry)) != string(entry.Extensions) {
		return fmt.Errorf("%w: entry %d does not match its checksum", errs.Damaged, entry.Index)
	}
	return nil
}

// Checksum is the checksum that an entry has; false: it has none, as what was written
// before a take-over.
func Checksum(entry *raft.Log) (sum uint32, has bool) {
	if len(entry.Extensions) != checksumSize || entry.Extensions[0] != checksumTag {
		return 0, false
	}
	return binary.BigEndian.Uint32(entry.Extensions[1:]), true
}
