package snapshots

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
)

// Found is a snapshot in a directory, or one that the node remembers and that is gone.
type Found struct {
	disk.SnapshotMark // with the name of its directory as the ID
	Configuration     raft.Configuration
	Err               error // what is wrong with it: that it is damaged or missing; nil: nothing
}

// Inspect reads all snapshots in dir to their end, and changes nothing. read reads
// the state of each. What was found comes from the oldest to the newest, damaged or not,
// with what could be read of it.
func Inspect(dir string, remembered disk.SnapshotMark, read func(id string, r io.Reader) error) (all []Found, err error) {
	path := filepath.Join(dir, boltlog.SnapshotsDir)
	files, err := openDirectory(path)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	defer files.Close()
	entries, err := files.ReadDir()
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var newest disk.SnapshotMark
	for _, entry := range entries {
		id := entry.Name()
		if !entry.IsDir() || strings.HasSuffix(id, tmpSuffix) {
			continue
		}
		meta, mark, err := verifyFiles(files, id, remembered, func(r io.Reader) error { return read(id, r) })
		if err != nil {
			err = fmt.Errorf("snapshot %s: %w", filepath.Join(path, id), err)
		}
		if err != nil && !errors.Is(err, errs.Newer) {
			err = fmt.Errorf("%w: %w", errs.Damaged, err)
		}
		if mark.Compare(newest, remembered) > 0 {
			newest = mark
		}
		mark.ID = id // also where it says otherwise
		all = append(all, Found{mark, meta.Configuration, err})
	}
	isRemembered := func(f Found) bool { return f.ID == remembered.ID }
	if newest.OlderThan(remembered) && !slices.ContainsFunc(all, isRemembered) {
		err := fmt.Errorf("%w: snapshot %s is missing, but this node completed it", errs.Damaged, remembered.ID)
		all = append(all, Found{SnapshotMark: remembered, Err: err})
	}
	slices.SortFunc(all, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}
