// Package pace has writers that rest between the pieces of what they write, so that
// others get at the disk or the processor too.
//
// A writer belongs to whoever uses it: there is no goroutine, and no lock. Both are tested
// in virtual time.
package pace

import (
	"context"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/kvraft/kvraft/internal/sleep"
)

const (
	PieceBytes  = 256 << 10 // are written between two rests
	restTimes   = 3         // as long as the piece took
	longestRest = 50 * time.Millisecond
)

// Writer writes pieces with rests between them, and has each on stable storage before the
// rest, as the operating system would keep all of them for the end. It is for a snapshot,
// which is written beside the log, on the same disk as a rule: in one piece it would be in
// the way of each write to the log, which waits for the disk too.
type Writer struct {
	ctx   context.Context
	to    io.Writer
	hurry func() bool
}

// NewWriter returns a Writer to to, which may have a Sync. When hurry reports true, and
// when ctx has ended, there is no rest.
func NewWriter(ctx context.Context, to io.Writer, hurry func() bool) Writer {
	return Writer{ctx, to, hurry}
}

func (w Writer) Write(b []byte) (n int, err error) {
	for piece := range slices.Chunk(b, PieceBytes) {
		began := time.Now()
		wrote, err := w.writePiece(piece)
		n += wrote
		if err != nil {
			return n, err
		}
		if took := time.Since(began); !w.hurry() {
			sleep.For(w.ctx, min(restTimes*took, longestRest))
		}
	}
	return n, nil
}

func (w Writer) writePiece(b []byte) (int, error) {
	n, err := w.to.Write(b)
	if file, ok := w.to.(interface{ Sync() error }); ok && err == nil {
		err = file.Sync()
	}
	return n, err
}

// Hash rests after each piece for as long as that took.
type Hash struct {
	hash.Hash
	ended <-chan struct{}

	piece int           // bytes since the last rest
	took  time.Duration // what they took
}

// NewHash returns a Hash that does not rest any more when ended is closed.
func NewHash(h hash.Hash, ended <-chan struct{}) *Hash { return &Hash{Hash: h, ended: ended} }

func (h *Hash) Write(b []byte) (int, error) {
	for piece := range slices.Chunk(b, PieceBytes) {
		began := time.Now()
		_, _ = h.Hash.Write(piece) // it does not fail
		h.took += time.Since(began)
		if h.piece += len(piece); h.piece < PieceBytes {
			continue
		}
		select {
		case <-time.After(min(h.took, longestRest)):
		case <-h.ended:
		}
		h.piece, h.took = 0, 0
	}
	return len(b), nil
}
