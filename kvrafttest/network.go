package kvrafttest

import (
	"time"

	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

// What package memnet has, by the names that a test of stores knows.
type (
	// Network is a network in memory, of named hosts, that can be cut, slowed and healed.
	Network = memnet.Network

	// Host is a Network as one process sees it: a store takes it by kvraft.WithNetwork.
	Host = memnet.Host

	// A NetworkOption sets a property of a whole Network.
	NetworkOption = memnet.Option
)

// NewNetwork is [memnet.New].
func NewNetwork(opts ...NetworkOption) *Network { return memnet.New(opts...) }

// WithLatency is [memnet.WithLatency].
func WithLatency(d time.Duration) NetworkOption { return memnet.WithLatency(d) }

// WithWindow is [memnet.WithWindow].
func WithWindow(bytes int) NetworkOption { return memnet.WithWindow(bytes) }
