package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

func TestAFullDiskHoldsUpOnlyWhatDoesNotFit(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs a small disk, which only root can mount")
	}
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(small, "mirror")
	synctest.Test(t, func(t *testing.T) {
		store := kvrafttest.New(t, 1).Store(0)
		out := runMirror(t, store, dir)
		value := func(size int) []byte { return bytes.Repeat([]byte("v"), size) }
		batch(t, store, kvraft.SetOp("old", value(100<<10)), kvraft.SetOp("dir/old", value(50<<10)))
		await(t, "the files", func() string { return differs(dir, viewOf(t, store)) })
		batch(t, store, kvraft.SetOp("large", value(200<<10)))
		awaitLog(t, out, "no space left on device")
		batch(t, store, kvraft.SetOp("small", value(10)), kvraft.SetOp("old", value(20)))
		await(t, "the files that fit", func() string {
			for name, size := range map[string]int64{"small": 10, "old": 20, "dir/old": 50 << 10} {
				if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() != size {
					return fmt.Sprint(name, info, err)
				}
			}
			return ""
		})
		batch(t, store, kvraft.DeleteOp("dir/old"))
		await(t, "all files", func() string { return differs(dir, viewOf(t, store)) })
		awaitLog(t, out, "up to date again")
	})
}
