package kvhttp

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"time"
)

// sender writes an answer to a client that has to take each piece of it within a
// timeout. After an error the client gets nothing more.
type sender struct {
	w       http.ResponseWriter
	r       *http.Request
	conn    *http.ResponseController
	timeout time.Duration
	err     error // the first
}

func (h *handler) sender(w http.ResponseWriter, r *http.Request) *sender {
	s := &sender{w: w, r: r, conn: http.NewResponseController(w), timeout: h.timeout}
	if r.ContentLength != 0 {
		s.timeout *= 2 // the server may first read what is left of the body
	}
	return s
}

// write writes b piece by piece.
func (s *sender) write(b []byte) error {
	for piece := range slices.Chunk(b, pieceBytes) {
		err := s.inTime(func() error {
			_, err := s.w.Write(piece)
			return err
		})
		if err != nil {
			return err
		}
	}
	return s.err
}

// end writes b, and flushes with the last piece: a small answer sets one deadline.
func (s *sender) end(b []byte) error {
	last := max(0, len(b)-1) / pieceBytes * pieceBytes
	if err := s.write(b[:last]); err != nil {
		return err
	}
	return s.inTime(func() (err error) {
		if last < len(b) {
			_, err = s.w.Write(b[last:])
		}
		if err == nil {
			err = s.conn.Flush()
		}
		return err
	})
}

// flush hands over what the server has gathered. Its error is http.ErrNotSupported
// where the server cannot.
func (s *sender) flush() error { return s.inTime(s.conn.Flush) }

// inTime sets the deadline for do alone: in HTTP/1 it would stay for the next answer
// on the connection, in HTTP/2 it would end a stream that is quiet. A writer that knows
// no deadlines leaves this to the server.
func (s *sender) inTime(do func() error) error {
	if s.err != nil {
		return s.err
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.timeout))
	err := do()
	_ = s.conn.SetWriteDeadline(time.Time{})
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		s.err = err
	}
	return err
}

type connKey struct{}

// ConnContext is for the ConnContext of an http.Server. With it a connection whose
// client does not take a large answer or a stream in time is reset: otherwise what was
// written already, up to some megabytes, stays with the operating system, which goes on
// offering it for minutes.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	if secured, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secured.NetConn()
	}
	return context.WithValue(ctx, connKey{}, conn)
}

// resettable lets the close of the connection, which is what the server does first when
// a write fails, reset it. The answer is whole when whole is called.
func (s *sender) resettable() (whole func()) {
	conn, ok := s.r.Context().Value(connKey{}).(interface{ SetLinger(int) error })
	if !ok || s.r.ProtoMajor != 1 { // in HTTP/2 the connection has other answers as well
		return func() {}
	}
	_ = conn.SetLinger(0)
	return func() {
		if s.err == nil {
			_ = conn.SetLinger(-1)
		}
	}
}
