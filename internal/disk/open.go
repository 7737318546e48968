package disk

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/raftrpc"
)

// lockPatience is how long a start waits for another process to let go of the raft.db.
const lockPatience = time.Second

// defaultLogCache is how many bytes of the newest entries stay in memory.
const defaultLogCache = 64 << 20

// Store keeps a log and the few values that a node must not forget, as [Options] has one.
// It must do what kvraft.LogStore says.
type Store interface {
	raft.LogStore
	raft.StableStore
}

// Options is what Open can be told.
type Options struct {
	Dir        string        // the data directory
	Store      Store         // the user's own, in place of a raft.db in dir; nil: none
	Name       string        // what errors call the store, such as the path of its file; empty: log store
	CacheBytes int64         // of the newest entries kept in memory; 0: 64 MiB
	Stall      time.Duration // a small write that lasts longer stops the node; 0: no limit
	Logger     hclog.Logger  // nil: none

	// Whose tells which of the members a directory of hraftd's is; nil: it is not
	// to be taken over.
	Whose func(raft.Configuration) (id string, err error)

	// Fail is told the error that stopped the store, exactly once, on the
	// goroutine that met it, which may be raft's: it must not wait for raft.
	Fail func(error)
}

// Hooks is what a log asks of the raft above it.
type Hooks struct {
	// NeedsOthers reports, on raft's main goroutine, whether this node leads and needs
	// others to commit an entry.
	NeedsOthers func() bool
	// MayCut tells why the log must not end before an entry, or nil.
	MayCut func(from uint64) error
}

// engine is what a Log stands on. It is opened in two steps. First all of it is read,
// and it is decided whether the node can start from it: nothing is written for that, as
// what is refused may be another program's, which is to find it as it left it, or a node's
// whose damage is to be looked at. Only then it is opened for writing. A store that fails
// is not touched again but for Close.
type engine interface {
	Store
	// OpenForWriting makes what is not there yet, and may compact the rest.
	OpenForWriting(compact bool, log hclog.Logger) error
	// Tidy removes what crashes have left, once the node has begun to write.
	Tidy() error
	Close() error
}

// borrowed is a store of the user's: it is open, and theirs to close.
type borrowed struct{ Store }

func (borrowed) OpenForWriting(bool, hclog.Logger) error { return nil }
func (borrowed) Tidy() error                             { return nil }
func (borrowed) Close() error                            { return nil }

// readOnly lets nothing through to an engine that would change it.
type readOnly struct{ engine }

func (readOnly) StoreLog(*raft.Log) error         { return nil }
func (readOnly) StoreLogs([]*raft.Log) error      { return nil }
func (readOnly) DeleteRange(uint64, uint64) error { return nil }
func (readOnly) Set([]byte, []byte) error         { return nil }
func (readOnly) SetUint64([]byte, uint64) error   { return nil }

// Open reads the whole of a log and returns it as raft may use it, or an error that
// wraps [errs.Damaged] and says what is wrong with which entry. It writes nothing: see
// OpenForWriting.
func Open(opt Options) (*Log, error) {
	l := &Log{
		failStop:  newFailStop(opt.Stall, opt.Fail),
		logWindow: &logWindow{limit: cmp.Or(opt.CacheBytes, defaultLogCache)},
		dir:       opt.Dir,
		name:      cmp.Or(opt.Name, "log store"),
		log:       cmp.Or(opt.Logger, hclog.NewNullLogger()),
		whose:     opt.Whose,
		end:       make(chan struct{}, 1),
	}
	err := l.openBase(opt.Store)
	if err == nil {
		l.stable = &Stable{failStop: l.failStop, base: l.base, name: l.name, stored: l.stored, turn: make(chan struct{}, 1)}
		if err = boltlog.Contain(l.load); err != nil {
			err = fmt.Errorf("open %s: %w", l.name, err)
		}
	}
	if err = l.NameForeign(err); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Log) openBase(own Store) error {
	if own != nil {
		l.base = borrowed{own}
		return nil
	}
	file, err := boltlog.Read(filepath.Join(l.dir, boltlog.Name), lockPatience)
	if err == nil {
		l.base = file
	}
	return err
}

// OpenForWriting is the second step. What is hraftd's is not compacted before the record
// has made it kvraft's.
func (l *Log) OpenForWriting() error { return l.base.OpenForWriting(!l.hraftds, l.log) }

// PretendWriting takes the place of OpenForWriting where nothing may be written. What the
// log store is told to write it knows from then on all the same.
func (l *Log) PretendWriting() {
	l.base = readOnly{l.base}
	l.stable.base = l.base
}

// SetHooks is for when raft has started.
func (l *Log) SetHooks(h Hooks) { l.hooks.Store(&h) }

// Tidy removes what crashes have left beside the log.
func (l *Log) Tidy() error { return l.base.Tidy() }

func (l *Log) load() (err error) {
	if l.fresh, l.hraftds, err = l.stable.load(); err != nil {
		return err
	}
	if err := l.loadEntries(); err != nil {
		return fmt.Errorf("%w: %w", errs.Damaged, err)
	}
	return nil
}

// loadEntries reads and checks every entry that base has.
func (l *Log) loadEntries() error {
	current, err := l.stable.GetUint64([]byte("CurrentTerm"))
	if err != nil && err != errKeyNotFound {
		return err
	}
	if current > raftrpc.MaxTerm {
		return fmt.Errorf("the node's term is %d, to which no elections lead: a peer has made it up", current)
	}
	first, err := l.base.FirstIndex()
	if err != nil {
		return fmt.Errorf("find the first entry: %w", err)
	}
	last, err := l.base.LastIndex()
	if err != nil {
		return fmt.Errorf("find the last entry: %w", err)
	}
	if first > last || (first == 0) != (last == 0) {
		return fmt.Errorf("the log claims to reach from entry %d to %d", first, last)
	}
	if tail := l.stable.record.Load().Tail; last < tail {
		return fmt.Errorf("the log ends at entry %d, but entries up to %d were stored", last, tail)
	}
	var term uint64
	for index := first; index <= last && last > 0; index++ {
		var entry raft.Log
		err := l.read(index, &entry)
		if l.stable.record.Load().isOld(index) && errors.Is(err, raft.ErrLogNotFound) {
			l.severed = first
			l.dropFrom(0)
			continue
		}
		if err != nil {
			return err
		}
		if entry.Term < term || entry.Term > current {
			return fmt.Errorf("entry %d is of term %d, between ones of term %d and the node's term %d", index, entry.Term, term, current)
		}
		term = entry.Term
		l.append(&entry)
	}
	if _, reached := l.Bounds(); reached != last {
		return fmt.Errorf("entry %d, the last one, is missing", last)
	}
	return nil
}
