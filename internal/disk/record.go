package disk

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"strings"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

// recordFormat is the newest format of the record that this version reads: 2 has a Log,
// without which what it says of the log would be said of that in raft.db.
const recordFormat = 2

// Record is what a node must not forget, beside its log and its snapshots.
//
// It is one record, rewritten whole on each change and with one checksum over
// all of it: a flipped bit anywhere, in the term and the vote as well, is
// damage, and is never read as "absent" or as another value.
type Record struct {
	Format          int           `json:"Format"`
	ID              string        `json:"ID"`              // the id that its user gave the node
	Identity        string        `json:"Identity"`        // minted with the directory; "" in one taken over from hraftd
	Cluster         string        `json:"Cluster"`         // "" until the node is admitted to a cluster or forms one, or its legacy cluster gets an id
	Promise         []roster.Peer `json:"Promise"`         // the set with which the node has promised to form a cluster; nil: none
	ChecksummedFrom uint64        `json:"ChecksummedFrom"` // entries below this index may lack a checksum; 0: none may
	Snapshot        SnapshotMark  `json:"Snapshot"`        // the newest snapshot that was completed here

	// Places are the promises of this node to find members at other addresses than the
	// configuration says.
	Places map[raft.ServerID]PlacePromise `json:"Places,omitempty"`

	// Log is the id, in hex digits, of the log in segments that is the node's; "": its log
	// is in raft.db, or in a store of the user's.
	Log string `json:"Log,omitempty"`

	// Tail is an index up to which the log is known to reach. It is raised
	// for nothing whenever the record is written anyway, and lowered before
	// a suffix of the log is deleted: a log that ends below it lost entries.
	Tail uint64 `json:"Tail"`

	// Raft is what raft keeps in its stable store: CurrentTerm, LastVoteTerm
	// and LastVoteCand.
	Raft map[string][]byte `json:"Raft"`
}

// PlacePromise is where a node has promised to find a member that the configuration has
// elsewhere.
type PlacePromise struct {
	From string `json:"From"` // as the configuration has it
	To   string `json:"To"`
}

// SnapshotMark identifies one completed snapshot.
type SnapshotMark struct {
	ID    string `json:"ID"`
	Index uint64 `json:"Index"`
	Term  uint64 `json:"Term"`
	Size  int64  `json:"Size"` // bytes of state
	CRC   uint32 `json:"CRC"`  // CRC-32C of its meta.json, which holds raft's CRC-64 of the state
}

// Compare orders snapshots by their ends. Of two that end at one entry, remembered is the
// newer one: what the clock said when they were taken decides nothing.
func (m SnapshotMark) Compare(other, remembered SnapshotMark) int {
	isRemembered := func(mark SnapshotMark) int {
		if mark.ID == remembered.ID {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(m.Term, other.Term), cmp.Compare(m.Index, other.Index),
		cmp.Compare(isRemembered(m), isRemembered(other)),
		cmp.Compare(len(m.ID), len(other.ID)), cmp.Compare(m.ID, other.ID),
	)
}

func (m SnapshotMark) OlderThan(other SnapshotMark) bool {
	return m.Term < other.Term || m.Index < other.Index
}

// ServerID is the name by which raft knows the node. A wiped directory comes
// back with a new identity and so as a stranger, who inherits no vote.
func (m Record) ServerID() raft.ServerID {
	if m.Identity == "" {
		return raft.ServerID(m.ID)
	}
	return raft.ServerID(m.ID + "#" + m.Identity)
}

// format is the one in which the record is written.
func (m *Record) format() int {
	if m.Log == "" {
		return 1
	}
	return recordFormat
}

// IsLegacy reports whether the node was taken over from hraftd, which minted no
// identities.
func (m Record) IsLegacy() bool { return m.ID != "" && m.Identity == "" }

// LacksClusterID reports whether the node is a member of a cluster whose id it does not
// know.
func (m Record) LacksClusterID() bool { return m.IsLegacy() && m.Cluster == "" }

// Term is the newest that the node has heard of.
func (m Record) Term() uint64 { return m.number("CurrentTerm") }

// Vote is the newest term in which the node has voted, and for whom, as raft's transport
// encodes it; 0: in none.
func (m Record) Vote() (term uint64, candidate []byte) {
	return m.number("LastVoteTerm"), m.Raft["LastVoteCand"]
}

// number is one of raft's values; 0: it is not there.
func (m Record) number(key string) uint64 {
	if value := m.Raft[key]; len(value) == 8 {
		return binary.BigEndian.Uint64(value)
	}
	return 0
}

// clone returns a copy that shares no map with m. The values in Raft are
// replaced and never changed, so they are shared.
func (m Record) clone() Record {
	m.Raft = maps.Clone(m.Raft)
	if m.Raft == nil {
		m.Raft = map[string][]byte{}
	}
	return m
}

// Encode gives the record's stored form: the CRC-32C of the JSON in eight hex
// digits, a space, the JSON.
func (m Record) Encode() ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode the node's record: %w", err)
	}
	return fmt.Appendf(nil, "%08x %s", crc32.Checksum(body, castagnoli), body), nil
}

func DecodeRecord(stored []byte) (Record, error) {
	sum, body, _ := strings.Cut(string(stored), " ")
	if want := fmt.Sprintf("%08x", crc32.Checksum([]byte(body), castagnoli)); sum != want {
		return Record{}, fmt.Errorf("%w: the node's record does not match its checksum", errs.Damaged)
	}
	var m Record
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		return Record{}, fmt.Errorf("%w: the node's record: %w", errs.Damaged, err)
	}
	if m.Format > recordFormat {
		return Record{}, fmt.Errorf("%w (format %d, this version reads up to %d)", errs.Newer, m.Format, recordFormat)
	}
	if m.Format < 1 {
		return Record{}, fmt.Errorf("%w: the node's record has format %d", errs.Damaged, m.Format)
	}
	return m.clone(), nil
}
