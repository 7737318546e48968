package snapshots

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
)

var (
	errCancelled = errors.New("snapshot was cancelled")

	// errOvertaken is for raft, which would else take the one that it has
	// written itself for the newest, whatever the leader has sent meanwhile: it would
	// refuse each entry behind that, for want of the one before.
	errOvertaken = errors.New("a newer snapshot has come from the leader meanwhile")
)

// sink writes one snapshot, of this node's own or from the leader, and reads it
// as it does: Close keeps only what could be read. Close and Cancel answer as the first
// of them did: whoever persists the state may close the sink, and raft does so again and
// believes the answer.
type sink struct {
	store  *files
	meta   header
	state  file
	sum    hash.Hash64
	reader *check
	ended  bool
	err    error // what Close answers once ended
}

// newSink makes the directory of an unfinished snapshot, in which raft's file snapshot
// store would see no snapshot.
func (s *files) newSink(meta raft.SnapshotMeta) (*sink, error) {
	if err := s.dir.Mkdir(meta.ID + tmpSuffix); err != nil {
		return nil, errors.Join(err, s.discard(meta.ID+tmpSuffix))
	}
	state, err := s.dir.Create(meta.ID + tmpSuffix + "/" + stateFile)
	if err != nil {
		return nil, errors.Join(err, s.discard(meta.ID+tmpSuffix))
	}
	return &sink{
		store:  s,
		meta:   header{SnapshotMeta: meta},
		state:  state,
		sum:    crc64.New(crc64.MakeTable(crc64.ECMA)),
		reader: startCheck(func(r io.Reader) error { return s.codec.VerifyNew(meta, r) }),
	}, nil
}

func (s *sink) ID() string { return s.meta.ID }

func (s *sink) Write(b []byte) (int, error) {
	if s.ended {
		return 0, errors.New("snapshot has ended")
	}
	n, err := s.state.Write(b)
	s.meta.Size += int64(n)
	s.sum.Write(b[:n])
	if err != nil {
		return n, s.store.judge(err)
	}
	if _, err := s.reader.Write(b); err != nil {
		return n, fmt.Errorf("what is written is no snapshot: %w", err)
	}
	return n, nil
}

// Sync puts what was written on stable storage. The rest of the snapshot follows
// with Close.
func (s *sink) Sync() error { return s.store.judge(s.state.Sync()) }

// Close completes the snapshot: from then on the node starts from it. Its files are on
// stable storage, and have been read to their end, before it gets its name, and the
// name is before it is remembered. A crash between the two leaves a whole snapshot, which
// the next start takes, and any other crash one that is not finished.
func (s *sink) Close() error {
	if s.ended {
		return s.err
	}
	s.ended = true
	if err := s.finish(); err != nil {
		s.err = errors.Join(s.store.judge(err), s.store.discard(s.ID()+tmpSuffix))
		return s.err
	}
	s.err = s.store.complete(s.ID())
	return s.err
}

// finish writes what is left of the unfinished snapshot.
func (s *sink) finish() error {
	err := errors.Join(s.state.Sync(), s.state.Close())
	if checkErr := s.reader.end(); checkErr != nil {
		return errors.Join(err, fmt.Errorf("what was written is no snapshot: %w", checkErr))
	}
	if err != nil {
		return err
	}
	s.meta.CRC = s.sum.Sum(nil)
	if err := s.writeMeta(); err != nil {
		return err
	}
	return s.store.dir.Sync(s.ID() + tmpSuffix)
}

func (s *sink) writeMeta() error {
	file, err := s.store.dir.Create(s.ID() + tmpSuffix + "/" + metaFile)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(file).Encode(s.meta); err != nil {
		return errors.Join(err, file.Close())
	}
	return errors.Join(file.Sync(), file.Close())
}

func (s *sink) Cancel() error {
	if s.ended {
		return nil
	}
	s.ended, s.err = true, errCancelled
	s.reader.cancel()
	return errors.Join(s.state.Close(), s.store.discard(s.ID()+tmpSuffix))
}

// check reads what is written to it, on a goroutine of its own, which ends with
// end or cancel.
type check struct {
	*io.PipeWriter
	result chan error
}

func startCheck(verify func(io.Reader) error) *check {
	r, w := io.Pipe()
	c := &check{w, make(chan error, 1)}
	go func() {
		err := verify(r)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		r.CloseWithError(err) // whoever goes on writing learns why in vain
		c.result <- err
	}()
	return c
}

// end tells whether what was written is a snapshot.
func (c *check) end() error {
	c.Close()
	return <-c.result
}

func (c *check) cancel() {
	c.CloseWithError(errCancelled)
	<-c.result
}

// encodePeers writes the voters as versions of raft before protocol 3 read them, and as
// all of them have written them ever since.
func encodePeers(members raft.Configuration, trans raft.Transport) (peers []byte, err error) {
	var voters [][]byte
	for _, m := range members.Servers {
		if m.Suffrage == raft.Voter {
			voters = append(voters, trans.EncodePeer(m.ID, m.Address))
		}
	}
	err = codec.NewEncoderBytes(&peers, new(codec.MsgpackHandle)).Encode(voters)
	return peers, err
}
