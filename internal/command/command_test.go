package command

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math"
	"reflect"
	"strings"
	"testing"
)

// group has every kind of op, and every field at a value that is not zero.
func group() []Request {
	return []Request{
		{ID: ID{1, 15: 2}, Born: 300, Ops: []Op{
			{Kind: Check, Key: "color", Version: 7},
			{Kind: Set, Key: "color", Value: []byte("green")},
			{Kind: Delete, Key: "shape"},
		}},
		{ID: ID{3}, Born: math.MaxUint64, Ops: []Op{{Kind: Set, Key: "", Value: []byte{}}}},
		{Ops: []Op{}},
		{Ops: []Op{{Kind: Note, Key: "n", Value: []byte("1")}}},
	}
}

func results() []Result {
	return []Result{{OK, 300}, {Conflict, 0}, {Expired, math.MaxUint64}}
}

func TestAnEntryDecodesToTheRequestsItWasMadeOf(t *testing.T) {
	for _, want := range [][]Request{{}, group(), markedGroup()} {
		got, err := Decode(Append(nil, want))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

func TestResultsDecodeToWhatTheyWere(t *testing.T) {
	for _, want := range [][]Result{{}, results()} {
		got, err := DecodeResults(AppendResults(nil, want))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

// markedGroup has every origin that is told, and group has none.
func markedGroup() []Request {
	return []Request{
		{Origin: Own, ID: ID{1, 15: 2}, Born: 300, Ops: []Op{{Kind: Check, Key: "color", Version: 7}}},
		{Origin: Caller, ID: ID{3}, Digest: Digest{4, 7: 5}, Born: 1, Ops: []Op{{Kind: Set, Key: "k", Value: []byte("v")}}},
	}
}

func TestTheFormatWithOriginsStaysAsItIs(t *testing.T) {
	const entry = "02" + "02" +
		"01" + "01000000000000000000000000000002" + "ac02" + "01" +
		"03" + "05636f6c6f72" + "07" +
		"02" + "03000000000000000000000000000000" + "0400000000000005" + "01" + "01" +
		"01" + "016b" + "0176"
	if got := hex.EncodeToString(Append(nil, markedGroup())); got != entry {
		t.Errorf("entry\n got %s\nwant %s", got, entry)
	}
	if got := hex.EncodeToString(AppendResults(nil, []Result{{Reused, 9}})); got != "01"+"01"+"0309" {
		t.Errorf("results %s", got)
	}
	var encoded [][]byte
	for _, r := range markedGroup() {
		encoded = append(encoded, AppendRequest(nil, &r))
	}
	if got := hex.EncodeToString(Join(nil, encoded)); got != entry {
		t.Errorf("joined\n got %s\nwant %s", got, entry)
	}
}

// Logs on disk outlive the program that wrote them.
func TestTheFormatStaysAsItIs(t *testing.T) {
	const entry = "01" + "04" +
		"01000000000000000000000000000002" + "ac02" + "03" +
		"03" + "05636f6c6f72" + "07" +
		"01" + "05636f6c6f72" + "05677265656e" +
		"02" + "057368617065" +
		"03000000000000000000000000000000" + "ffffffffffffffffff01" + "01" +
		"01" + "00" + "00" +
		"00000000000000000000000000000000" + "00" + "00" +
		"00000000000000000000000000000000" + "00" + "01" + "04" + "016e" + "0131"
	if got := hex.EncodeToString(Append(nil, group())); got != entry {
		t.Errorf("entry\n got %s\nwant %s", got, entry)
	}
	const outcome = "01" + "03" + "00ac02" + "0100" + "02ffffffffffffffffff01"
	if got := hex.EncodeToString(AppendResults(nil, results())); got != outcome {
		t.Errorf("results\n got %s\nwant %s", got, outcome)
	}
}

func TestVerifyTakesWhatDecodeTakes(t *testing.T) {
	for _, entry := range [][]byte{Append(nil, group()), Append(nil, nil), []byte(`{"op":"delete"}`)} {
		if err := Verify(entry); err != nil {
			t.Errorf("%q: %v", entry, err)
		}
	}
	entry := Append(nil, group())
	for n := range entry {
		if Verify(entry[:n]) == nil {
			t.Errorf("the first %d bytes of an entry are taken", n)
		}
	}
	if Verify([]byte(`{"op":"cas"}`)) == nil {
		t.Error("an operation that hraftd has not is taken")
	}
	if n := testing.AllocsPerRun(10, func() { _ = Verify(entry) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAppendKeepsWhatDstHolds(t *testing.T) {
	got := AppendResults(Append([]byte("head"), group()), results())
	want := append(append([]byte("head"), Append(nil, group())...), AppendResults(nil, results())...)
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestSizeIsWhatARequestAddsToAnEntry(t *testing.T) {
	empty := len(Append(nil, nil))
	check := func(r Request) {
		t.Helper()
		if got, want := Size(r), len(Append(nil, []Request{r}))-empty; got != want {
			t.Errorf("Size(%.80v) = %d, want %d", r, got, want)
		}
	}
	for _, r := range group() {
		check(r)
	}
	for _, r := range markedGroup() {
		check(r)
	}
	for shift := range 64 {
		for _, n := range []uint64{1<<shift - 1, 1 << shift, math.MaxUint64 >> shift} {
			check(Request{Born: n, Ops: []Op{{Kind: Check, Version: n}}})
		}
	}
	for _, n := range []int{127, 128, 16383, 16384} {
		check(Request{Ops: []Op{{Kind: Set, Key: strings.Repeat("k", n), Value: make([]byte, n)}}})
		check(Request{Ops: make([]Op, n)})
	}
}

func TestDecodedKeysAndValuesArePartsOfTheEntry(t *testing.T) {
	entry := Append(nil, []Request{{Ops: []Op{{Kind: Set, Key: "color", Value: []byte("green")}}}})
	reqs, err := Decode(entry)
	if err != nil {
		t.Fatal(err)
	}
	op := reqs[0].Ops[0]
	if n := testing.AllocsPerRun(10, func() { _, _ = Decode(entry) }); n > 2 {
		t.Errorf("%v allocations, want those of the requests and of their ops", n)
	}
	if len(op.Value) != cap(op.Value) {
		t.Error("who appends to a value writes to the entry")
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	outcome := AppendResults(nil, results())
	for _, entry := range [][]byte{Append(nil, group()), Append(nil, markedGroup())} {
		for n := range entry {
			if reqs, err := Decode(entry[:n]); err == nil {
				t.Errorf("the first %d bytes of an entry decode to %v", n, reqs)
			}
		}
	}
	for n := range outcome {
		if rs, err := DecodeResults(outcome[:n]); err == nil {
			t.Errorf("the first %d bytes of results decode to %v", n, rs)
		}
	}
}

func TestDamagedEntriesAreRefusedWithTheReason(t *testing.T) {
	id := string(make([]byte, 16))
	huge := string(binary.AppendUvarint(nil, math.MaxUint64))
	for name, c := range map[string]struct{ entry, reason string }{
		"empty":                    {"", "truncated"},
		"version zero":             {"\x00\x00", "unknown format version 0"},
		"another version":          {"\x03\x00", "unknown format version 3"},
		"nothing with origins":     {"\x02\x00", "no requests"},
		"origin zero":              {"\x02\x01\x00" + id + "\x00\x00", "unknown origin 0"},
		"origin three":             {"\x02\x01\x03" + id + "\x00\x00", "unknown origin 3"},
		"half a digest":            {"\x02\x01\x02" + id + "\x00\x00\x00\x00", "truncated"},
		"JSON":                     {`{"op":"set"}`, "unknown format version 123"},
		"no count":                 {"\x01", "truncated"},
		"trailing byte":            {"\x01\x00\x00", "trailing bytes"},
		"huge count of requests":   {"\x01" + huge + id, "count"},
		"one request too many":     {"\x01\x02" + id + "\x00\x00", "count"},
		"huge count of ops":        {"\x01\x01" + id + "\x00" + huge, "count"},
		"one op too many":          {"\x01\x01" + id + "\x00\x02\x02\x01k", "count"},
		"kind zero":                {"\x01\x01" + id + "\x00\x01\x00\x00", "unknown kind 0"},
		"kind five":                {"\x01\x01" + id + "\x00\x01\x05\x01k\x00", "unknown kind 5"},
		"key that is too long":     {"\x01\x01" + id + "\x00\x01\x02\x02k", "truncated"},
		"value that is too long":   {"\x01\x01" + id + "\x00\x01\x01\x01k\x02v", "truncated"},
		"huge value":               {"\x01\x01" + id + "\x00\x01\x01\x01k" + huge, "truncated"},
		"check without a version":  {"\x01\x01" + id + "\x00\x01\x03\x01k", "truncated"},
		"number of needless bytes": {"\x01\x80\x00", "malformed number"},
		"number above 64 bits":     {"\x01\x01" + id + strings.Repeat("\xff", 9) + "\x02\x00", "malformed number"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, Decode, c.entry, c.reason) })
	}
}

func TestDamagedResultsAreRefusedWithTheReason(t *testing.T) {
	for name, c := range map[string]struct{ results, reason string }{
		"empty":               {"", "truncated"},
		"another version":     {"\x02\x00", "unknown format version 2"},
		"trailing byte":       {"\x01\x00\x00", "trailing bytes"},
		"one result too many": {"\x01\x02\x00\x00\x00", "count"},
		"unknown code":        {"\x01\x01\x07\x00", "unknown result code 7"},
		"needless byte":       {"\x01\x01\x00\x80\x00", "malformed number"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, DecodeResults, c.results, c.reason) })
	}
}

func refused[T any](t *testing.T, decode func([]byte) ([]T, error), input, reason string) {
	t.Helper()
	got, err := decode([]byte(input))
	if err == nil || got != nil {
		t.Fatalf("%x decodes to %v, error %v", input, got, err)
	}
	if !strings.Contains(err.Error(), reason) {
		t.Errorf("error %q does not say %q", err, reason)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Append(nil, group()))
	f.Add(Append(nil, markedGroup()))
	for _, r := range group() {
		f.Add(Append(nil, []Request{r}))
	}
	f.Add(Append(nil, nil))
	f.Add([]byte(`{"op":"set","key":"k","value":"v"}`))
	f.Add([]byte("\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, entry []byte) {
		reqs, err := Decode(entry)
		if verified := Verify(entry); !IsLegacy(entry) && (verified == nil) != (err == nil) {
			t.Errorf("%x: Decode says %v, Verify %v", entry, err, verified)
		}
		if err != nil {
			return
		}
		if got := Append(nil, reqs); !bytes.Equal(got, entry) {
			t.Errorf("%x is encoded again as %x", entry, got)
		}
		size := 1 + uvarintSize(uint64(len(reqs)))
		for _, r := range reqs {
			size += Size(r)
		}
		if size != len(entry) {
			t.Errorf("sizes add up to %d of %d bytes", size, len(entry))
		}
	})
}

func FuzzDecodeResults(f *testing.F) {
	f.Add(AppendResults(nil, results()))
	f.Add(AppendResults(nil, nil))
	f.Add([]byte("\x01\x01\x00\x80\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		rs, err := DecodeResults(b)
		if err != nil {
			return
		}
		if got := AppendResults(nil, rs); !bytes.Equal(got, b) {
			t.Errorf("%x is encoded again as %x", b, got)
		}
	})
}

// benchGroup is n requests that set 100 bytes each.
func benchGroup(n int) []Request {
	reqs := make([]Request, n)
	for i := range reqs {
		binary.BigEndian.PutUint64(reqs[i].ID[:], uint64(i))
		reqs[i].Born = 1e6
		reqs[i].Ops = []Op{{Kind: Set, Key: "bench/key/0001", Value: make([]byte, 100)}}
	}
	return reqs
}

func BenchmarkAppend256(b *testing.B) {
	reqs := benchGroup(256)
	buf := Append(nil, reqs)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf = Append(buf[:0], reqs)
	}
}

func BenchmarkDecode256(b *testing.B) {
	entry := Append(nil, benchGroup(256))
	b.SetBytes(int64(len(entry)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(entry); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkJoin256 makes an entry of requests that their callers have encoded.
func BenchmarkJoin256(b *testing.B) {
	reqs := benchGroup(256)
	encoded := make([][]byte, len(reqs))
	for i := range reqs {
		encoded[i] = AppendRequest(nil, &reqs[i])
	}
	b.ReportAllocs()
	for b.Loop() {
		Join(nil, encoded)
	}
}

// BenchmarkResults256 is what a follower's group adds: its results, there and back.
func BenchmarkResults256(b *testing.B) {
	results := make([]Result, 256)
	for i := range results {
		results[i].Version = 1e6 + uint64(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeResults(AppendResults(nil, results)); err != nil {
			b.Fatal(err)
		}
	}
}
