package kvraft

import (
	"context"
	"hash"
	"io"
	"slices"
	"time"
)

// A snapshot is written beside the log, on the same disk as a rule. In one piece it
// would be in the way of each write to the log, which waits for the disk too.
const (
	pieceBytes  = 256 << 10
	restTimes   = 3 // as long as the piece took
	longestRest = 50 * time.Millisecond
)

// paced writes pieces with rests between them, and has each on stable storage before
// the rest, as the operating system would keep all of them for the end.
type paced struct {
	ctx   context.Context // ends the rests
	to    io.Writer       // may have a Sync
	hurry func() bool     // there are to be no more rests
}

func (p paced) Write(b []byte) (n int, err error) {
	for piece := range slices.Chunk(b, pieceBytes) {
		began := time.Now()
		wrote, err := p.writePiece(piece)
		n += wrote
		if err != nil {
			return n, err
		}
		p.rest(min(restTimes*time.Since(began), longestRest))
	}
	return n, nil
}

func (p paced) writePiece(b []byte) (int, error) {
	n, err := p.to.Write(b)
	if file, ok := p.to.(interface{ Sync() error }); ok && err == nil {
		err = file.Sync()
	}
	return n, err
}

func (p paced) rest(d time.Duration) {
	if p.hurry() {
		return
	}
	select {
	case <-time.After(d):
	case <-p.ctx.Done():
	}
}

// pacedHash rests after each piece for as long as that took.
type pacedHash struct {
	hash.Hash
	ended <-chan struct{} // there are to be no more rests

	piece int           // bytes since the last rest
	took  time.Duration // what they took
}

func (p *pacedHash) Write(b []byte) (int, error) {
	for piece := range slices.Chunk(b, pieceBytes) {
		began := time.Now()
		_, _ = p.Hash.Write(piece) // it does not fail
		p.took += time.Since(began)
		if p.piece += len(piece); p.piece >= pieceBytes {
			p.rest()
		}
	}
	return len(b), nil
}

func (p *pacedHash) rest() {
	select {
	case <-time.After(min(p.took, longestRest)):
	case <-p.ended:
	}
	p.piece, p.took = 0, 0
}
