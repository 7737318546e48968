package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/internal/durable"
)

// memoryFile in DIR holds what the node was started with, so that kvd DIR alone
// starts it again as it was: a JSON object of flags, by name, as they would be given.
const memoryFile = "kvd.json"

// remembered are the flags that say what the node is.
var remembered = [...]string{
	"id", "haddr", "raddr", "advertise", "join", "bootstrap-expect", "replica", "leave-on-exit",
	"serf", "serf-join", "serf-key-file", "serf-heal", "mirror", "mirror-mode",
}

// ofFiles are those of remembered whose values are paths: a later start may be made
// from another directory.
var ofFiles = [...]string{"serf-key-file", "mirror"}

type memory map[string]string

// readMemory returns nil where nothing is remembered.
func readMemory(dir string) (memory, error) {
	text, err := os.ReadFile(filepath.Join(dir, memoryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m memory
	err = json.Unmarshal(text, &m)
	if err == nil && m == nil {
		err = errors.New("it is null")
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err == nil && !slices.Contains(remembered[:], name) {
			err = fmt.Errorf("no flag %q is remembered", name)
		}
	}
	return m, blame(dir, err)
}

// blame says whose fault err is, and what to do.
func blame(dir string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w; correct it, or remove it and give the flags again that are not to have their defaults",
		filepath.Join(dir, memoryFile), err)
}

// recall sets the flags that were not given to what is remembered of them.
func (m memory) recall(dir string, flags *flag.FlagSet) error {
	given := map[flag.Value]bool{} // a flag may have several names, and has one value
	flags.Visit(func(f *flag.Flag) { given[f.Value] = true })
	for _, name := range remembered {
		value, known := m[name]
		if !known || given[flags.Lookup(name).Value] {
			continue
		}
		if err := flags.Set(name, value); err != nil {
			return blame(dir, fmt.Errorf("%q: %q: %w", name, value, err))
		}
	}
	return nil
}

// remember makes DIR remember the flags of a node that has been opened.
func (c config) remember(st kvraft.Status, log hclog.Logger) error {
	if c.inMem {
		return nil
	}
	m := memory{}
	for _, name := range remembered {
		if value := c.flags.Lookup(name).Value.String(); value != "" {
			m[name] = value
		}
	}
	for _, name := range ofFiles {
		if m[name] == "" {
			continue
		}
		path, err := filepath.Abs(m[name])
		if err != nil {
			return err
		}
		m[name] = path
	}
	m["id"] = st.ID
	if c.replica && st.Voter {
		log.Warn("-replica has no effect, and is forgotten: this node is a voter; to make it a replica, remove it, empty its directory and let it join again")
		m["replica"] = "false"
	}
	return m.write(c.dir)
}

// rememberMoved makes dir remember another peer address, if it remembers any. Where
// one port serves HTTP as well, that goes along.
func rememberMoved(dir, addr string) error {
	m, err := readMemory(dir)
	if err != nil || m == nil {
		return err
	}
	if m["advertise"] != "" {
		m["advertise"] = addr
		return m.write(dir)
	}
	if m["haddr"] == m["raddr"] {
		m["haddr"] = addr
	}
	m["raddr"] = addr
	return m.write(dir)
}

// write replaces the file, unless it says the same already. After a crash it is the
// old or the new one.
func (m memory) write(dir string) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	path := filepath.Join(dir, memoryFile)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	next := path + ".tmp"
	if err := writeFile(next, text); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

func writeFile(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
