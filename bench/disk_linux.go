package main

import (
	"os"
	"syscall"
)

func fdatasync(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }

// syncDisks waits until what was written, and what was removed, is on the disk.
func syncDisks() { syscall.Sync() }
