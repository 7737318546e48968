package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kvraft/kvraft"
)

const logUsage = `Usage: kvd log [flags] DIR

Prints what the node in DIR, which must be stopped, has on disk: its record, the
headers of its snapshots and its log, of which the end may not be committed. It reads
all of that to the end and changes nothing. What is damaged is marked and named on
standard error as well, and the exit code is 1; what can still be read is printed.

An entry has its checksum, the verdict on it (ok, none for an entry from before a
take-over, DAMAGED), its index, term, type and size in bytes, and what it says: of a
command each request, with its id and the log index at which that was born. Keys and
values that are not printable are quoted. "nothing" is an entry without a request, such
as that with which a leader begins its term; "note" is what the cluster keeps of its
members, such as that one is a replica or was removed, and no key.

With -json it is one object in a line, with whole values and these fields:

  "kind": "node"      id, identity, cluster, term, voted_term, voted_for
  "kind": "snapshot"  verdict, id, index, term, size, cluster, version, keys,
                      requests (how many are remembered), members
  "kind": "entry"     verdict, index, term, type, size, checksum, and one of
                      requests  [{id, born, ops: [{op, key, value or version}]}]
                      members   [{id, identity, addr, voter}]
                      unknown   (why the data cannot be decoded)

All of them have an error when something is wrong. An entry that has nothing else but
its index stands for those that are missing there. Keys and values that are not UTF-8
are in key_base64 and value_base64.

`

// printLog returns the exit code.
func printLog(args []string) int {
	fs := flag.NewFlagSet("kvd log", flag.ContinueOnError)
	asJSON := fs.Bool("json", false, "print JSON, an object in a line")
	values := fs.Bool("values", false, "print keys and values whole, however long")
	from := fs.Uint64("from", 0, "the `index` of the first entry to print and verify")
	to := fs.Uint64("to", math.MaxUint64, "the `index` of the last one")
	fs.Lookup("to").DefValue = "0" // keeps its default out of the help
	dir, code := parseDir(fs, logUsage, args)
	switch {
	case dir == "":
		return code
	case *from > *to:
		fmt.Fprintf(os.Stderr, "-from %d is behind -to %d; kvd log -h tells more\n", *from, *to)
		return 2
	}
	log, err := kvraft.OpenLog(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kvd:", plain(err.Error()))
		return 1
	}
	defer log.Close()

	buffer := bufio.NewWriter(os.Stdout)
	var out logWriter = &logText{out: buffer, whole: *values}
	if *asJSON {
		out = newLogJSON(buffer)
	}
	var damage problems
	out.node(log.Node, damage.add(log.Err))
	for _, s := range log.Snapshots {
		out.snapshot(s, damage.add(s.Err))
	}
	for e, err := range log.Entries(*from, *to) {
		out.entry(e, damage.add(err))
	}
	if err := buffer.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, "kvd: write the log:", err)
		return 1
	}
	return damage.report()
}

// problems are what was found to be wrong.
type problems struct {
	first []string // of them
	count int
}

const problemsNamed = 10 // on standard error

// add takes note of err and returns its text.
func (p *problems) add(err error) string {
	if err == nil {
		return ""
	}
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if p.count++; p.count <= problemsNamed {
		p.first = append(p.first, text)
	}
	return strings.TrimPrefix(text, kvraft.ErrDamaged.Error()+": ")
}

// report prints the first of them on standard error, and returns the exit code.
func (p problems) report() int {
	for _, text := range p.first {
		fmt.Fprintln(os.Stderr, "kvd:", plain(text))
	}
	if p.count > problemsNamed {
		fmt.Fprintf(os.Stderr, "kvd: and in %d more places\n", p.count-problemsNamed)
	}
	return min(p.count, 1)
}

// logWriter prints the parts of a log. problem is what is wrong with one, or "".
type logWriter interface {
	node(n kvraft.LogNode, problem string)
	snapshot(s kvraft.LogSnapshot, problem string)
	entry(e kvraft.LogEntry, problem string)
}

// logText is for people.
type logText struct {
	out    io.Writer
	whole  bool // keys and values are not cut
	titled bool // the columns are
}

func (t *logText) node(n kvraft.LogNode, problem string) {
	switch {
	case problem != "":
		fmt.Fprintln(t.out, "node: DAMAGED:", problem)
	case n == kvraft.LogNode{}:
		fmt.Fprintln(t.out, "node: it has no identity yet")
	case n.ID == "":
		fmt.Fprintf(t.out, "node: hraftd's, not taken over yet; term %d, voted in term %d for %s\n", n.Term, n.VotedTerm, orNone(n.VotedFor))
	}
	if n.ID != "" {
		fmt.Fprintf(t.out, "node: %s, identity %s, cluster %s, term %d, voted in term %d for %s\n",
			n.ID, n.Identity, orNone(n.Cluster), n.Term, n.VotedTerm, orNone(n.VotedFor))
	}
}

func (t *logText) snapshot(s kvraft.LogSnapshot, problem string) {
	fmt.Fprintf(t.out, "snapshot %s: index %d, term %d, %d bytes, version %d, %d keys, %d requests remembered, cluster %s, members %s\n",
		s.ID, s.Index, s.Term, s.Size, s.Version, s.Keys, s.Requests, orNone(s.Cluster), orNone(nameMembers(s.Members)))
	if problem != "" {
		fmt.Fprintf(t.out, "snapshot %s: DAMAGED: %s\n", s.ID, problem)
	}
}

// entry prints a line, and one more for each other thing that the entry says.
func (t *logText) entry(e kvraft.LogEntry, problem string) {
	const columns = "%-8s %-7s %10v %6v %-13s %8v %s\n"
	if !t.titled {
		t.titled = true
		fmt.Fprintf(t.out, columns, "checksum", "verdict", "index", "term", "type", "size", "command")
	}
	says := t.says(e)
	if problem != "" {
		says = append([]string{problem}, says...)
	}
	checksum := "--------"
	if e.Checksummed {
		checksum = fmt.Sprintf("%08x", e.Checksum)
	}
	if e.Type == "" {
		fmt.Fprintf(t.out, columns, checksum, verdict(e, problem), e.Index, "-", "-", "-", says[0])
		return
	}
	fmt.Fprintf(t.out, columns, checksum, verdict(e, problem), e.Index, e.Term, e.Type, e.Size, strings.Join(says, "\n"+strings.Repeat(" ", 59)))
}

// says is what an entry says, thing by thing.
func (t *logText) says(e kvraft.LogEntry) (says []string) {
	for _, r := range e.Requests {
		var ops []string
		for _, op := range r.Ops {
			ops = append(ops, t.op(op))
		}
		origin := fmt.Sprintf("request %x, born %d", r.ID, r.Born)
		switch {
		case r.ID == [16]byte{}:
			origin = "hraftd's"
		case r.Caller:
			origin = "a caller's " + origin
		}
		says = append(says, fmt.Sprintf("%s (%s)", strings.Join(ops, "; "), origin))
	}
	if len(e.Members) > 0 {
		says = append(says, nameMembers(e.Members))
	}
	if e.Unknown != nil {
		says = append(says, "unknown format: "+e.Unknown.Error())
	}
	if len(says) == 0 {
		says = []string{"nothing"}
	}
	return says
}

func (t *logText) op(op kvraft.LogOp) string {
	switch op.Kind {
	case "set", "note":
		return fmt.Sprintf("%s %s %s", op.Kind, t.show(op.Key), t.show(string(op.Value)))
	case "check":
		return fmt.Sprintf("check %s version %d", t.show(op.Key), op.Version)
	}
	return op.Kind + " " + t.show(op.Key)
}

// show cuts a key or a value, and quotes what could be mistaken.
func (t *logText) show(text string) string {
	const width = 60
	cut := len(text)
	if !t.whole && cut > width {
		for cut = width; cut > width-utf8.UTFMax && !utf8.RuneStart(text[cut]); cut-- {
		}
	}
	shown := text[:cut]
	odd := func(r rune) bool {
		return r == utf8.RuneError || r == '"' || unicode.IsSpace(r) || !unicode.IsGraphic(r)
	}
	if shown == "" || strings.ContainsFunc(shown, odd) {
		shown = strconv.Quote(shown)
	}
	if cut < len(text) {
		shown += fmt.Sprintf("… (%d bytes)", len(text))
	}
	return shown
}

func verdict(e kvraft.LogEntry, problem string) string {
	switch {
	case problem != "":
		return "DAMAGED"
	case !e.Checksummed:
		return "none"
	}
	return "ok"
}

func nameMembers(all []kvraft.LogMember) string {
	var names []string
	for _, m := range all {
		name := fmt.Sprintf("%s (%s)", m.ID, m.Addr)
		if !m.Voter {
			name += " without a vote"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

func orNone(s string) string { return cmp.Or(s, "none") }

// logJSON is for programs.
type logJSON struct{ *json.Encoder }

func newLogJSON(out io.Writer) logJSON {
	j := logJSON{json.NewEncoder(out)}
	j.SetEscapeHTML(false)
	return j
}

func (j logJSON) print(object any) { _ = j.Encode(object) } // the buffer below keeps its first error

type jsonNode struct {
	Kind      string `json:"kind"`
	ID        string `json:"id,omitempty"`
	Identity  string `json:"identity,omitempty"`
	Cluster   string `json:"cluster,omitempty"`
	Term      uint64 `json:"term"`
	VotedTerm uint64 `json:"voted_term,omitempty"`
	VotedFor  string `json:"voted_for,omitempty"`
	Error     string `json:"error,omitempty"`
}

func (j logJSON) node(n kvraft.LogNode, problem string) {
	j.print(jsonNode{"node", n.ID, n.Identity, n.Cluster, n.Term, n.VotedTerm, n.VotedFor, problem})
}

type jsonSnapshot struct {
	Kind     string       `json:"kind"`
	Verdict  string       `json:"verdict"`
	ID       string       `json:"id"`
	Index    uint64       `json:"index"`
	Term     uint64       `json:"term"`
	Size     int64        `json:"size"`
	Cluster  string       `json:"cluster,omitempty"`
	Version  uint64       `json:"version"`
	Keys     uint64       `json:"keys"`
	Requests uint64       `json:"requests"`
	Members  []jsonMember `json:"members,omitempty"`
	Error    string       `json:"error,omitempty"`
}

func (j logJSON) snapshot(s kvraft.LogSnapshot, problem string) {
	judged := "ok"
	if problem != "" {
		judged = "damaged"
	}
	j.print(jsonSnapshot{"snapshot", judged, s.ID, s.Index, s.Term, s.Size, s.Cluster, s.Version, s.Keys, s.Requests, jsonMembers(s.Members), problem})
}

type jsonEntry struct {
	Kind     string        `json:"kind"`
	Verdict  string        `json:"verdict"`
	Index    uint64        `json:"index"`
	Term     uint64        `json:"term,omitempty"`
	Type     string        `json:"type,omitempty"`
	Size     int           `json:"size"`
	Checksum string        `json:"checksum,omitempty"`
	Requests []jsonRequest `json:"requests,omitempty"`
	Members  []jsonMember  `json:"members,omitempty"`
	Unknown  string        `json:"unknown,omitempty"`
	Error    string        `json:"error,omitempty"`
}

type jsonRequest struct {
	ID     string   `json:"id"`
	Caller bool     `json:"caller,omitempty"`
	Born   uint64   `json:"born"`
	Ops    []jsonOp `json:"ops"`
}

type jsonOp struct {
	Op          string  `json:"op"`
	Key         *string `json:"key,omitempty"`
	KeyBase64   []byte  `json:"key_base64,omitempty"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
	Version     *uint64 `json:"version,omitempty"`
}

type jsonMember struct {
	ID       string `json:"id"`
	Identity string `json:"identity,omitempty"`
	Addr     string `json:"addr"`
	Voter    bool   `json:"voter"`
}

func (j logJSON) entry(e kvraft.LogEntry, problem string) {
	entry := jsonEntry{Kind: "entry", Verdict: strings.ToLower(verdict(e, problem)), Index: e.Index, Term: e.Term, Type: e.Type, Size: e.Size,
		Members: jsonMembers(e.Members), Error: problem}
	if e.Checksummed {
		entry.Checksum = fmt.Sprintf("%08x", e.Checksum)
	}
	for _, r := range e.Requests {
		request := jsonRequest{ID: fmt.Sprintf("%x", r.ID), Caller: r.Caller, Born: r.Born}
		for _, op := range r.Ops {
			request.Ops = append(request.Ops, newJSONOp(op))
		}
		entry.Requests = append(entry.Requests, request)
	}
	if e.Unknown != nil {
		entry.Unknown = e.Unknown.Error()
	}
	j.print(entry)
}

func newJSONOp(op kvraft.LogOp) jsonOp {
	o := jsonOp{Op: op.Kind}
	o.Key, o.KeyBase64 = textOrBytes([]byte(op.Key))
	switch op.Kind {
	case "set", "note":
		o.Value, o.ValueBase64 = textOrBytes(op.Value)
	case "check":
		o.Version = &op.Version
	}
	return o
}

func textOrBytes(b []byte) (*string, []byte) {
	if !utf8.Valid(b) {
		return nil, b
	}
	text := string(b)
	return &text, nil
}

func jsonMembers(all []kvraft.LogMember) (members []jsonMember) {
	for _, m := range all {
		members = append(members, jsonMember(m))
	}
	return members
}
