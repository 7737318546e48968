package kvraft

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/member"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/state"
)

// Recovery is what a node holds that is made the beginning of a new cluster.
type Recovery struct {
	ID      string // of the node
	Addr    string // under which it will be the only member
	Cluster string // the id of the new cluster; empty: there is none yet, see Examine
	Old     string // the id of the cluster that it belonged to; empty: taken over from hraftd, and without one
	Members []Node // of that, as far as the node knew, itself among them

	Committed uint64 // log index up to which everything was certainly committed
	Index     uint64 // of the node's newest log entry
	Term      uint64 // likewise
	Version   uint64 // of the state with everything up to Index
	Keys      int    // likewise

	// LostIndex is not 0 if the last write to the node's log, up to that log index, is not
	// whole. Either a crash has torn it, or it was stored, perhaps acknowledged, and is
	// damaged. The node does not have its entries.
	LostIndex uint64
	LostTerm  uint64 // of the entry at LostIndex

	NewVersion uint64 // that the new cluster begins at, see Recover; 0: there is no new cluster yet
}

// String says what may be lost, in sentences.
func (r Recovery) String() string {
	var others []string
	for _, m := range r.Members {
		if m.ID != r.ID {
			others = append(others, fmt.Sprintf("%s (%s)", m.ID, m.Addr))
		}
	}
	cluster := "hraftd's cluster"
	if r.Old != "" {
		cluster = "cluster " + r.Old
	}
	versions := fmt.Sprintf("A recovery leaves out more than %d versions: none that a lost write had is given again.", uint64(leastSkip))
	if r.NewVersion > 0 {
		versions = fmt.Sprintf("Versions go on after %d: none that a lost write had is given again.", r.NewVersion)
	}
	lost := ""
	if r.LostIndex > 0 {
		lost = fmt.Sprintf("\nThe last write to it, up to index %d, term %d, is not whole, and this node does not have it. It may have been acknowledged: a node whose log ends there, or later, has it.", r.LostIndex, r.LostTerm)
	}
	return fmt.Sprintf(`Node %s of %s holds %d keys, at version %d; its log ends at index %d, term %d.%s
What other members acknowledged after that is lost: this node never had it.
What its log has after index %d is kept, also writes that nobody has acknowledged.
%s
The other members, %s, cannot come back as they are: empty their directories and let them join.`,
		r.ID, cluster, r.Keys, r.Version, r.Index, r.Term, lost, r.Committed, versions, strings.Join(others, ", "))
}

// Recover makes the stopped node in dir the only member of a new cluster, with the
// data that it has. It is for when a majority of the voters is lost for good, and
// for nothing else: what other members acknowledged and this node had not yet
// received is lost. Of several survivors choose the one whose log ends at the
// highest term, and among those at the highest index; [Examine] tells, and also of a
// write at the end of a log that may be lost there alone, see Recovery.LostIndex.
//
// The cluster gets a new id, so that a member of the old one that comes back after
// all cannot be mistaken for one of the new. To bring such nodes in, empty their
// directories and let them join.
//
// The versions of the lost writes are not given again: whoever holds one, from a write
// or as a position in a watch, must not take another write for it. So the first write
// of the new cluster gets a version that is larger by more than 2^40 than the last one
// that the node has. IfVersion with a lost version does not hold, AtLeast with it fails
// with ErrStale, and Watch After it with ErrCompacted.
//
// Of the options count WithLogStore and WithLogger, and WithAdvertise for the
// address of the node; the default is the one it had. Errors: ErrLocked when a node
// has the raft.db in the directory open (that a LogStore of one's own is not in use is
// for its owner to see to), ErrDamaged, ErrForeign, and ErrInvalid when there is no node's data
// or it belongs to no cluster. After an error it can be called again.
func Recover(dir string, opts ...Option) (Recovery, error) {
	if r, err := Examine(dir, opts...); err != nil { // before anything is written
		return r, err
	}
	return atRest(dir, opts, (*Store).openForWriting, func(s *Store, r Recovery) (Recovery, error) {
		r.Cluster = roster.NewIdentity()
		r.NewVersion = r.Version + leastSkip + rand.Uint64N(leastSkip)
		// First of all it is no member of the old cluster any more.
		if err := s.node.Stable().Update(func(m *disk.Record) { m.Cluster = r.Cluster }); err != nil {
			return r, err
		}
		config := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: s.node.Server, Address: raft.ServerAddress(r.Addr)}}}
		_, nowhere := raft.NewInmemTransport("")
		state := &recovering{s.newFSM(), r, s.node.Server}
		err := s.node.Life.Apart("set the new configuration", func() error {
			return raft.RecoverCluster(s.node.RaftConfig(), state, s.node.Logs, s.node.Stable(), s.node.Snapshots, nowhere, config)
		})
		return r, err
	})
}

// Examine tells what Recover would start from, and writes nothing, so that a directory
// which can only be read will do. Errors are those of Recover.
func Examine(dir string, opts ...Option) (Recovery, error) {
	return atRest(dir, opts, (*Store).pretendWriting, func(_ *Store, r Recovery) (Recovery, error) { return r, nil })
}

// leastSkip is how many versions a recovery leaves out at the least: those of the
// writes that are lost, of which nobody knows the number. At a million writes a second
// it is the work of twelve days. As many more, at random, keep the clusters apart that
// are begun from several survivors of one, or from one more than once. JavaScript, for
// which numbers end at 2^53, can take 4,096 recoveries of a cluster.
const leastSkip = 1 << 40

// lostNote tells which versions recoveries have left out: FROM-TO, both of them
// included, for each, with commas between.
const lostNote = "lost"

// lostRange is the one that has the version, of those that a state has left out; empty:
// none has.
func lostRange(view state.View, version uint64) string {
	note := view.Note(lostNote)
	if note == "" { // as nearly always, and Sscanf would take as long as a read
		return ""
	}
	for one := range strings.SplitSeq(note, ",") {
		var from, to uint64
		if n, _ := fmt.Sscanf(one, "%d-%d", &from, &to); n == 2 && from <= version && version <= to {
			return one
		}
	}
	return ""
}

// recovering restores the old cluster's snapshot and takes the new one's. What the
// old cluster had noted of the node, that it was removed or has no vote, ends.
type recovering struct {
	*fsm
	to   Recovery
	node raft.ServerID
}

func (r *recovering) Snapshot() (raft.FSMSnapshot, error) {
	if r.fsm.failed != nil {
		return nil, r.fsm.failed
	}
	now, state := r.fsm.now.Load(), r.fsm.state
	state.WriteNote(member.RemovedNote(r.node), "")
	state.WriteNote(member.ReplicaNote(roster.UserID(r.node)), "")
	state.WriteNote(member.ClusterIDNote, "")
	state.RaiseRevision(r.to.NewVersion)
	lost := fmt.Sprintf("%d-%d", r.to.Version+1, r.to.NewVersion)
	if before := state.View().Note(lostNote); before != "" {
		lost = before + "," + lost
	}
	state.WriteNote(lostNote, lost)
	return &unpaced{fsmSnapshot{ctx: r.fsm.ctx, head: snapshotHeader{r.to.Cluster, now.index, now.term}, view: state.View()}}, nil
}

// unpaced is a state on its way to a disk that nobody else uses.
type unpaced struct{ fsmSnapshot }

func (s *unpaced) Persist(sink raft.SnapshotSink) error {
	return writeSnapshot(s.ctx, sink, s.head, s.view)
}

// atRest opens the storage of a node that does not run, and closes it.
func atRest(dir string, opts []Option, settle func(*Store) error, f func(*Store, Recovery) (Recovery, error)) (r Recovery, err error) {
	o, err := newOptions(dir, opts)
	if err != nil {
		return r, err
	}
	o.atRest = true
	if o.inMemory {
		return r, fmt.Errorf("%w: a node in memory leaves nothing to recover", ErrInvalid)
	}
	s := newStore(o)
	defer s.lines.Close(logPatience)
	defer s.node.Life.End()
	defer func() {
		if err = errors.Join(err, s.closeStorage()); err != nil {
			err = fmt.Errorf("recover %s: %w", dir, err)
		}
	}()
	if err := s.readStorage(); err != nil {
		return r, err
	}
	if s.node.Logs.IsNew() {
		return r, fmt.Errorf("%w: there is no node's data", ErrInvalid)
	}
	if err := settle(s); err != nil {
		return r, err
	}
	if r, err = s.takeStock(); err != nil {
		return r, err
	}
	return f(s, r)
}

// takeStock reads all that the node has.
func (s *Store) takeStock() (r Recovery, err error) {
	meta := s.node.Stable().Record()
	if meta.Cluster == "" && !meta.IsLegacy() {
		return r, fmt.Errorf("%w: node %s belongs to no cluster", ErrInvalid, meta.ID)
	}
	s.node.Server = meta.ServerID()
	state := s.newFSM()
	config, err := s.replay(state)
	if err != nil {
		return r, err
	}
	view := state.now.Load().view
	r = Recovery{ID: meta.ID, Old: meta.Cluster, Committed: meta.Snapshot.Index, Version: view.Revision(), Keys: view.Len()}
	r.Term, r.Index = s.node.LastEntry()
	doubt := s.node.Logs.Doubt()
	r.LostIndex, r.LostTerm = doubt.Index, doubt.Term
	r.Addr = cmp.Or(s.opts.advertise, roster.DialAddr(roster.AddressOf(config, s.node.Server)))
	r.Members = s.nodesOf(config)
	removed := view.Note(member.RemovedNote(s.node.Server)) != ""
	if len(r.Members) == 1 && r.Members[0].ID == r.ID && !removed {
		return r, fmt.Errorf("%w: node %s is the only member of cluster %s already: start it", ErrInvalid, r.ID, r.Old)
	}
	if r.Addr == "" {
		return r, fmt.Errorf("%w: node %s was no member of its cluster, as far as it knew: name its address with WithAdvertise", ErrInvalid, meta.ID)
	}
	return r, nil
}

// replay brings a state to the end of the log, whether committed or not, and
// returns the newest configuration.
func (s *Store) replay(state *fsm) (config raft.Configuration, err error) {
	first, last := s.node.Logs.Bounds()
	list, err := s.node.Snapshots.List()
	if err != nil {
		return config, err
	}
	if len(list) > 0 {
		meta, content, err := s.node.Snapshots.Open(list[0].ID)
		if err != nil {
			return config, err
		}
		if err := state.Restore(content); err != nil {
			return config, err
		}
		config, first = meta.Configuration, max(first, meta.Index+1)
	}
	for index := first; index <= last && last > 0; index++ {
		var entry raft.Log
		if err := s.node.Logs.GetLog(index, &entry); err != nil {
			return config, err
		}
		if entry.Type == raft.LogConfiguration {
			config = raft.DecodeConfiguration(entry.Data) // it has been compared with its checksum
		}
		if state.Apply(&entry); state.failed != nil {
			return config, state.failed
		}
	}
	return config, nil
}

// newFSM is a state machine that no raft drives, and that takes the snapshots of any cluster.
func (s *Store) newFSM() *fsm {
	return newFSM(s.node.Ctx, math.MaxInt64, 0, func() string { return "" }, s.node.StopForFault)
}
