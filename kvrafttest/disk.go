package kvrafttest

import (
	"encoding/binary"
	"errors"
	"maps"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft"
)

// ErrCrashed is what every operation on a [Disk] returns to the process that
// had it open when it crashed.
var ErrCrashed = errors.New("kvrafttest: the machine has crashed")

// Operation is one call that is about to be made on a [Disk].
type Operation struct {
	Name string // the method: "StoreLogs", "GetLog", "DeleteRange", "Set", ...
	N    int    // how many calls there were before it, of any name
}

// Disk keeps a node's log, term and vote in memory, across crashes and restarts
// of the node. What a call has stored when it returns is safe; what a crash
// interrupts is not stored.
type Disk struct {
	mu       sync.Mutex
	logs     map[uint64]raft.Log // guarded by mu
	first    uint64              // guarded by mu; 0: there are none
	last     uint64              // guarded by mu
	stable   map[string][]byte   // guarded by mu
	count    int                 // guarded by mu
	fault    func(Operation) error
	mounting int // guarded by mu: how often it was opened; older handles are dead

	resumed chan struct{} // guarded by mu: closed when operations go on; nil: they do
}

// NewDisk returns an empty disk.
func NewDisk() *Disk {
	return &Disk{logs: map[uint64]raft.Log{}, stable: map[string][]byte{}}
}

// SetFault has f called before each operation. An error from it fails the
// operation, and nothing is stored; a wait in it is a slow disk; one that never
// ends is a hung disk. nil ends the faults.
func (d *Disk) SetFault(f func(Operation) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// Pause makes operations wait until Resume or Crash.
func (d *Disk) Pause() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.resumed == nil {
		d.resumed = make(chan struct{})
	}
}

// Resume lets operations go on.
func (d *Disk) Resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.resume()
}

// resume ends a pause; mu is held.
func (d *Disk) resume() {
	if d.resumed != nil {
		close(d.resumed)
		d.resumed = nil
	}
}

// Open returns the disk as a node sees it. Whoever had it open gets ErrCrashed
// from then on.
func (d *Disk) Open() kvraft.LogStore {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mounting++
	return &mount{d, d.mounting}
}

// Crash takes the disk away from the node that has it open.
func (d *Disk) Crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mounting++
	d.resume()
}

// Clone returns a disk with the same content: what a backup of the whole disk
// would be.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Disk{logs: maps.Clone(d.logs), first: d.first, last: d.last, stable: maps.Clone(d.stable)}
}

// mount is a disk as one process has it open.
type mount struct {
	disk   *Disk
	number int
}

// do runs f on the disk, under its lock, unless a fault comes before it.
func (m *mount) do(name string, f func(*Disk) error) error {
	d := m.disk
	d.mu.Lock()
	op, fault, resumed := Operation{name, d.count}, d.fault, d.resumed
	d.count++
	d.mu.Unlock()
	if resumed != nil {
		<-resumed
	}
	if fault != nil {
		if err := fault(op); err != nil { // may wait: the lock is not held
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.number != d.mounting {
		return ErrCrashed
	}
	return f(d)
}

func (m *mount) FirstIndex() (first uint64, err error) {
	err = m.do("FirstIndex", func(d *Disk) error { first = d.first; return nil })
	return first, err
}

func (m *mount) LastIndex() (last uint64, err error) {
	err = m.do("LastIndex", func(d *Disk) error { last = d.last; return nil })
	return last, err
}

func (m *mount) GetLog(index uint64, log *raft.Log) error {
	return m.do("GetLog", func(d *Disk) error {
		entry, ok := d.logs[index]
		if !ok {
			return raft.ErrLogNotFound
		}
		*log = entry
		return nil
	})
}

func (m *mount) StoreLog(log *raft.Log) error { return m.StoreLogs([]*raft.Log{log}) }

func (m *mount) StoreLogs(logs []*raft.Log) error {
	return m.do("StoreLogs", func(d *Disk) error {
		for _, log := range logs {
			if d.first == 0 || log.Index < d.first {
				d.first = log.Index
			}
			d.last = max(d.last, log.Index)
			d.logs[log.Index] = *log
		}
		return nil
	})
}

func (m *mount) DeleteRange(from, to uint64) error {
	return m.do("DeleteRange", func(d *Disk) error { // kvraft deletes at either end only
		for index := from; index <= to; index++ {
			delete(d.logs, index)
		}
		if from <= d.first {
			d.first = to + 1
		}
		if to >= d.last {
			d.last = from - 1
		}
		if d.first > d.last {
			d.first, d.last = 0, 0
		}
		return nil
	})
}

// errNotFound has the text by which raft knows an absent key.
var errNotFound = errors.New("not found")

func (m *mount) Set(key, value []byte) error {
	return m.do("Set", func(d *Disk) error {
		d.stable[string(key)] = append([]byte(nil), value...)
		return nil
	})
}

func (m *mount) Get(key []byte) (value []byte, err error) {
	err = m.do("Get", func(d *Disk) error {
		stored, ok := d.stable[string(key)]
		if !ok {
			return errNotFound
		}
		value = append([]byte(nil), stored...)
		return nil
	})
	return value, err
}

func (m *mount) SetUint64(key []byte, value uint64) error {
	return m.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

func (m *mount) GetUint64(key []byte) (uint64, error) {
	value, err := m.Get(key)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(value), nil
}
