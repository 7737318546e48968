package wal

import (
	"os"
	"syscall"
	"testing"
)

func TestADiskThatWindowsCallsFullIsFull(t *testing.T) {
	for code, want := range map[syscall.Errno]bool{39: true, 112: true, 1295: true, syscall.ERROR_ACCESS_DENIED: false} {
		if err := noRoom(&os.PathError{Op: "write", Path: "segment.new", Err: code}); isFull(err) != want {
			t.Errorf("%v, %d: it is full: %v, want %v", err, code, isFull(err), want)
		}
	}
}
