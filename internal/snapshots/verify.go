package snapshots

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"io"
	"strings"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
)

// verifyFiles reads the snapshot id to its end and changes nothing:
// check reads what is inside, raft's CRC-64 is compared, and, if the node remembers it, what
// it remembers. With an error it
// returns what could be read.
func verifyFiles(dir directory, id string, remembered disk.SnapshotMark, check func(io.Reader) error) (meta header, mark disk.SnapshotMark, err error) {
	meta, mark, err = readHeader(dir, id)
	if err != nil {
		return meta, mark, err
	}
	if mark.ID != id || !strings.HasPrefix(id, fmt.Sprintf("%d-%d-", mark.Term, mark.Index)) {
		return meta, mark, fmt.Errorf("its %s is that of %s, term %d, index %d", metaFile, mark.ID, mark.Term, mark.Index)
	}
	state, err := dir.Open(id + "/" + stateFile)
	if err != nil {
		return meta, mark, err
	}
	defer state.Close()
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	summed := io.TeeReader(state, sum)
	checkErr := check(summed)
	if checkErr != nil && !errors.Is(checkErr, errs.Newer) { // which a changed byte may have made it
		return meta, mark, checkErr
	}
	if _, err := io.Copy(io.Discard, summed); err != nil {
		return meta, mark, err
	}
	size, err := state.Seek(0, io.SeekCurrent)
	if err != nil {
		return meta, mark, err
	}
	if size != mark.Size {
		return meta, mark, fmt.Errorf("%d bytes of state, %d expected", size, mark.Size)
	}
	if !bytes.Equal(sum.Sum(nil), meta.CRC) {
		return meta, mark, errors.New("CRC mismatch")
	}
	if checkErr == nil && id == remembered.ID && mark != remembered {
		return meta, mark, errNotCompleted
	}
	return meta, mark, checkErr
}

// header is what raft writes into a snapshot's meta.json.
type header struct {
	raft.SnapshotMeta
	CRC []byte // CRC-64 of the state
}

// readHeader reads the meta.json of the snapshot id.
func readHeader(dir directory, id string) (meta header, mark disk.SnapshotMark, err error) {
	file, err := dir.Open(id + "/" + metaFile)
	if err != nil {
		return meta, mark, err
	}
	defer file.Close()
	stored, err := io.ReadAll(file)
	if err != nil {
		return meta, mark, err
	}
	if err := json.Unmarshal(stored, &meta); err != nil {
		return header{}, mark, fmt.Errorf("%s: %w", metaFile, err)
	}
	return meta, disk.SnapshotMark{ID: meta.ID, Index: meta.Index, Term: meta.Term, Size: meta.Size, CRC: crc32.Checksum(stored, crc32.MakeTable(crc32.Castagnoli))}, nil
}
