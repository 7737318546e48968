//go:build !unix

package connlimit

func maxFiles() (n uint64, ok bool) { return 0, false }
