package wal

import (
	"errors"
	"syscall"
)

// diskIsFull reports whether err says so. Windows has codes of its own, of which syscall
// names none.
func diskIsFull(err error) bool {
	const handleDiskFull, diskFull, quotaExceeded syscall.Errno = 39, 112, 1295
	return errors.Is(err, handleDiskFull) || errors.Is(err, diskFull) || errors.Is(err, quotaExceeded)
}
