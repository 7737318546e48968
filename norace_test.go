//go:build !race

package kvraft_test

const raced = false
