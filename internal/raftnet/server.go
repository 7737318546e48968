package raftnet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/loglimit"
	"github.com/kvraft/kvraft/internal/raftrpc"
	"github.com/kvraft/kvraft/internal/wire"
)

// What a message of raft's may take, before it is judged.
const (
	// maxRaftMessage is the largest: raft sends up to 1 MiB of entries, or one larger
	// entry, which has at most one request of wire.MaxBatchBytes and what is around it.
	maxRaftMessage = wire.MaxBatchBytes + wire.MaxBatchBytes/8

	// maxRaftReading is for all messages together that this node has not answered. There
	// is room for the largest one and for many small ones.
	maxRaftReading = maxRaftMessage + 24<<20
)

// server is the serving side of raft's transport. raft's own decodes whatever
// length a message claims and hands on whatever it says; this one reads messages by
// raftrpc, which bounds and judges them. The protocol is raft's: a byte that tells the
// kind, the request, behind a snapshot's request the snapshot; and back an error text
// and the answer.
//
// Each connection has a goroutine of its own, which is the port's.
type server struct {
	port    *wire.Port
	log     hclog.Logger
	lines   *loglimit.Limiter // of log
	rpcs    chan raft.RPC     // not judged yet
	reading atomic.Int64      // bytes of messages that are not answered
}

// serve answers one message after the other, until the connection ends.
func (s *server) serve(conn net.Conn) {
	in, out := bufio.NewReaderSize(conn, 64<<10), bufio.NewWriter(conn)
	answers := codec.NewEncoder(out, &codec.MsgpackHandle{})
	for {
		err := s.serveOne(in, answers)
		if flushErr := out.Flush(); err == nil {
			err = flushErr
		}
		if errors.Is(err, raftrpc.ErrBad) {
			s.note("bytes", conn.RemoteAddr().String(), err)
		}
		if err != nil {
			s.log.Debug("a connection for raft has ended", "from", conn.RemoteAddr(), "reason", err)
			return
		}
	}
}

var errUnread = errors.New("a snapshot was not read to its end")

// serveOne reads a message, has it answered, and writes the answer. An error means that
// what follows on the connection is no message.
func (s *server) serveOne(in *bufio.Reader, answers *codec.Encoder) error {
	kind, err := in.ReadByte()
	if err != nil {
		return err
	}
	grown := int64(0)
	defer func() { s.reading.Add(-grown) }()
	req, err := raftrpc.Read(in, raftrpc.Kind(kind), maxRaftMessage, func(bytes int) error {
		grown += int64(bytes)
		if s.reading.Add(int64(bytes)) > maxRaftReading {
			return fmt.Errorf("messages of more than %d bytes are being read", maxRaftReading)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var snapshot io.LimitedReader
	rpc := raft.RPC{Command: req}
	if install, ok := req.(*raft.InstallSnapshotRequest); ok {
		snapshot = io.LimitedReader{R: in, N: max(install.Size, 0)}
		rpc.Reader = &snapshot
	}
	answer, ok := ask(s.port.Context(), s.rpcs, rpc)
	if !ok {
		return net.ErrClosed
	}
	text := ""
	if answer.Error != nil {
		text = answer.Error.Error()
	}
	if err := errors.Join(answers.Encode(text), answers.Encode(answer.Response)); err != nil {
		return err
	}
	if snapshot.N > 0 {
		return errUnread
	}
	return nil
}

// ask sends a message and waits for what it is answered, at most until ctx ends.
func ask(ctx context.Context, to chan<- raft.RPC, rpc raft.RPC) (answer raft.RPCResponse, ok bool) {
	answers := make(chan raft.RPCResponse, 1)
	rpc.RespChan = answers
	select {
	case to <- rpc:
	case <-ctx.Done():
		return answer, false
	}
	select {
	case answer = <-answers:
		return answer, true
	case <-ctx.Done():
		return answer, false
	}
}

// refuse answers a message that raft must not see.
func (s *server) refuse(rpc raft.RPC, reason error) {
	s.note(fmt.Sprintf("%T", rpc.Command), string(sender(rpc)), reason)
	rpc.Respond(nil, fmt.Errorf("refused: %w", reason))
}

// sender is the id in a message's header.
func sender(rpc raft.RPC) []byte {
	if h, ok := rpc.Command.(raft.WithRPCHeader); ok {
		return h.GetRPCHeader().ID
	}
	return nil
}

// note logs that a message of a kind was refused. A new leader may have sent it, of which
// this node has yet to hear that it is a member.
func (s *server) note(kind, from string, reason error) {
	if missed, ok := s.lines.Allow(kind); ok {
		s.log.Warn("refused a message of raft: by what this node knows, no member can have sent it",
			"kind", kind, "from", loglimit.Plain(from, 256), "reason", loglimit.Plain(reason.Error(), 256), "others", missed)
	}
}
