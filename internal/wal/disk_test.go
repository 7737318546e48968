package wal

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
)

var errPower = errors.New("there is no power")

// testDisk is a directory that loses at a power cut, sector by sector and name by name, any
// part of what was not synced. It can fail any of its operations.
type testDisk struct {
	rand  *rand.Rand
	names map[string]*testFile
	// durable are the names that a power cut cannot take, and unsynced what else was done
	// to them.
	durable  map[string]*testFile
	unsynced []func(names map[string]*testFile)

	operations int // that change something
	failAt     int // the operation that fails; 0: none
	failure    error
	failed     bool
	after      int // operations tried after the one that failed

	noDescriptors bool
}

// testFile is a file of a testDisk.
type testFile struct {
	disk     *testDisk
	content  []byte
	durable  []byte
	unsynced []testWrite
}

type testWrite struct {
	offset int64
	data   []byte
}

func newTestDisk(seed uint64) *testDisk {
	return &testDisk{rand: rand.New(rand.NewPCG(seed, 0)), names: map[string]*testFile{}, durable: map[string]*testFile{}}
}

// step is called by each operation that changes something. full says that the operation
// may find the disk full.
func (d *testDisk) step(full bool) error {
	d.operations++
	if d.failed {
		d.after++
	}
	if d.failAt == 0 || d.operations < d.failAt || d.failure != errPower && d.failed {
		return nil
	}
	if errors.Is(d.failure, syscall.ENOSPC) && !full {
		return nil // the next one that takes space fails
	}
	d.failed = true
	return d.failure
}

// cutPower returns the disk as it is when the power is back.
func (d *testDisk) cutPower() *testDisk {
	next := newTestDisk(d.rand.Uint64())
	next.names = maps.Clone(d.durable)
	for _, change := range d.unsynced {
		if d.rand.IntN(2) == 0 {
			change(next.names)
		}
	}
	for name, f := range next.names {
		content := f.afterPowerCut()
		next.names[name] = &testFile{disk: next, content: content, durable: slices.Clone(content)}
	}
	next.durable = maps.Clone(next.names)
	return next
}

// restart returns the disk as it is when the process has ended and begins anew: what was
// not synced is there, and can still be lost.
func (d *testDisk) restart() *testDisk {
	d.failAt, d.failed, d.after = 0, false, 0
	return d
}

func (f *testFile) afterPowerCut() []byte {
	content := slices.Clone(f.durable)
	for _, w := range f.unsynced {
		kept := f.disk.rand.IntN(4) // of the write: all, nothing, or any of its sectors
		for offset := w.offset; offset < w.offset+int64(len(w.data)); {
			end := min((offset/sector+1)*sector, w.offset+int64(len(w.data)))
			if kept == 0 || kept > 1 && f.disk.rand.IntN(2) == 0 {
				content = overwrite(content, offset, w.data[offset-w.offset:end-w.offset])
			}
			offset = end
		}
	}
	return content
}

func overwrite(content []byte, offset int64, data []byte) []byte {
	if missing := offset + int64(len(data)) - int64(len(content)); missing > 0 {
		content = append(content, make([]byte, missing)...)
	}
	copy(content[offset:], data)
	return content
}

func (d *testDisk) change(change func(map[string]*testFile)) {
	change(d.names)
	d.unsynced = append(d.unsynced, change)
}

func (d *testDisk) list() ([]string, error) { return slices.Sorted(maps.Keys(d.names)), nil }

func (d *testDisk) open(name string, writable bool) (file, error) {
	f, ok := d.names[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return f, nil
}

func (d *testDisk) create(name string) (file, error) {
	if err := d.step(true); err != nil {
		return nil, err
	}
	if d.noDescriptors {
		return nil, syscall.EMFILE
	}
	f := &testFile{disk: d}
	d.change(func(names map[string]*testFile) { names[name] = f })
	return f, nil
}

func (d *testDisk) rename(from, to string) error {
	if err := d.step(false); err != nil {
		return err
	}
	f := d.names[from]
	d.change(func(names map[string]*testFile) {
		delete(names, from)
		names[to] = f
	})
	return nil
}

func (d *testDisk) remove(name string) error {
	if err := d.step(false); err != nil {
		return err
	}
	d.change(func(names map[string]*testFile) { delete(names, name) })
	return nil
}

func (d *testDisk) sync() error {
	if err := d.step(false); err != nil {
		return err
	}
	d.durable, d.unsynced = maps.Clone(d.names), nil
	return nil
}

func (d *testDisk) beside(f func()) { f() }

func (d *testDisk) Close() error { return nil }

func (f *testFile) ReadAt(b []byte, offset int64) (int, error) {
	n := copy(b, f.content[min(offset, int64(len(f.content))):])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *testFile) WriteAt(b []byte, offset int64) (int, error) {
	err := f.disk.step(false)
	if err != nil && err != errPower {
		return 0, err
	}
	if err == nil || f.disk.after == 0 { // a cut lets some of the write through
		f.content = overwrite(f.content, offset, b)
		f.unsynced = append(f.unsynced, testWrite{offset, slices.Clone(b)})
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (f *testFile) Sync() error {
	if err := f.disk.step(false); err != nil {
		if err == syscall.EIO { // the system takes it for written
			f.unsynced = nil
		}
		return err
	}
	for _, w := range f.unsynced {
		f.durable = overwrite(f.durable, w.offset, w.data)
	}
	f.unsynced = nil
	return nil
}

func (f *testFile) size() (int64, error) { return int64(len(f.content)), nil }

func (f *testFile) allocate(size int64) error {
	if err := f.disk.step(true); err != nil {
		return err
	}
	if missing := size - int64(len(f.content)); missing > 0 {
		f.unsynced = append(f.unsynced, testWrite{int64(len(f.content)), make([]byte, missing)})
		f.content = append(f.content, make([]byte, missing)...)
	}
	return nil
}

func (f *testFile) Close() error { return nil }
