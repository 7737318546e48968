package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// disk is the disk itself.
var disk = system{"disk", func(_ context.Context, at site) (cluster, error) {
	return diskCluster{dir: at.dirs[0]}, os.Mkdir(at.dirs[0], 0o700)
}}

type diskCluster struct {
	nothing
	dir string
}

// appending writes as a log that is appended to does: a page, then fdatasync, in a
// file that grows 16 MiB at a time, as raft-boltdb's does. It is the least that a
// write to such a log can wait for: one that writes its blocks ahead waits for less.
type appending struct{}

func (appending) String() string { return "fdatasync of a page that is appended" }

func (appending) run(ctx context.Context, c cluster, _ []string, warmUp, d time.Duration) (_ run, err error) {
	const page, step = 4 << 10, 16 << 20
	path := filepath.Join(c.(diskCluster).dir, "append")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return run{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	block, at := newValue(page).bytes, int64(0)
	return measure(ctx, []call{func(context.Context) error {
		if at%step == 0 {
			if err := f.Truncate(at + step); err != nil {
				return err
			}
		}
		if _, err := f.WriteAt(block, at); err != nil {
			return err
		}
		at += page
		return fdatasync(f)
	}}, warmUp, d)
}
