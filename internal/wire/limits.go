package wire

import (
	"time"

	"github.com/kvraft/kvraft/internal/connlimit"
)

// Whoever reaches the peer port can make a node hold memory, descriptors and
// goroutines. These are the bounds of that. What a bound refuses is answered, where an
// answer can arrive, and was not applied.
const (
	MaxBatchBytes = 64 << 20              // of keys and values in one request
	MaxFrame      = MaxBatchBytes + 8<<20 // of a write or a read: a group that ends with the largest request
	maxSmallFrame = 64 << 10              // of every other call, and of any by a caller that names no node
	maxAnswer     = MaxBatchBytes << 1    // of what another node answers
	firstBytes    = 16 << 10              // memory that a call has before any of it has arrived

	// callBytes of larger calls and answers a node holds at one time: two of the largest,
	// or hundreds of full groups.
	callBytes = 128 << 20

	MaxCall        = 10 * time.Minute // for a call whose caller gives no limit
	MessageTimeout = 10 * time.Second // how long a message may stand still in its middle
	PerByte        = time.Microsecond // what a byte may take beside that: 1 MB/s

	// Connections that nobody uses are closed by the side that made them, well before the
	// other side would: that could be while a call is on its way.
	restLimit    = 30 * time.Second
	IdleLimit    = time.Minute
	unnamedLimit = 10 * time.Second // for a caller that names no node, and makes one call

	maxIdle     = 24 // connections kept open to one node
	maxRefusing = 64 // connections over the limit that are told so; the others are just closed
)

// connLimits are for accepted connections: half of the process's descriptors at most,
// and from one host half of that.
func connLimits() *connlimit.Limiter {
	most := connlimit.Within(1024, 2)
	return connlimit.New(most, max(most/2, 1))
}
