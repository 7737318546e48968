//lint:file-ignore SA1019 raft still sends the fields that it calls deprecated

package raftrpc

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/command"
)

var (
	sender  = raft.RPCHeader{ProtocolVersion: 3, ID: []byte("n1#1"), Addr: []byte("n1#1@10.0.0.1:7000")}
	members = raft.Configuration{Servers: []raft.Server{{ID: "n1#1", Address: "10.0.0.1:7000"}, {ID: "n2#2", Address: "10.0.0.2:7000"}}}
	errSum  = errors.New("no such checksum")
)

// node is in term 7. Its log has the entries 11 to 20 of terms 5 to 7, behind a snapshot; up to 18 they are committed.
var node = Node{
	Term: 7, Committed: 18, StateTerm: 6, Voter: true,
	TermAt: func(index uint64) (uint64, bool) {
		switch {
		case index < 11 || index > 20:
			return 0, false
		case index < 15:
			return 5, true
		case index < 19:
			return 6, true
		}
		return 7, true
	},
	Checksum: func(entry *raft.Log) error {
		if len(entry.Extensions) > 0 {
			return errSum
		}
		return nil
	},
}

// entries are no-ops that begin at an index, one of each term.
func entries(first uint64, terms ...uint64) (all []*raft.Log) {
	for i, term := range terms {
		all = append(all, &raft.Log{Index: first + uint64(i), Term: term, Type: raft.LogNoop})
	}
	return all
}

func appendTo(index, term uint64, all ...*raft.Log) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: sender, Term: 7, PrevLogEntry: index, PrevLogTerm: term, Entries: all}
}

func snapshot(change func(*raft.InstallSnapshotRequest)) *raft.InstallSnapshotRequest {
	req := &raft.InstallSnapshotRequest{RPCHeader: sender, SnapshotVersion: 1, Term: 7, LastLogIndex: 30, LastLogTerm: 7, Size: 10,
		Configuration: raft.EncodeConfiguration(members), ConfigurationIndex: 3}
	change(req)
	return req
}

func with(change func(*raft.Log)) *raft.AppendEntriesRequest {
	req := appendTo(20, 7, entries(21, 7)...)
	change(req.Entries[0])
	return req
}

func configEntry(servers ...raft.Server) *raft.AppendEntriesRequest {
	return with(func(e *raft.Log) {
		e.Type, e.Data = raft.LogConfiguration, raft.EncodeConfiguration(raft.Configuration{Servers: servers})
	})
}

// What a leader or a candidate can send, in order or late, twice, or to a node that is far behind, is let through.
func TestWhatTheProtocolSendsIsLetThrough(t *testing.T) {
	group := command.Append(nil, []command.Request{{Ops: []command.Op{{Kind: command.Set, Key: "k", Value: []byte("v")}}}})
	empty := Node{TermAt: func(uint64) (uint64, bool) { return 0, false }, Checksum: node.Checksum}
	led, stray := node, node
	led.Led, led.Member = true, func(id raft.ServerID) bool { return id == "n1#1" }
	stray.Led, stray.Member = true, func(raft.ServerID) bool { return false }
	aged := node
	aged.Term = MaxTerm / 4
	for name, c := range map[string]struct {
		node Node
		req  any
	}{
		"a heartbeat":                                    {node, appendTo(0, 0)},
		"a commit index":                                 {node, appendTo(20, 7)},
		"a commit index to one behind":                   {node, appendTo(90, 7)},
		"the next entry":                                 {node, appendTo(20, 7, entries(21, 7)...)},
		"entries from before its leadership":             {node, &raft.AppendEntriesRequest{RPCHeader: sender, Term: 9, PrevLogEntry: 20, PrevLogTerm: 7, Entries: entries(21, 7, 8, 9)}},
		"entries that it has":                            {node, appendTo(16, 6, entries(17, 6, 6, 7)...)},
		"entries that it has in part in a snapshot":      {node, appendTo(8, 5, entries(9, 5, 5, 5)...)},
		"others in place of its last, not committed":     {node, &raft.AppendEntriesRequest{RPCHeader: sender, Term: 8, PrevLogEntry: 18, PrevLogTerm: 6, Entries: entries(19, 8)}},
		"entries that are far ahead":                     {node, appendTo(1000, 7, entries(1001, 7)...)},
		"the first entries, to an empty node":            {empty, &raft.AppendEntriesRequest{RPCHeader: sender, Term: 9, Entries: entries(1, 1, 1, 9)}},
		"the first entries, of a cluster in a high term": {empty, &raft.AppendEntriesRequest{RPCHeader: sender, Term: 1 << 32, Entries: entries(1, 1)}},
		"an old term":                                    {node, &raft.AppendEntriesRequest{RPCHeader: sender, Term: 3, PrevLogEntry: 1, PrevLogTerm: 1, Entries: entries(2, 3)}},
		"a term much later":                              {node, &raft.AppendEntriesRequest{RPCHeader: sender, Term: 7 + maxTermStep}},
		"the next term, late in a cluster's life":        {aged, &raft.AppendEntriesRequest{RPCHeader: sender, Term: aged.Term + 1}},
		"a barrier":                                      {node, with(func(e *raft.Log) { e.Type = raft.LogBarrier })},
		"a command":                                      {node, with(func(e *raft.Log) { e.Type, e.Data = raft.LogCommand, group })},
		"a command of hraftd's":                          {node, with(func(e *raft.Log) { e.Type, e.Data = raft.LogCommand, []byte(`{"op":"set","value":"v"}`) })},
		"a configuration":                                {node, configEntry(members.Servers...)},
		"one of bare ids, with one voter of two":         {node, configEntry(raft.Server{ID: "node0", Address: ":1"}, raft.Server{ID: "node1", Address: ":2", Suffrage: raft.Nonvoter})},
		"a snapshot":                                     {node, snapshot(func(*raft.InstallSnapshotRequest) {})},
		"an empty one, to an empty node":                 {empty, snapshot(func(r *raft.InstallSnapshotRequest) { r.Size = 0 })},
		"one that it has":                                {node, snapshot(func(r *raft.InstallSnapshotRequest) { r.LastLogIndex, r.LastLogTerm = 12, 5 })},
		"a snapshot of an old term":                      {node, snapshot(func(r *raft.InstallSnapshotRequest) { r.Term, r.LastLogTerm = 3, 3 })},
		"a vote":                                         {node, &raft.RequestVoteRequest{RPCHeader: sender, Term: 8, LastLogIndex: 20, LastLogTerm: 7}},
		"a vote for one with an empty log":               {node, &raft.RequestVoteRequest{RPCHeader: sender, Term: 8, LeadershipTransfer: true}},
		"a pre-vote":                                     {node, &raft.RequestPreVoteRequest{RPCHeader: sender, Term: 8, LastLogIndex: 20, LastLogTerm: 7}},
		"a transfer":                                     {node, &raft.TimeoutNowRequest{RPCHeader: sender}},
		"a leader that is no member yet":                 {stray, &raft.AppendEntriesRequest{RPCHeader: sender, Term: 7}},
		"one of a later term, when there is none":        {node, &raft.AppendEntriesRequest{RPCHeader: sender, Term: 8}},
		"a member of a later term":                       {led, &raft.AppendEntriesRequest{RPCHeader: sender, Term: 8}},
	} {
		if err := Validate(c.req, c.node); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatNoNodeSendsIsRefused(t *testing.T) {
	const max = uint64(math.MaxUint64)
	noVote := node
	noVote.Voter = false
	led := node
	led.Led, led.Member = true, func(raft.ServerID) bool { return false }
	behindSnapshot := node
	behindSnapshot.TermAt = func(uint64) (uint64, bool) { return 0, false }
	long := raft.RPCHeader{ProtocolVersion: 3, ID: make([]byte, maxName+1), Addr: sender.Addr}
	for name, c := range map[string]struct {
		want string
		node Node
		req  any
	}{
		"no request":                       {"is no request", node, "AppendEntries"},
		"nobody":                           {"who sends it", node, &raft.AppendEntriesRequest{Term: 7}},
		"a candidate without an id":        {"who sends it", node, &raft.RequestVoteRequest{Term: 8, RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: sender.Addr}}},
		"a long id":                        {"4097 bytes", node, &raft.TimeoutNowRequest{RPCHeader: long}},
		"a long leader":                    {"4097 bytes", node, &raft.AppendEntriesRequest{RPCHeader: sender, Term: 7, Leader: long.ID}},
		"a long candidate":                 {"4097 bytes", node, &raft.RequestVoteRequest{RPCHeader: sender, Term: 7, Candidate: long.ID}},
		"a long leader of a snapshot":      {"4097 bytes", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.Leader = long.ID })},
		"no term":                          {"no term", node, &raft.AppendEntriesRequest{RPCHeader: sender}},
		"the last term":                    {"beyond", node, &raft.AppendEntriesRequest{RPCHeader: sender, Term: max}},
		"a vote in the last term":          {"beyond", node, &raft.RequestVoteRequest{RPCHeader: sender, Term: max}},
		"a pre-vote in the last term":      {"beyond", node, &raft.RequestPreVoteRequest{RPCHeader: sender, Term: max}},
		"a snapshot of the last term":      {"beyond", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.Term = max })},
		"a term just too far":              {"beyond", node, &raft.RequestVoteRequest{RPCHeader: sender, Term: 7 + maxTermStep + 1}},
		"the last term, to an empty node":  {"beyond", Node{}, &raft.AppendEntriesRequest{RPCHeader: sender, Term: max}},
		"a log that is of a later term":    {"ends at entry 9", node, &raft.RequestVoteRequest{RPCHeader: sender, Term: 8, LastLogIndex: 9, LastLogTerm: 9}},
		"a log without end":                {"ends at entry 18446744073709551615", node, &raft.RequestPreVoteRequest{RPCHeader: sender, Term: 8, LastLogIndex: max, LastLogTerm: 7}},
		"a transfer to one without a vote": {"no vote", noVote, &raft.TimeoutNowRequest{RPCHeader: sender}},

		"a later leader that is no member":     {"from no member", led, &raft.AppendEntriesRequest{RPCHeader: sender, Term: 8}},
		"a transfer by one":                    {"from no member", led, &raft.TimeoutNowRequest{RPCHeader: sender}},
		"one that is far ahead":                {"from no member", led, &raft.AppendEntriesRequest{RPCHeader: sender, Term: max}},
		"a snapshot of one":                    {"from no member", led, snapshot(func(r *raft.InstallSnapshotRequest) { r.Term = 8 })},
		"a nil entry":                          {"nothing in place of entry 21", node, appendTo(20, 7, nil)},
		"a nil entry after another":            {"nothing in place of entry 22", node, appendTo(20, 7, append(entries(21, 7), nil)...)},
		"very many entries":                    {"1025 entries", node, appendTo(20, 7, make([]*raft.Log, maxEntries+1)...)},
		"a gap":                                {"entry 22 follows entry 20", node, appendTo(20, 7, entries(22, 7)...)},
		"the same entry twice":                 {"entry 21 follows entry 21", node, appendTo(20, 7, append(entries(21, 7), entries(21, 7)...)...)},
		"an entry behind none":                 {"entry 18446744073709551615 follows entry 0", node, appendTo(0, 0, entries(max, 7)...)},
		"an entry behind the last index":       {"1 entries behind", node, appendTo(max, 7, entries(0, 7)...)},
		"an entry of no term":                  {"of term 0", node, appendTo(20, 0, entries(21, 0)...)},
		"terms that fall":                      {"of term 6, behind one of term 7", node, appendTo(20, 6, entries(21, 7, 6)...)},
		"a term before that of the last entry": {"of term 6, behind one of term 7", node, appendTo(20, 7, entries(21, 6)...)},
		"a term after the leader's":            {"of term 8", node, appendTo(20, 7, entries(21, 8)...)},
		"a wrong checksum":                     {errSum.Error(), node, with(func(e *raft.Log) { e.Extensions = []byte{1} })},
		"a type of old":                        {"LogAddPeerDeprecated", node, with(func(e *raft.Log) { e.Type = raft.LogAddPeerDeprecated })},
		"another type of old":                  {"LogRemovePeerDeprecated", node, with(func(e *raft.Log) { e.Type = raft.LogRemovePeerDeprecated })},
		"a type of the future":                 {"of type 6", node, with(func(e *raft.Log) { e.Type = 6 })},
		"no command":                           {"decode log entry", node, with(func(e *raft.Log) { e.Type = raft.LogCommand })},
		"a command that ends early":            {"decode log entry", node, with(func(e *raft.Log) { e.Type, e.Data = raft.LogCommand, []byte{1, 9} })},
		"hraftd's command, of no operation":    {"unknown operation", node, with(func(e *raft.Log) { e.Type, e.Data = raft.LogCommand, []byte(`{"op":"x"}`) })},
		"no configuration":                     {"decode configuration", node, with(func(e *raft.Log) { e.Type = raft.LogConfiguration })},
		"a garbage configuration":              {"decode configuration", node, with(func(e *raft.Log) { e.Type, e.Data = raft.LogConfiguration, []byte("x") })},
		"a configuration of very many": {"more than 16384 values", node, with(func(e *raft.Log) {
			e.Type, e.Data = raft.LogConfiguration, []byte("\x81\xa7Servers\xdd\x7f\xff\xff\xff")
		})},
		"a configuration of nobody": {"without a voter", node, configEntry()},
		"one without voters":        {"without a voter", node, configEntry(raft.Server{ID: "a", Address: "b", Suffrage: raft.Nonvoter})},
		"a member without id":       {"without id or address", node, configEntry(raft.Server{Address: "b"})},
		"a member without address":  {"without id or address", node, configEntry(raft.Server{ID: "a"})},
		"a member twice":            {"member twice", node, configEntry(raft.Server{ID: "a", Address: "b"}, raft.Server{ID: "a", Address: "c"})},
		"an address twice":          {"member twice", node, configEntry(raft.Server{ID: "a", Address: "b"}, raft.Server{ID: "c", Address: "b"})},
		"a suffrage that is none":   {"suffrage 3", node, configEntry(raft.Server{ID: "a", Address: "b", Suffrage: 3})},

		"others in place of what is committed": {"would replace entry 17 of term 6", node, appendTo(16, 6, entries(17, 7)...)},
		"the same behind entries that it has":  {"would replace entry 18 of term 6", node, appendTo(16, 6, entries(17, 6, 7)...)},
		"the last committed entry":             {"would replace entry 18 of term 6", node, appendTo(17, 6, entries(18, 7)...)},
		"entries before those in a snapshot":   {"entry 1 is in the snapshot", behindSnapshot, appendTo(0, 0, entries(1, 7)...)},

		"a snapshot of version 0":                    {"version 0", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.SnapshotVersion = 0 })},
		"a snapshot of nothing":                      {"up to entry 0", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.LastLogIndex = 0 })},
		"a snapshot up to the last index":            {"up to entry 18446744073709551615", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.LastLogIndex = max })},
		"a snapshot of no term":                      {"of term 0", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.LastLogTerm = 0 })},
		"a snapshot of entries of a later term":      {"of term 8", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.LastLogTerm = 8 })},
		"a snapshot of entries of an earlier term":   {"behind entries of term 6", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.LastLogTerm = 5 })},
		"a snapshot of less than nothing":            {"-1 bytes", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.Size = -1 })},
		"a snapshot with a garbage configuration":    {"decode configuration", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.Configuration = []byte("x") })},
		"a snapshot without a configuration":         {"decode configuration", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.Configuration = nil })},
		"a configuration of no entry":                {"configuration of entry 0", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.ConfigurationIndex = 0 })},
		"a configuration of an entry behind its end": {"configuration of entry 31", node, snapshot(func(r *raft.InstallSnapshotRequest) { r.ConfigurationIndex = 31 })},
	} {
		if err := Validate(c.req, c.node); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// However far apart two nodes are, one comes to the other's term, and never past it.
func TestEveryTermOfAClusterIsReachedInSteps(t *testing.T) {
	for _, c := range []struct{ term, own, want uint64 }{
		{0, 7, 7},
		{6, 7, 7},
		{7, 7, 7},
		{8, 7, 8},
		{7 + maxTermStep, 7, 7 + maxTermStep},
		{8 + maxTermStep, 7, 7 + maxTermStep},
		{MaxTerm / 2, 0, maxTermStep},
		{MaxTerm / 2, MaxTerm/2 - 1, MaxTerm / 2},
		{MaxTerm/2 + 1, 7, 7},
		{math.MaxUint64, 7, 7},
		{7, math.MaxUint64, math.MaxUint64},
	} {
		if got := Reach(c.term, c.own); got != c.want {
			t.Errorf("from %d to %d: %d, want %d", c.own, c.term, got, c.want)
		}
	}
	own, steps := uint64(3), 0
	for ; own < 1<<40 && steps < 300; steps++ {
		own = Reach(1<<40, own)
	}
	if own != 1<<40 || steps > 256 {
		t.Errorf("at %d after %d steps", own, steps)
	}
}

// A follower whose log goes on with entries of another leader must not commit them because that one's successor tells how
// far it has committed its own.
func TestACommitIndexCountsUpToTheEntriesOfTheMessage(t *testing.T) {
	for _, c := range []struct {
		req  *raft.AppendEntriesRequest
		want uint64
	}{
		{appendTo(0, 0), 0},
		{appendTo(20, 7), 20},
		{appendTo(20, 7, entries(21, 7, 7)...), 22},
		{appendTo(60, 7), 50},
	} {
		c.req.LeaderCommitIndex = 50
		if Limit(c.req); c.req.LeaderCommitIndex != c.want {
			t.Errorf("%d entries behind entry %d: commits up to %d, want %d", len(c.req.Entries), c.req.PrevLogEntry, c.req.LeaderCommitIndex, c.want)
		}
	}
}

func TestASnapshotOfAnOldTermIsOutdated(t *testing.T) {
	if !Outdated(&raft.InstallSnapshotRequest{Term: 6}, node) || Outdated(&raft.InstallSnapshotRequest{Term: 7}, node) {
		t.Error("of term 6 a snapshot is outdated in term 7, and of term 7 not")
	}
}
