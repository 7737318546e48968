//go:build race

package kvraft

// raced: the race detector is on, and everything takes several times as long.
const raced = true
