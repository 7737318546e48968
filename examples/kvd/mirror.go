package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
)

// The names of the mirror's own files, which no key has.
const (
	markerName = "%mirror"
	newName    = "%new" // what is being written
)

// errNoMirror is the error of a directory that is not to be touched.
var errNoMirror = errors.New("not a directory for a mirror")

// mirror keeps every key of a store as a file. The directory is its own: what is in it
// and is no key's file is deleted. Files are replaced whole, so that the process may
// end at any moment; they are not synced to disk, since each start compares them.
type mirror struct {
	dir   string
	id    string // of the node
	mode  fileMode
	store *kvraft.Store
	log   hclog.Logger

	root    *os.Root
	failed  error         // the first since all files were compared; nil: they are right
	failing int           // how many
	next    time.Time     // when they may be compared again
	pause   time.Duration // until then; it grows while that does not help
}

const shortestPause, longestPause = time.Second, time.Minute

// checkMirror refuses a directory that cannot be meant, before anything is written to
// DIR. Another node's mirror is told by startMirror where the id is not known before.
func checkMirror(c config) error {
	if c.mirror == "" {
		return nil
	}
	m := &mirror{dir: c.mirror, id: c.id.value, mode: c.mode}
	defer m.close()
	addr := cmp.Or(c.advertise, c.raddr.value)
	if host, _, _ := net.SplitHostPort(addr); m.id == "" && orLocalhost(host) == host && (c.inMem || isNew(c.dir)) {
		m.id = addr // as it will be called
	}
	marked := false
	err := checkApart(c)
	if err == nil {
		err = m.enter()
	}
	if err == nil {
		marked, err = m.isMarked()
	}
	if err == nil && !marked {
		if err = m.write(newName, nil); err == nil {
			err = m.root.Remove(newName)
		}
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("-mirror %s: %w; name a directory that this user may write to", c.mirror, err)
	case errors.Is(err, errNoMirror):
		return fmt.Errorf("-mirror %s: %w", c.mirror, err)
	}
	return nil
}

// startMirror mirrors the store, if it is to, until that closes. It fails if the
// directory cannot be meant; trouble with the disk it waits out.
func startMirror(c config, store *kvraft.Store, log hclog.Logger) error {
	if c.mirror == "" {
		return nil
	}
	m := &mirror{dir: c.mirror, id: store.Status().ID, mode: c.mode, store: store, log: log, pause: shortestPause}
	if err := m.open(); errors.Is(err, errNoMirror) {
		return fmt.Errorf("-mirror %s: %w", c.mirror, err)
	}
	go m.run() // which tells other errors
	return nil
}

// checkApart keeps a mirror from deleting the node's data.
func checkApart(c config) error {
	if c.inMem {
		return nil
	}
	data, err := resolved(c.dir, maxLinks)
	dir := ""
	if err == nil {
		dir, err = resolved(c.mirror, maxLinks)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", errNoMirror, err)
	}
	if within(dir, data) || within(data, dir) {
		return fmt.Errorf("%w: neither it nor the data in %s may be in the other", errNoMirror, data)
	}
	return nil
}

// maxLinks is how many links that lead nowhere are followed.
const maxLinks = 40

// resolved is dir without symbolic links, as far as it exists; and beyond that by where
// links lead that lead nowhere yet.
func resolved(dir string, links int) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if !errors.Is(err, fs.ErrNotExist) {
		return real, err
	}
	parent, err := resolved(filepath.Dir(abs), links)
	if err != nil {
		return "", err
	}
	path := filepath.Join(parent, filepath.Base(abs))
	target, err := os.Readlink(path)
	switch {
	case err != nil:
		return path, nil
	case links == 0:
		return "", fmt.Errorf("%s: %w", dir, syscall.ELOOP)
	case !filepath.IsAbs(target):
		target = filepath.Join(parent, target)
	}
	return resolved(target, links-1)
}

func within(dir, other string) bool {
	rel, err := filepath.Rel(dir, other)
	return err == nil && filepath.IsLocal(rel)
}

// run follows the store until it closes.
func (m *mirror) run() {
	defer m.close()
	for {
		err := m.follow()
		switch {
		case m.store.Err() != nil:
			return
		case errors.Is(err, kvraft.ErrCompacted): // the disk is slower than the writes for now
			continue
		}
		m.log.Error("the mirror is not up to date; it is tried again", "dir", m.dir, "failures", max(1, m.failing), "error", err)
		select {
		case <-time.After(time.Until(m.next)):
		case <-m.store.Done():
			return
		}
		m.pause = min(2*m.pause, longestPause)
	}
}

// follow brings all files up to date, and then one after the other. It returns what
// has failed when it is time to compare all of them again.
func (m *mirror) follow() error {
	m.next = time.Now().Add(m.pause)
	if err := m.open(); err != nil {
		return err
	}
	ctx := context.Background() // the store ends what waits
	view, err := m.store.View(ctx)
	if err != nil {
		return err
	}
	wasFailing := m.failing > 0
	m.failed, m.failing = nil, 0
	began := time.Now()
	m.compare(view)
	m.next = time.Now().Add(max(m.pause, 10*time.Since(began))) // a tenth of the time at most
	if m.failed == nil {
		m.pause = shortestPause
		if wasFailing {
			m.log.Info("the mirror is up to date again", "dir", m.dir)
		}
	}
	for e, err := range m.store.Watch(ctx, "", kvraft.After(view.Version()), kvraft.SyncEvery(shortestPause)) {
		switch {
		case err != nil:
			return err
		case e.Kind == kvraft.EventSet:
			m.failWith(e.Key, m.put(e.Key, e.Value))
		case e.Kind == kvraft.EventDelete:
			m.failWith(e.Key, m.remove(e.Key))
		}
		if m.failed != nil && time.Now().After(m.next) {
			break
		}
	}
	return m.failed
}

func (m *mirror) failWith(key string, err error) {
	if err != nil {
		m.fail(fmt.Errorf("the file of key %.100q: %w", key, err))
	}
}

func (m *mirror) fail(err error) {
	if err == nil {
		return
	}
	if m.failed == nil {
		m.failed = err
	}
	m.failing++
}

// open opens the directory anew: it may have been replaced.
func (m *mirror) open() error {
	if err := m.enter(); err != nil {
		return err
	}
	if err := m.root.Remove(newName); err != nil && !isAbsent(err) {
		return err
	}
	return m.mark()
}

func (m *mirror) enter() (err error) {
	m.close()
	if err := os.MkdirAll(m.dir, m.dirPerm()); errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%w: %w", errNoMirror, err)
	} else if err != nil {
		return err
	}
	m.root, err = os.OpenRoot(m.dir)
	return err
}

func (m *mirror) close() {
	if m.root != nil {
		_ = m.root.Close() // nothing was written to it
		m.root = nil
	}
}

// mark sees to it that the directory is this node's mirror, or makes an empty one so.
func (m *mirror) mark() error {
	marked, err := m.isMarked()
	if err == nil && !marked {
		err = m.write(markerName, m.marker())
	}
	if err != nil {
		return err
	}
	if _, err := m.root.Lstat(strings.ToUpper(markerName)); err == nil {
		return fmt.Errorf("%w: its file system takes names in capitals for the same", errNoMirror)
	}
	return nil
}

func (m *mirror) marker() []byte {
	return []byte("This is the mirror of kvd node " + m.id + ", which deletes whatever else is here.\n")
}

// isMarked reports whether the directory is this node's mirror, and not an empty one.
// Without an id it is any node's.
func (m *mirror) isMarked() (bool, error) {
	found, err := m.root.ReadFile(markerName)
	switch {
	case isAbsent(err):
		return false, m.checkEmpty()
	case err != nil:
		return false, err
	case m.id != "" && !bytes.Equal(found, m.marker()):
		return false, fmt.Errorf("%w: %s in it says %q; name another directory", errNoMirror, markerName, bytes.TrimSpace(found))
	}
	return true, nil
}

func (m *mirror) checkEmpty() error {
	dir, err := m.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, name := range names {
		if name != newName { // which a start may have left that was cut off
			return fmt.Errorf("%w: it is not empty, there is %q in it; name one that is, or does not exist", errNoMirror, name)
		}
	}
	return nil
}

// compare makes the files those of view. It deletes first, which may make room.
func (m *mirror) compare(view *kvraft.View) {
	m.fail(m.clean(view, nil))
	for e := range view.All() {
		if !m.has(view, e) {
			m.failWith(e.Key, m.put(e.Key, e.Value))
		}
	}
}

// clean deletes what is no key's file, or not where it belongs.
func (m *mirror) clean(view *kvraft.View, dir []string) error {
	list, err := m.list(join(dir))
	if err != nil {
		return err
	}
	for _, f := range list {
		path := append(dir[:len(dir):len(dir)], f.Name())
		if f.IsDir() {
			if info, err := f.Info(); err == nil && m.shows(info, m.dirPerm()) {
				_ = m.root.Chmod(join(path), m.dirPerm()) // some file systems have no permissions
			}
			m.fail(m.clean(view, path))
			if err := m.root.Remove(join(path)); err != nil && !isNotEmpty(err) {
				m.fail(err)
			}
			continue
		}
		if len(path) == 1 && f.Name() == markerName {
			continue
		}
		key, besideDir, ok := keyOf(path)
		if ok {
			_, ok = view.Get(key)
		}
		if !ok || !f.Type().IsRegular() || besideDir != isBeside(view, key) {
			m.fail(m.root.Remove(join(path)))
		}
	}
	return nil
}

func (m *mirror) list(name string) ([]fs.DirEntry, error) {
	dir, err := m.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.ReadDir(-1)
}

// isBeside reports whether the file of key is beside a directory of its name.
func isBeside(view *kvraft.View, key string) bool {
	if !canBeDirectory(key) {
		return false
	}
	for range view.Prefix(key + "/") {
		return true
	}
	return false
}

// has reports whether the file of e is right.
func (m *mirror) has(view *kvraft.View, e kvraft.Entry) bool {
	name := join(pathOf(e.Key))
	if isBeside(view, e.Key) {
		name += beside
	}
	info, err := m.root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || m.shows(info, m.perm()) || info.Size() != int64(len(e.Value)) {
		return false
	}
	content, err := m.root.ReadFile(name)
	return err == nil && bytes.Equal(content, e.Value)
}
