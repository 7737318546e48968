package disk

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/raftrpc"
	"github.com/kvraft/kvraft/internal/wal"
)

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
	Dir         string        // the data directory
	Store       Store         // the user's own, in place of files in Dir; nil: none
	Name        string        // what errors call the store, such as the path of its file; empty: log store
	CacheBytes  int64         // of the newest entries kept in memory; 0: 64 MiB
	SegmentSize int64         // of the log's files, in bytes; 0: wal.DefaultSegmentSize
	Stall       time.Duration // a small write that lasts longer stops the node; 0: no limit
	Logger      hclog.Logger  // nil: none

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
	// OpenLog is told which log the record names, and up to which index it counts on it;
	// "": none.
	OpenLog(name string, tail uint64) error
	// Entries reads the entries that the store has between first and last, or why it
	// cannot.
	Entries(first, last uint64, visit func(index uint64, entry *raft.Log, err error) error) error
	// OpenForWriting makes what is not there yet. The log is from first to last; its name
	// is for the record, if it has one.
	OpenForWriting(first, last uint64) (name string, err error)
	// Adopt makes the log that the record names from now on the one that is written to. The
	// record has been written since OpenForWriting.
	Adopt(name string) error
	// Doubt is what a crash has left open about the end of the log.
	Doubt() wal.Doubt
	// Tidy removes what crashes have left, once the node has begun to write.
	Tidy() error
	Close() error
}

// borrowed is a store of the user's: it is open, and theirs to close.
type borrowed struct{ Store }

func (b borrowed) Entries(first, last uint64, visit func(uint64, *raft.Log, error) error) error {
	return readEntries(b.Store, first, last, visit)
}

func (borrowed) OpenForWriting(uint64, uint64) (string, error) { return "", nil }
func (borrowed) Adopt(string) error                            { return nil }
func (borrowed) Doubt() wal.Doubt                              { return wal.Doubt{} }
func (borrowed) Tidy() error                                   { return nil }
func (borrowed) Close() error                                  { return nil }

func (borrowed) OpenLog(name string, _ uint64) error {
	if name != "" {
		return fmt.Errorf("%w: its record is that of a node with a log of its own, in %s", errs.Damaged, logDir)
	}
	return nil
}

// readEntries reads entries one by one.
func readEntries(from raft.LogStore, first, last uint64, visit func(uint64, *raft.Log, error) error) error {
	for index := first; index <= last && last > 0; index++ {
		var entry raft.Log // a new one: a decoder may keep what it does not find, or write into old slices
		err := boltlog.Contain(func() error { return from.GetLog(index, &entry) })
		if err := visit(index, &entry, err); err != nil {
			return err
		}
	}
	return nil
}

// readOnly lets nothing through to an engine that would change it.
type readOnly struct{ engine }

func (readOnly) StoreLog(*raft.Log) error                      { return nil }
func (readOnly) StoreLogs([]*raft.Log) error                   { return nil }
func (readOnly) DeleteRange(uint64, uint64) error              { return nil }
func (readOnly) Set([]byte, []byte) error                      { return nil }
func (readOnly) SetUint64([]byte, uint64) error                { return nil }
func (readOnly) OpenForWriting(uint64, uint64) (string, error) { return "", nil }
func (readOnly) Adopt(string) error                            { return nil }
func (readOnly) Tidy() error                                   { return nil }

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
	err := l.openBase(opt.Store, opt.SegmentSize)
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

func (l *Log) openBase(own Store, segmentSize int64) error {
	if own != nil {
		l.base, l.atOnce = borrowed{own}, deleteChunk
		return nil
	}
	l.atOnce = math.MaxUint64
	base, err := openFiles(l.dir, wal.Options{SegmentSize: segmentSize, Logger: l.log})
	if err == nil {
		l.base = base
	}
	return err
}

// OpenForWriting is the second step. It writes the record, even if it is the same, so that
// another process that has read the log before knows that there was this start. The log of
// what is hraftd's is left when the record makes it kvraft's.
func (l *Log) OpenForWriting() (err error) {
	first, last := l.Bounds()
	err = boltlog.Contain(func() (err error) { // a log that is copied is read once more
		l.logName, err = l.base.OpenForWriting(first, last)
		return err
	})
	if err != nil || l.hraftds || l.logName == "" {
		return err
	}
	if err := l.stable.nameLog(l.logName); err != nil {
		return err
	}
	return l.base.Adopt(l.logName)
}

// PretendWriting takes the place of OpenForWriting where nothing may be written. What the
// log store is told to write it knows from then on all the same.
func (l *Log) PretendWriting() {
	l.base = readOnly{l.base}
	l.stable.base = l.base
}

// Doubt is what a crash has left open about the end of the log; see there.
func (l *Log) Doubt() wal.Doubt { return l.base.Doubt() }

// SetHooks is for when raft has started.
func (l *Log) SetHooks(h Hooks) { l.hooks.Store(&h) }

// Tidy removes what crashes have left beside the log, and what is elsewhere by now.
func (l *Log) Tidy() error { return boltlog.Contain(l.base.Tidy) }

func (l *Log) load() (err error) {
	if l.fresh, l.hraftds, err = l.stable.load(); err != nil {
		return err
	}
	record := l.stable.record.Load()
	if err := l.base.OpenLog(record.Log, record.Tail); err != nil {
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
	if err := l.base.Entries(first, last, entryLoader(l, first, current)); err != nil {
		return err
	}
	if _, reached := l.Bounds(); reached != last {
		return fmt.Errorf("entry %d, the last one, is missing", last)
	}
	return nil
}

// entryLoader takes the entries of a log that begins with first, each after its check.
func entryLoader(l *Log, first, current uint64) func(uint64, *raft.Log, error) error {
	record, term := l.stable.record.Load(), uint64(0)
	return func(index uint64, entry *raft.Log, err error) error {
		if record.isOld(index) && errors.Is(err, raft.ErrLogNotFound) {
			l.severed = first
			l.dropFrom(0)
			return nil
		}
		if err != nil {
			return fmt.Errorf("read entry %d: %w", index, err)
		}
		if err := record.verifyEntry(entry, index); err != nil {
			return err
		}
		if entry.Term < term || entry.Term > current {
			return fmt.Errorf("entry %d is of term %d, between ones of term %d and the node's term %d", index, entry.Term, term, current)
		}
		term = entry.Term
		l.append(entry)
		return nil
	}
}
