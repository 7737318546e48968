package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// The disk itself: what a log waits for at the least, with the same number of bytes.
var (
	written  = system{"fdatasync over written blocks", openDiskWith(16 << 20)}
	appended = system{"fdatasync of a file that grows", openDiskWith(0)}
)

// openDiskWith opens a file with so many bytes, which are written again and again; 0: it
// grows. They are no zeros, for which a virtual disk may have no blocks.
func openDiskWith(size int) func(context.Context, site) (cluster, error) {
	return func(_ context.Context, at site) (cluster, error) {
		if err := os.Mkdir(at.dirs[0], 0o700); err != nil {
			return nil, err
		}
		f, err := os.Create(filepath.Join(at.dirs[0], "file"))
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(newValue(size).bytes); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return &diskCluster{file: f, size: int64(size)}, f.Sync()
	}
}

type diskCluster struct {
	nothing
	file     *os.File
	size, at int64
	bytes    []byte
}

func (c *diskCluster) close() error { return c.file.Close() }

func (c *diskCluster) store(entries []*raft.Log) error {
	c.bytes = c.bytes[:0]
	for _, e := range entries {
		c.bytes = append(c.bytes, e.Data...)
	}
	n := int64(len(c.bytes))
	if c.size > 0 && c.at+n > c.size {
		c.at = 0
	}
	if _, err := c.file.WriteAt(c.bytes, c.at); err != nil {
		return err
	}
	c.at += n
	return fdatasync(c.file)
}
