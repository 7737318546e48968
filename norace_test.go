//go:build !race

package kvraft

const raced = false
