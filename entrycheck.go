package kvraft

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// verifyType refuses what raft would panic on when it starts, or applies the entry. It
// may have been stored before messages were judged; see raftrpc.
func verifyType(entry *raft.Log) (err error) {
	switch entry.Type {
	case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
	case raft.LogConfiguration:
		_, err = decodeConfiguration(entry.Data)
	default:
		err = fmt.Errorf("it is of type %v, which this version does not know", entry.Type)
	}
	if err != nil {
		return fmt.Errorf("%w: entry %d: %w", ErrDamaged, entry.Index, err)
	}
	return nil
}

// checkSum is verifyChecksum for an entry that may come without: one of hraftd's that
// a leader passes on.
func checkSum(entry *raft.Log) error {
	if len(entry.Extensions) == 0 {
		return nil
	}
	return verifyChecksum(entry)
}
