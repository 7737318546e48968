package kvraft

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/failover"
	"github.com/kvraft/kvraft/internal/founding"
	"github.com/kvraft/kvraft/internal/member"
	"github.com/kvraft/kvraft/internal/place"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/state"
	"github.com/kvraft/kvraft/internal/wire"
	"github.com/kvraft/kvraft/internal/wire/wiretest"
)

// testdata/formats holds what this project has written to disks and sent to peers.
// Every later version must read it, and what is still written must come out the same,
// byte for byte. A change that breaks a file here is a decision: it takes a new version
// of that format, and a new file beside the old one.
//
// -write-formats writes the files that are missing. It never touches one that is there.
var writeFormats = flag.Bool("write-formats", false, "write the missing files of testdata/formats")

const formats = "testdata/formats"

// golden returns the file name, which fresh makes if it is missing.
func golden(t *testing.T, name string, fresh []byte) []byte {
	t.Helper()
	path := filepath.Join(formats, name)
	stored, err := os.ReadFile(path)
	if os.IsNotExist(err) && *writeFormats {
		if err := os.WriteFile(path, fresh, 0o644); err != nil {
			t.Fatal(err)
		}
		return fresh
	}
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// wantGolden fails unless fresh is what stands in the file name.
func wantGolden(t *testing.T, name string, fresh []byte) {
	t.Helper()
	if stored := golden(t, name, fresh); !bytes.Equal(stored, fresh) {
		t.Errorf("%s: this version writes\n%q\nand the file has\n%q", name, fresh, stored)
	}
}

// wantJSON fails unless message is encoded as the file name, and read back from it.
func wantJSON[T any](t *testing.T, name string, message T) []byte {
	t.Helper()
	encoded, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	wantGolden(t, name, append(encoded, '\n'))
	var back T
	if err := json.Unmarshal(golden(t, name, nil), &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, message) {
		t.Errorf("%s reads as %+v, want %+v", name, back, message)
	}
	return encoded
}

// wireTape is a connection that keeps what is written and gives back what was recorded.
type wireTape struct {
	net.Conn
	written bytes.Buffer
	answer  bytes.Reader
}

func (c *wireTape) Write(b []byte) (int, error)      { return c.written.Write(b) }
func (c *wireTape) Read(b []byte) (int, error)       { return c.answer.Read(b) }
func (c *wireTape) Close() error                     { return nil }
func (c *wireTape) SetDeadline(time.Time) error      { return nil }
func (c *wireTape) SetReadDeadline(time.Time) error  { return nil }
func (c *wireTape) SetWriteDeadline(time.Time) error { return nil }

// everyOp is a group with every kind of operation.
var everyOp = []command.Request{
	{ID: command.ID{0: 1, 15: 2}, Born: 300, Ops: []command.Op{
		{Kind: command.Check, Key: "color", Version: 7},
		{Kind: command.Set, Key: "color", Value: []byte("green")},
		{Kind: command.Delete, Key: "shape"},
	}},
	{ID: command.ID{3}, Born: 1, Ops: []command.Op{{Kind: command.Note, Key: "replica/n4", Value: []byte("1")}}},
}

var everyResult = []command.Result{
	{Code: command.OK, Version: 8}, {Code: command.Conflict, Version: 300}, {Code: command.Expired, Version: 70000},
}

// refusals are results that came later.
var refusals = []command.Result{
	{Code: command.Reused, Version: 9}, {Code: command.TooLarge}, {Code: command.Invalid},
}

// created came after those.
var created = []command.Result{{Code: command.Created, Version: 10}}

// everyOrigin is everyOp in the second version of the format, which tells whose the ids
// are.
var everyOrigin = []command.Request{
	{Origin: command.Own, ID: everyOp[0].ID, Born: 300, Ops: everyOp[0].Ops},
	{Origin: command.Caller, ID: command.ID{3}, Digest: command.Digest{4, 7: 5}, Born: 1, Ops: everyOp[0].Ops[:1]},
}

func TestCommandsAreEncodedAsTheyEverWere(t *testing.T) {
	wantGolden(t, "command-group-2", command.Append(nil, everyOrigin))
	marked, err := command.Decode(golden(t, "command-group-2", nil))
	if err != nil || !reflect.DeepEqual(marked, everyOrigin) {
		t.Errorf("%+v, %v", marked, err)
	}
	wantGolden(t, "command-group", command.Append(nil, everyOp))
	group, err := command.Decode(golden(t, "command-group", nil))
	if err != nil || !reflect.DeepEqual(group, everyOp) {
		t.Errorf("%+v, %v", group, err)
	}
	wantGolden(t, "command-results", command.AppendResults(nil, everyResult))
	results, err := command.DecodeResults(golden(t, "command-results", nil))
	if err != nil || !reflect.DeepEqual(results, everyResult) {
		t.Errorf("%+v, %v", results, err)
	}
	wantGolden(t, "command-refusals", command.AppendResults(nil, refusals))
	results, err = command.DecodeResults(golden(t, "command-refusals", nil))
	if err != nil || !reflect.DeepEqual(results, refusals) {
		t.Errorf("%+v, %v", results, err)
	}
	wantGolden(t, "command-created", command.AppendResults(nil, created))
	results, err = command.DecodeResults(golden(t, "command-created", nil))
	if err != nil || !reflect.DeepEqual(results, created) {
		t.Errorf("%+v, %v", results, err)
	}
}

// everyCall has a payload for each call, in the order of their numbers.
func everyCall(t *testing.T) [][]byte {
	return [][]byte{
		wire.CallWrite:     command.Append(nil, everyOp),
		wire.CallGet:       append([]byte{byte(LeaderLocal)}, "color"...),
		wire.CallReadIndex: {byte(Linearizable)},
		wire.CallConfirm:   {0, 0, 0, 0, 0, 0, 0, 9},
		wire.CallCatchUp: wantJSON(t, "message-catch-up", member.CatchUpRequest{
			Target: 9, Within: time.Second, So: member.Progress{Index: 5, Behind: 4, Bytes: 3, Rate: 2},
		}),
		wire.CallLastIndex: nil,
		wire.CallJoin: wantJSON(t, "message-join", member.JoinRequest{
			ID: "n4", Addr: "10.0.0.4:7000", Role: "replica", Itself: true, Away: true, Forwarded: true,
		}),
		wire.CallNodes: nil,
		wire.CallAdmit: wantJSON(t, "message-admission", place.Admission{Cluster: "c1", Server: "n4#d"}),
		wire.CallRemove: wantJSON(t, "message-remove", member.RemoveRequest{
			ID: "n4", Force: true, MayReturn: true, IfSilent: true, Forwarded: true,
		}),
		wire.CallTransfer: wantJSON(t, "message-transfer", member.TransferRequest{To: "n2", Forwarded: true}),
		wire.CallFound: wantJSON(t, "message-form", founding.Statement{
			Peer: roster.Peer{Server: "n1#a", Addr: "10.0.0.1:7000"}, Cluster: "c1", Expect: 3,
			Set: []roster.Peer{{Server: "n2#b", Addr: "10.0.0.2:7000"}}, Promised: true, Known: []string{"10.0.0.2:7000"},
		}),
		wire.CallSuspicion: wantJSON(t, "message-suspect", failover.Suspicion{Leader: "n1#a", Term: 9}),
		wire.CallClaim:     wantJSON(t, "message-claim", place.Claim{Server: "n1#a", Addr: "10.0.0.9:7000", Process: "p", Promise: true}),
		wire.CallStart:     wantJSON(t, "message-start", failover.StartQuestion{}),
	}
}

func TestCallsAreEncodedAsTheyEverWere(t *testing.T) {
	wantJSON(t, "message-remove-2", member.RemoveRequest{ID: "n4", Term: 9})
	wantJSON(t, "answer-suspect", failover.SuspicionVote{Dead: true, LogEnd: failover.LogEnd{Term: 9, Index: 300, Server: "n2#b"}})
	wantJSON(t, "answer-suspect-2", failover.SuspicionVote{LogEnd: failover.LogEnd{Term: 9, Index: 300, Server: "n2#b"}, Later: true, Abstains: true})
	wantJSON(t, "answer-start", failover.StartVote{
		Unled: time.Second, Elects: true, Abstains: true, Current: 12, LogEnd: failover.LogEnd{Term: 9, Index: 300, Server: "n2#b"},
	})
	wantJSON(t, "answer-claim", place.ClaimAnswer{
		Server: "n2#b", Process: "q", Placed: true, Led: true, Absent: true, Voters: []raft.ServerID{"n1#a", "n2#b"}, Term: 9, Index: 300,
	})
	wantJSON(t, "answer-nodes", []Node{{ID: "n1", Addr: "10.0.0.1:7000", Voter: true}, {ID: "n4", Addr: "10.0.0.4:7000", Replica: true}})
	for number, payload := range everyCall(t) {
		if number == 0 {
			continue
		}
		name := fmt.Sprintf("call-%02d", number)
		hello, written := recordCall(t, wire.Method(number), payload)
		wantGolden(t, name, written)
		playCall(t, append(hello, golden(t, name, nil)...), wire.Method(number), payload)
	}
}

// tapeNetwork leads to one connection.
type tapeNetwork struct{ conn net.Conn }

func (n tapeNetwork) Dial(context.Context, string) (net.Conn, error) { return n.conn, nil }

// recordCall is what a call puts on the wire: the handshake, and the rest.
func recordCall(t *testing.T, m wire.Method, payload []byte) (hello, call []byte) {
	t.Helper()
	conn := &wireTape{}
	conn.answer.Reset(append(golden(t, "welcome", nil), 0, 0, 0, 0, 2, 'o', 'k'))
	p := wire.New(t.Context(), wire.Config{Network: tapeNetwork{conn}, Listener: noListener{}}, wiretest.Node{Me: wire.Self{Cluster: "c1", Server: "n1#a"}})
	answer, err := p.Call(context.Background(), roster.Peer{Server: "n2#b", Addr: "10.0.0.2:7000"}, m, payload)
	if string(answer) != "ok" || err != nil {
		t.Fatalf("call %d: %q, %v", m, answer, err)
	}
	written := conn.written.Bytes()
	size := 10 + int(binary.BigEndian.Uint16(written[8:]))
	return written[:size:size], written[size:]
}

// playCall has a node read what recordCall has written, and wants the call.
func playCall(t *testing.T, stream []byte, m wire.Method, payload []byte) {
	t.Helper()
	lan := wiretest.LAN()
	p := wiretest.Port(t, lan, "b:1", wire.Self{Cluster: "c1", Server: "n2#b"})
	p.Handle(m, func(ctx context.Context, back []byte) ([]byte, error) {
		limit, _ := ctx.Deadline()
		if left := time.Until(limit); !bytes.Equal(back, payload) || left < wire.MaxCall-time.Second || left > wire.MaxCall {
			t.Errorf("call %d reads as %q, for %v", m, back, left)
		}
		return []byte("ok"), nil
	})
	p.Start()
	conn, err := lan.Host("a").Dial(t.Context(), "b:1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(stream); err != nil {
		t.Fatal(err)
	}
	wiretest.CloseWrite(conn)
	if answer, err := io.ReadAll(conn); err != nil || !bytes.HasSuffix(answer, []byte{0, 0, 0, 0, 2, 'o', 'k'}) {
		t.Errorf("call %d is answered by %q, %v", m, answer, err)
	}
}

type noListener struct{ net.Listener }

func (noListener) Close() error { return nil }

// knownErrors are those that have a code, from 1.
func knownErrors() (known []error) {
	for code := byte(1); ; code++ {
		err := errs.Decode(code, "")
		if err.Error() != "" { // it says that the code is not known
			return known
		}
		known = append(known, errors.Unwrap(err))
	}
}

func TestErrorsAreEncodedAsTheyEverWere(t *testing.T) {
	var table []byte
	for i, sentinel := range knownErrors() {
		code := i + 1
		got, text := errs.Encode(fmt.Errorf("%w: why", sentinel))
		if int(got) != code {
			t.Errorf("%v crosses as %d, want %d", sentinel, got, code)
		}
		table = fmt.Appendf(table, "%d %s\n", got, text)
	}
	wantGolden(t, "errors", table)
}

// A snapshot of each version is read; the newest, with all that a state can hold, comes
// out as it went in.
func TestSnapshotsOfEveryVersionAreRead(t *testing.T) {
	head := snapshotHeader{cluster: "c1", index: 42, term: 3}
	plain := state.New()
	plain.Apply(7, []command.Request{
		{ID: command.ID{1}, Ops: []command.Op{{Kind: command.Set, Key: "color", Value: []byte("green")}}},
		{ID: command.ID{2}, Ops: []command.Op{{Kind: command.Check, Key: "color"}}},
	})
	for name, view := range map[string][]byte{
		"snapshot-1": snapshotBytes(t, head, plain.View()),
		"snapshot-2": snapshotBytes(t, head, busyState(t).View()),
		"snapshot-3": snapshotBytes(t, head, callersState(t).View()),
	} {
		stored := golden(t, name, view)
		got, back, err := readSnapshot(bufio.NewReader(bytes.NewReader(stored)))
		if err != nil || got != head {
			t.Fatalf("%s: %+v, %v", name, got, err)
		}
		wantGolden(t, name, snapshotBytes(t, got, back.View()))
	}
}

// writeNode writes a data directory with a snapshot and with a log that goes on after
// it, in both of which every kind of operation has its effect.
func writeNode(t *testing.T, dir string) {
	ctx := t.Context()
	must := func(_ uint64, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(dir, WithID("n1"), WithAddr("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	must(s.Set(ctx, "color", []byte("green")))
	must(s.Set(ctx, "shape", []byte("round")))
	must(s.Set(ctx, "gone", nil))
	if err := s.members.WriteNote(member.RemovedNote("n9#z"), member.Tombstone); err != nil {
		t.Fatal(err)
	}
	if err := s.takeSnapshot(); err != nil {
		t.Fatal(err)
	}
	must(s.Batch(ctx, CheckOp("color", 1), SetOp("color", []byte{0, 0xff}), DeleteOp("shape")))
	must(s.Delete(ctx, "gone"))
	if err := s.members.WriteNote(member.ReplicaNote("n8"), "1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// goldenNodes are directories that writeNode has written: that of a version whose log was
// in raft.db, and one with segments, which are small ones.
var goldenNodes = map[string]func(t *testing.T, dir string) (entries []*raft.Log){
	"node":   boltEntries,
	"node-2": entriesIn,
}

// boltEntries returns the log in the raft.db in dir.
func boltEntries(t *testing.T, dir string) []*raft.Log {
	t.Helper()
	base, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	return disktest.EntriesOf(t, base)
}

// openedNode is a copy of such a directory.
func openedNode(t *testing.T, name string) string {
	t.Helper()
	stored := filepath.Join(formats, name)
	if _, err := os.Stat(stored); os.IsNotExist(err) && *writeFormats {
		writeNode(t, stored)
		editLog(t, stored, func(entries []*raft.Log) []*raft.Log { return entries })
	}
	dir := filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(dir, os.DirFS(stored)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The first start converts what an older version has written, and the second one starts
// from that.
func TestADirectoryIsReadAsItWasWritten(t *testing.T) {
	for name := range goldenNodes {
		t.Run(name, func(t *testing.T) {
			dir := openedNode(t, name)
			for range 2 {
				wantNode(t, dir)
			}
		})
	}
}

// wantNode starts a node on what writeNode has written.
func wantNode(t *testing.T, dir string) {
	t.Helper()
	s, err := Open(dir, WithAddr("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	color, err := s.Get(ctx, "color")
	if err != nil || string(color.Value) != "\x00\xff" || color.Version != 4 {
		t.Errorf("color: %+v, %v", color, err)
	}
	view, err := s.View(ctx)
	if err != nil || view.Len() != 1 || view.Version() != 5 {
		t.Errorf("%d keys at version %d, %v", view.Len(), view.Version(), err)
	}
	if !s.members.IsRemoved("n9#z") || !s.members.IsReplica("n8") {
		t.Error("the notes of the members are not there")
	}
}

func TestTheRecordAndTheLogAreWrittenAsTheyWereRead(t *testing.T) {
	for name, entriesIn := range goldenNodes {
		t.Run(name, func(t *testing.T) {
			dir := openedNode(t, name)
			base, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
			if err != nil {
				t.Fatal(err)
			}
			stored, err := base.Get([]byte("kvraft"))
			if err := errors.Join(err, base.Close()); err != nil {
				t.Fatal(err)
			}
			record, err := disk.DecodeRecord(stored)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := record.Encode(); err != nil || !bytes.Equal(again, stored) {
				t.Errorf("the record was\n%s\nand is now, %v,\n%s", stored, err, again)
			}
			entries := entriesIn(t, dir)
			if len(entries) <= 5 {
				t.Fatalf("the log has %d entries", len(entries))
			}
			for _, entry := range entries {
				if has, _ := disk.Checksum(entry); disk.SampleOf(entry).Sum != has {
					t.Errorf("entry %d has the checksum %x, and would get %x", entry.Index, has, disk.SampleOf(entry).Sum)
				}
				if entry.Type != raft.LogCommand {
					continue
				}
				group, err := command.Decode(entry.Data)
				if err != nil || !bytes.Equal(command.Append(nil, group), entry.Data) {
					t.Errorf("entry %d would be written otherwise: %v", entry.Index, err)
				}
			}
		})
	}
}

// The second format of the record names a log in segments. One without such a name is still
// written in the first, which older versions read.
func TestTheRecordIsEncodedAsItEverWas(t *testing.T) {
	plain := disk.Record{
		Format: 1, ID: "n1", Identity: "a", Cluster: "c1", ChecksummedFrom: 5, Tail: 300,
		Promise:  []roster.Peer{{Server: "n1#a", Addr: "10.0.0.1:7000"}, {Server: "n2#b", Addr: "10.0.0.2:7000"}},
		Snapshot: disk.SnapshotMark{ID: "2-7-1", Index: 7, Term: 2, Size: 99, CRC: 1 << 31},
		Places:   map[raft.ServerID]disk.PlacePromise{"n3#c": {From: "10.0.0.3:7000", To: "10.0.0.9:7000"}},
		Raft:     map[string][]byte{"CurrentTerm": {7: 3}, "LastVoteTerm": {7: 2}, "LastVoteCand": []byte("10.0.0.1:7000")},
	}
	named := plain
	named.Format, named.Log = 2, "00112233445566778899aabbccddeeff"
	for name, record := range map[string]disk.Record{"record-1": plain, "record-2": named} {
		encoded, err := record.Encode()
		if err != nil {
			t.Fatal(err)
		}
		wantGolden(t, name, encoded)
		back, err := disk.DecodeRecord(golden(t, name, nil))
		if err != nil || !reflect.DeepEqual(back, record) {
			t.Errorf("%s reads as %+v, %v; want %+v", name, back, err, record)
		}
	}
}
