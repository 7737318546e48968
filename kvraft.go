package kvraft

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/failover"
	"github.com/kvraft/kvraft/internal/joining"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/limits"
	"github.com/kvraft/kvraft/internal/logqueue"
	"github.com/kvraft/kvraft/internal/member"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/ownaddr"
	"github.com/kvraft/kvraft/internal/pace"
	"github.com/kvraft/kvraft/internal/place"
	"github.com/kvraft/kvraft/internal/raftnet"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/snapshots"
	"github.com/kvraft/kvraft/internal/watchdog"
	"github.com/kvraft/kvraft/internal/wire"
)

// Store is one node of a replicated key-value store. Its methods may be called
// from any goroutine.
type Store struct {
	node     *node.Node
	lead     *lead.Tracker
	failures *failover.Detector
	places   *place.Places
	members  *member.Members
	joiner   *joining.Joiner

	opts     options
	security *wire.Security // of the connections to other nodes; nil: none
	fsm      *fsm
	lines    *logqueue.Queue // behind log: nothing waits for where the store logs

	watchdog *watchdog.Watchdog

	reads  *reader
	writes *writer

	closeCalled atomic.Bool
	closed      chan struct{} // closed when Close is done
}

// Open starts a node on the data in dir, which it creates if need be. It
// restores what is there and returns without waiting for the other nodes; see
// [Store.WaitLeader].
//
// The first start decides what the node is. With [WithJoin] or [WithJoinFunc] it
// asks to be admitted to a cluster, until it is, and with [WithBootstrapExpect] as
// well it forms one together with other empty nodes where there is none. Without
// them it forms a cluster of which it is the only member. Later starts go on from
// the directory.
//
// A directory that a hraftd node has left is taken over, with the cluster that it was
// in: start the others too. ErrInvalid tells if it cannot be, or which ids there are to
// choose from by WithID.
//
// Bad options are reported all at once, as ErrInvalid. Other errors: ErrLocked
// when another process has the directory open, ErrDamaged when a file in it is
// damaged, missing or older than it should be, ErrForeign when it holds data of another
// program's raft, one without a name when a newer version of kvraft has written them, and
// those of the network. When Open fails, nothing that it started is left, and dir is as
// it was, unless the disk failed.
func Open(dir string, opts ...Option) (*Store, error) {
	o, err := newOptions(dir, opts)
	if err != nil {
		return nil, errors.Join(err, closeListener(o.listener))
	}
	s := newStore(o)
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("open %s: %w", s.name(), err)
	}
	return s, nil
}

func newStore(o options) *Store {
	lines := logqueue.New(o.logger)
	o.logger = lines.Logger()
	n := node.New(node.Timing(o.timing), o.logger)
	s := &Store{opts: o, lines: lines, node: n, lead: lead.New(n), closed: make(chan struct{})}
	s.failures = failover.New(n, s.lead)
	s.places = place.New(n, s.lead)
	s.members = member.New(n, s.lead, s.places)
	s.joiner = joining.New(n, s.lead, s.places, s.members, joining.Config{
		Given: o.join, Find: o.joinFunc, LookupHost: o.lookupHost, Expect: o.expect, Replica: o.replica,
	})
	s.fsm = newFSM(n.Ctx, o.snapshots.EveryBytes, o.history, func() string { return n.Self().Cluster }, n.StopForFault)
	n.State = s.fsm
	s.reads = newReader(n, s.lead, s.fsm)
	s.writes = newWriter(n, s.lead, limits.Limits(o.limits))
	n.Commit = s.writes.replicate
	n.Life.OnStop = func(why error) { s.writes.groups.Refuse(why) }
	context.AfterFunc(n.Ctx, func() { s.writes.groups.Abandon(n.Life.Err()) })
	s.lead.WhenLeading = []func(*lead.Tenure){s.members.OpenTerm, s.members.FinishChanges}
	s.lead.WhenFollowing = []func(*lead.Tenure){s.failures.Monitor, s.failures.AwaitSilence}
	return s
}

func (s *Store) name() string {
	if s.opts.inMemory {
		return "in memory"
	}
	return s.opts.dir
}

// open assembles the node from the disk up. What it has opened it closes in
// reverse when it fails.
func (s *Store) open() (err error) {
	var undo []func() error
	defer func() {
		if err == nil {
			return
		}
		s.node.Life.End()
		for _, undoOne := range slices.Backward(undo) {
			err = errors.Join(err, undoOne())
		}
		s.lines.Close(logPatience)
	}()
	undo = append(undo, func() error { return closeListener(s.opts.listener) })

	undo = append(undo, s.closeStorage)
	for _, step := range []func() error{s.readStorage, s.checkID, s.protect, s.listen, s.openForWriting, s.identify} {
		if err := step(); err != nil {
			return err
		}
	}
	s.node.Opened, s.node.OpenedTerm = time.Now(), s.node.Stable().Term()
	s.node.Port = s.newPort()
	s.node.RaftNet = raftnet.New(s.node.Port, s.node.Patience(), s.node.Log.Named("raft-net"), raftFilter{s})
	undo = append(undo, func() error { err := s.node.RaftNet.Close(); s.node.Port.Close(); return err })

	if err := s.joiner.FoundAlone(); err != nil {
		return err
	}
	if s.node.Raft, err = s.newRaft(); err != nil {
		return err
	}
	s.places.FindPlace()
	s.watchdog = watchdog.New(s.node, s.lead, s.failures, func(ctx context.Context, leader roster.Peer) (uint64, error) {
		return s.reads.forwardReadIndex(ctx, leader, LeaderLocal)
	})
	s.node.Logs.SetHooks(disk.Hooks{NeedsOthers: s.needsOthers, MayCut: s.mayCut})
	s.start()
	return nil
}

func (s *Store) listen() error {
	if s.opts.listener == nil {
		listener, err := s.opts.network.Listen(s.opts.addr)
		if err != nil {
			return fmt.Errorf("listen for peers on %s: %w", s.opts.addr, err)
		}
		s.opts.listener = listener
	}
	if s.node.Addr = s.opts.advertise; s.node.Addr != "" {
		return nil
	}
	addr, err := s.opts.advertised(ownaddr.Local())
	s.opts.advertise, s.node.Addr = addr, addr
	return err
}

// checkID makes sure that the node may have the id that it was given. One that no cluster
// has heard of yet may get another.
func (s *Store) checkID() error {
	meta := s.node.Stable().Record()
	if s.isRenamed() && (meta.Cluster != "" || meta.Promise != nil || meta.IsLegacy()) {
		return fmt.Errorf("%w: this is the data of node %q, not of %q", ErrInvalid, meta.ID, s.opts.id)
	}
	return nil
}

func (s *Store) isRenamed() bool {
	id := s.node.Stable().Record().ID
	return id != "" && s.opts.id != "" && s.opts.id != id
}

// identify gives an empty node its identity. One that looks for no others promises
// to form a cluster with itself.
func (s *Store) identify() error {
	meta := s.node.Stable().Record()
	first := meta.ID == ""
	if first || s.isRenamed() {
		err := s.node.Stable().Update(func(m *disk.Record) {
			m.ID, m.Identity = s.opts.id, roster.NewIdentity()
			orDefault(&m.ID, s.opts.advertise)
			if first && !s.opts.joins() {
				m.Promise = []roster.Peer{{Server: m.ServerID(), Addr: s.opts.advertise}}
			}
		})
		if err != nil {
			return fmt.Errorf("write the node's identity: %w", err)
		}
		meta = s.node.Stable().Record()
	}
	s.opts.id, s.node.ID, s.node.Server = meta.ID, meta.ID, meta.ServerID()
	return nil
}

func (s *Store) newRaft() (r *raft.Raft, err error) {
	s.fsm.logBytes = firstPhase(s.opts.snapshots.EveryBytes)
	err = s.node.Life.Apart("start raft", func() (err error) {
		r, err = raft.NewRaft(s.node.RaftConfig(), s.fsm, s.node.Logs, s.node.Stable(), s.node.Snapshots, s.node.RaftNet)
		return err
	})
	if err != nil && r != nil { // it had started when its storage failed
		err = errors.Join(err, r.Shutdown().Error())
	}
	return r, err
}

// needsOthers reports whether this node leads and needs others to commit an entry.
func (s *Store) needsOthers() bool {
	return s.node.Raft.State() == raft.Leader && len(roster.Voters(s.node.Configuration())) > 1
}

func (s *Store) start() {
	s.node.Port.Start()
	s.node.Life.Go(s.lead.WatchRaft)
	s.node.Life.Go(s.takeSnapshots)
	s.node.Life.Go(s.joiner.Settle)
	s.node.Life.Go(s.joiner.AdoptClusterID)
	s.node.Life.Go(s.failures.CampaignAtStart)
	s.watchdog.Start()
}

// Index returns the newest log index that is in this node's state. The committed
// log of the cluster reaches at least that far.
func (s *Store) Index() uint64 { return s.node.Index() }

// Hash returns a SHA-256 over the whole state, and the log index it belongs to:
// at the same index it is the same on every node. It reads every key, and rests for
// half of the time, as it would otherwise take a processor from the writes.
func (s *Store) Hash() (index uint64, sum [32]byte) {
	now := s.fsm.now.Load()
	h := pace.NewHash(sha256.New(), s.node.Life.Stopping())
	now.view.HashTo(h)
	return now.index, [32]byte(h.Sum(nil))
}

// Done returns a channel that is closed when the store stops taking calls: by
// Close, or by itself when its storage fails or it was removed from the cluster.
// [Store.Err] tells why.
func (s *Store) Done() <-chan struct{} { return s.node.Life.Stopping() }

// Err returns nil while the store runs. After that it returns ErrClosed, which
// wraps the fault that stopped the store if there was one.
func (s *Store) Err() error { return s.node.Life.Err() }

// logPatience is how long Close waits for the last lines to be logged.
const logPatience = time.Second

// Close hands leadership over, stops the node and waits for all of it. Calls
// that are under way return; those that follow get ErrClosed. A second Close
// waits for the first and returns nil.
func (s *Store) Close() error {
	if s.closeCalled.Swap(true) {
		<-s.closed
		return nil
	}
	s.node.Life.Stop(ErrClosed)
	err := s.shutdown()
	s.lines.Close(logPatience)
	close(s.closed)
	return err
}

// shutdown stops everything in an order in which each wait ends. First what is
// under way here gets its outcome. Then what raft still owes is waited for, since
// its futures may hang once it is shut down (hashicorp/raft issue 498). With
// nothing more to come, leadership is handed over. Only then is raft stopped, and
// last the storage that it stands on closed.
func (s *Store) shutdown() error {
	t := s.node.Timing
	if s.node.Ctx.Err() == nil {
		s.writes.groups.Drain(t.Election)
	}
	s.node.Futures.Drain(2*t.Lease + t.Election)
	if s.node.Ctx.Err() == nil {
		if err := s.lead.HandOver(s.node.Ctx, ""); err != nil { // the others wait for their election timeout, then
			s.node.Log.Info("leadership was not handed over", "reason", errs.Reason(err))
		}
	}
	s.node.Life.End()
	stopped := s.node.Raft.Shutdown()
	err := s.node.RaftNet.Close()
	s.node.Port.Cut()

	cleared := make(chan error, 1)
	go func() { cleared <- s.clearAway(stopped) }()
	timer := time.NewTimer(t.Stall)
	defer timer.Stop()
	select {
	case clearErr := <-cleared:
		return errors.Join(err, clearErr)
	case <-timer.C:
		return errors.New("kvraft: close: the storage does not answer; what is left is cleared away when it does")
	}
}

// clearAway waits for every goroutine and closes what they used. Storage that
// hangs makes it wait for as long.
func (s *Store) clearAway(stopped raft.Future) error {
	err := stopped.Error()
	s.node.Life.Wait()
	s.node.Port.Close()
	return errors.Join(err, s.node.Logs.Flush(), s.closeStorage())
}

func closeListener(l net.Listener) error {
	if l == nil {
		return nil
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// readStorage reads all that the node has, and writes nothing. What it opens is for
// closeStorage to close.
func (s *Store) readStorage() (err error) {
	opt := disk.Options{
		Dir:    s.opts.dir,
		Store:  s.opts.logStore,
		Name:   s.name(),
		Stall:  s.opts.timing.Stall,
		Whose:  s.opts.whose,
		Fail:   s.node.StopForFault,
		Logger: s.node.Log.Named("log"),

		SegmentSize: s.opts.segmentSize,
	}
	if s.opts.inMemory {
		opt.Store = raft.NewInmemStore()
	}
	if s.opts.atRest {
		opt.Whose = nil
	}
	if s.node.Logs, err = disk.Open(opt); err != nil {
		return err
	}
	return s.node.Logs.NameForeign(s.readSnapshots())
}

func (s *Store) readSnapshots() (err error) {
	codec := snapshots.Codec{Verify: verifySnapshot, VerifyNew: s.verifyNewSnapshot}
	if s.node.Logs.IsHraftds() || s.node.Stable().Record().IsLegacy() {
		codec.Verify, codec.Translate = verifyOldSnapshot, translated
	}
	if s.opts.inMemory {
		s.node.Snapshots, err = snapshots.OpenInMemory(s.node.Logs, codec)
	} else {
		s.node.Snapshots, err = snapshots.Open(s.opts.dir, s.opts.snapshots.Retain, s.node.Logs, codec, s.node.Log.Named("snapshot"))
	}
	return err
}

// openForWriting is for what has been read, and from which the node can start.
func (s *Store) openForWriting() error {
	if err := s.node.Logs.OpenForWriting(); err != nil {
		return err
	}
	if err := s.node.Snapshots.Settle(); err != nil {
		return err
	}
	return s.node.Logs.Tidy()
}

// pretendWriting takes the place of openForWriting where nothing may be written.
func (s *Store) pretendWriting() error {
	s.node.Logs.PretendWriting()
	return s.node.Snapshots.SettleLog()
}

// closeStorage closes what has been opened.
func (s *Store) closeStorage() (err error) {
	if s.node.Snapshots != nil {
		err = s.node.Snapshots.Close()
	}
	if s.node.Logs != nil {
		err = errors.Join(err, s.node.Logs.Close())
	}
	return err
}
