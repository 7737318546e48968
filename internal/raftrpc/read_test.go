//lint:file-ignore SA1019 raft still sends the fields that it calls deprecated

package raftrpc

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
)

const limit = 8 << 20

// encode is raft's encoding of a request.
func encode(t testing.TB, req any) []byte {
	t.Helper()
	var b []byte
	handle := &codec.MsgpackHandle{}
	handle.TimeNotBuiltin = true
	if err := codec.NewEncoderBytes(&b, handle).Encode(req); err != nil {
		t.Fatal(err)
	}
	return b
}

func read(b []byte, k Kind) (any, error) {
	return Read(bufio.NewReader(bytes.NewReader(b)), k, limit, nil)
}

func full() *raft.AppendEntriesRequest {
	req := appendTo(20, 7)
	for i := range 64 {
		req.Entries = append(req.Entries, &raft.Log{Index: 21 + uint64(i), Term: 7, Data: make([]byte, 1<<(i%18)), Extensions: []byte("12345"), AppendedAt: time.Now().Round(0)})
	}
	return req
}

// requests are one of each kind.
func requests() map[Kind]any {
	return map[Kind]any{
		AppendEntries:   full(),
		RequestVote:     &raft.RequestVoteRequest{RPCHeader: sender, Term: 1 << 60, Candidate: []byte("c"), LastLogIndex: 3, LastLogTerm: 2, LeadershipTransfer: true},
		InstallSnapshot: snapshot(func(*raft.InstallSnapshotRequest) {}),
		TimeoutNow:      &raft.TimeoutNowRequest{RPCHeader: sender},
		RequestPreVote:  &raft.RequestPreVoteRequest{RPCHeader: sender, Term: 300, LastLogIndex: 1 << 33, LastLogTerm: 70000},
	}
}

func TestWhatRaftWritesIsReadAsItWas(t *testing.T) {
	for k, req := range requests() {
		in := bufio.NewReader(bytes.NewReader(append(encode(t, req), "behind"...)))
		got, err := Read(in, k, limit, nil)
		if err != nil {
			t.Fatalf("%v: %v", k, err)
		}
		if rest, _ := io.ReadAll(in); string(rest) != "behind" {
			t.Errorf("%v: %q is left", k, rest)
		}
		if a, ok := got.(*raft.AppendEntriesRequest); ok {
			for i, entry := range a.Entries {
				entry.AppendedAt = req.(*raft.AppendEntriesRequest).Entries[i].AppendedAt // its zone may differ
			}
		}
		if again := encode(t, got); !bytes.Equal(again, encode(t, req)) {
			t.Errorf("%v was read as %+v", k, got)
		}
		if reflect.TypeOf(got) != reflect.TypeOf(req) {
			t.Errorf("%v was read as %T", k, got)
		}
	}
}

func TestAMessageThatEndsEarlyIsAnErrorOfItsReader(t *testing.T) {
	for k, req := range requests() {
		whole := encode(t, req)
		for _, n := range []int{0, 1, len(whole) / 2, len(whole) - 1} {
			if _, err := read(whole[:n], k); err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Errorf("%v, %d of %d bytes: %v", k, n, len(whole), err)
			}
		}
	}
}

func TestWhatIsTooMuchForAMessageIsRefusedUnread(t *testing.T) {
	field := func(name string, value ...byte) []byte {
		return append(append([]byte{0x81, 0xa0 | byte(len(name))}, name...), value...)
	}
	for name, c := range map[string]struct {
		kind Kind
		in   []byte
		want string
	}{
		"a field of 2 GiB":             {AppendEntries, field("Leader", 0xc6, 0x7f, 0xff, 0xff, 0xff), "more than 8388608 bytes"},
		"a text of 4 GiB":              {AppendEntries, field("Leader", 0xdb, 0xff, 0xff, 0xff, 0xff), "more than 8388608 bytes"},
		"an extension of 4 GiB":        {AppendEntries, field("Leader", 0xc9, 0xff, 0xff, 0xff, 0xff, 1), "more than 8388608 bytes"},
		"an id of 64 KiB":              {RequestVote, field("ID", 0xc5, 0xff, 0xff), "more than 16384 bytes"},
		"a candidate of 64 KiB":        {RequestPreVote, field("ID", 0xda, 0xff, 0xff), "more than 16384 bytes"},
		"a sender of 64 KiB":           {TimeoutNow, field("ID", 0xda, 0xff, 0xff), "more than 16384 bytes"},
		"a configuration of 1 MiB":     {InstallSnapshot, field("Configuration", 0xc6, 0, 0x10, 0, 0), "more than 1048576 bytes"},
		"2 billion entries":            {AppendEntries, field("Entries", 0xdd, 0x7f, 0xff, 0xff, 0xff), "more than 16384 values"},
		"65,535 entries":               {AppendEntries, field("Entries", 0xdc, 0xff, 0xff), "more than 16384 values"},
		"4 billion fields":             {AppendEntries, []byte{0xdf, 0xff, 0xff, 0xff, 0xff}, "more than 16384 values"},
		"empty entries without end":    {AppendEntries, bytes.Repeat([]byte{0x9f}, 1<<20), "more than 16384 values"},
		"a byte that means nothing":    {AppendEntries, []byte{0xc1}, "not MessagePack"},
		"a number":                     {AppendEntries, []byte{7}, "only encoded map or array"},
		"a text in place of a term":    {RequestVote, field("Term", 0xa1, 'x'), "unsigned"},
		"a term less than 0":           {RequestVote, field("Term", 0xff), "negative"},
		"a type of 300":                {AppendEntries, field("Entries", append([]byte{0x91}, field("Type", 0xcd, 1, 44)...)...), "overflow"},
		"a kind of message not known":  {5, nil, "message of kind 5"},
		"values in values in values …": {AppendEntries, append(field("X", bytes.Repeat([]byte{0x91}, 5000)...), 0xc0), "depth"},
	} {
		_, err := read(c.in, c.kind)
		if !errors.Is(err, ErrBad) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestEveryTokenHasItsLength(t *testing.T) {
	for _, value := range []any{nil, true, false, 1, -1, 100, -100, 1000, -1000, 1 << 20, -(1 << 20), int64(1 << 40), -int64(1 << 40), float32(1), 1.5,
		"", "text", strings.Repeat("x", 100), strings.Repeat("x", 1000), strings.Repeat("x", 100000), []byte{}, make([]byte, 100), make([]byte, 1000), make([]byte, 100000),
		[]int{}, []int{1, 2, 3}, make([]int, 100), map[string]int{}, map[string]int{"a": 1}, map[string][]string{"a": {"b"}}, time.Now(),
		codec.RawExt{Tag: 5, Data: make([]byte, 1)}, codec.RawExt{Tag: 5, Data: make([]byte, 2)}, codec.RawExt{Tag: 5, Data: make([]byte, 4)}, codec.RawExt{Tag: 5, Data: make([]byte, 8)},
		codec.RawExt{Tag: 5, Data: make([]byte, 16)}, codec.RawExt{Tag: 5, Data: make([]byte, 17)}, codec.RawExt{Tag: 5, Data: make([]byte, 300)}, codec.RawExt{Tag: 5, Data: make([]byte, 70000)},
	} {
		for _, modern := range []bool{false, true} {
			var b []byte
			handle := &codec.MsgpackHandle{WriteExt: modern}
			if err := codec.NewEncoderBytes(&b, handle).Encode(value); err != nil {
				t.Fatal(err)
			}
			m := message{r: bufio.NewReader(bytes.NewReader(append(b, 0xc1))), limit: limit}
			if err := m.read(); err != nil || !bytes.Equal(m.bytes, b) {
				t.Errorf("%T, %d bytes: read %d, %v", value, len(b), len(m.bytes), err)
			}
		}
	}
}

// Whoever sends 5 bytes does not make this node allocate what they promise, nor an entry for each byte.
func TestAMessageCostsNoMoreThanHasArrived(t *testing.T) {
	head := append([]byte{0x81, 0xa6}, "Leader"...)
	head = append(head, 0xc6, 0, 0x7f, 0, 0) // of just less than the limit
	empty := append([]byte{0x81, 0xa7}, "Entries"...)
	empty = append(append(empty, 0xdc, 0x3f, 0), bytes.Repeat([]byte{0x80}, 0x3f00)...)
	for name, c := range map[string]struct {
		in   []byte
		most uint64
	}{
		"a field that has yet to come": {head, 64 << 10},
		"half of it":                   {append(head, make([]byte, 4<<20)...), 24 << 20},
		"entries of a byte each":       {empty, 8 << 20},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = read(c.in, AppendEntries)
		runtime.ReadMemStats(&after)
		if cost := after.TotalAlloc - before.TotalAlloc; cost > c.most {
			t.Errorf("%s: %d bytes cost %d", name, len(c.in), cost)
		}
	}
}

func TestMemoryIsAskedForBeforeItIsTaken(t *testing.T) {
	asked := 0
	in := encode(t, &raft.AppendEntriesRequest{Entries: []*raft.Log{{Data: make([]byte, 1<<20)}}})
	grow := func(n int) error { asked += n; return nil }
	if _, err := Read(bufio.NewReader(bytes.NewReader(in)), AppendEntries, limit, grow); err != nil || asked < 1<<20 || asked > 2<<20 {
		t.Errorf("%d bytes were asked for, %v", asked, err)
	}
	full := errors.New("full")
	grow = func(int) error { return full }
	if _, err := Read(bufio.NewReader(bytes.NewReader(in)), AppendEntries, limit, grow); !errors.Is(err, full) {
		t.Errorf("%v, want %v", err, full)
	}
	small := encode(t, requests()[RequestVote])
	if _, err := Read(bufio.NewReader(bytes.NewReader(small)), RequestVote, limit, grow); err != nil {
		t.Errorf("a small message: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for k, req := range requests() {
		if k == AppendEntries {
			req = appendTo(20, 7, entries(21, 7, 7)...)
		}
		f.Add(byte(k), encode(f, req))
	}
	f.Add(byte(0), []byte("\x81\xa7Entries\x91\xc0"))
	f.Add(byte(2), []byte("\x81\xadConfiguration\xc6\x7f\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, kind byte, in []byte) {
		req, err := read(in, Kind(kind))
		if err != nil {
			return
		}
		_ = Validate(req, node) // as it came; and then as one of a peer that fills in what is wanted
		_ = Validate(fill(req), node)
	})
}

// fill gives a request a sender and a term.
func fill(req any) any {
	switch req := req.(type) {
	case *raft.AppendEntriesRequest:
		req.RPCHeader, req.Term = sender, 8
	case *raft.InstallSnapshotRequest:
		req.RPCHeader, req.Term = sender, 8
	case *raft.RequestVoteRequest:
		req.RPCHeader, req.Term = sender, 8
	case *raft.RequestPreVoteRequest:
		req.RPCHeader, req.Term = sender, 8
	}
	return req
}

func FuzzDecodeConfiguration(f *testing.F) {
	f.Add(raft.EncodeConfiguration(members))
	f.Add([]byte("\x81\xa7Servers\xdd\x00\x00\x10\x00"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := DecodeConfiguration(data)
		if err != nil {
			return
		}
		if got := raft.DecodeConfiguration(data); !reflect.DeepEqual(got, config) { // it panics on what it cannot decode
			t.Errorf("decoded as %+v, raft as %+v", config, got)
		}
	})
}
