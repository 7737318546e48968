//go:build !windows

package wal

import (
	"errors"
	"syscall"
)

// diskIsFull reports whether err says so, or that of the user's share of it.
func diskIsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
