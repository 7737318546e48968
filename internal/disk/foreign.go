package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/kvraft/kvraft/internal/boltlog"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
)

// A directory that holds data of another program's raft is refused, whether or not there
// is a raft.db among them: to begin beside them would be to lose them from sight, and to
// call them damaged would be to advise that they be removed. Any other files are no
// hindrance.

// foreignFiles are what programs keep beside the log of their raft, or have one in that is
// not raft-boltdb's. All patterns must match.
var foreignFiles = []struct {
	program  string
	patterns []string
}{
	{"Vault", []string{"vault.db"}},
	{"rqlite", []string{"db.sqlite", "raft.db"}},
	{"rqlite", []string{"[rw]snapshots", "raft.db"}},
	{"a server such as Consul or Nomad", []string{"raft/raft.db"}},
	{"a server such as Consul or Nomad", []string{"raft/wal"}},
	{"a program with raft-wal", []string{"wal-meta.db"}},
	{"etcd", []string{"member/wal"}},
	{"etcd's raftexample", []string{"raftexample-[0-9]*"}},
	{"dqlite", []string{"metadata[12]", "open-[0-9]*"}},
	{"raftd, or another program on goraft", []string{"log", "snapshot", "name"}},
	{"a program on goraft", []string{"log", "snapshot", "conf"}},
	{"hraftd of 2016, or another program on a raft from before protocol version 3", []string{"peers.json", "raft.db"}},
}

// NameForeign is what came of the first look at the data, err, or an [errs.Foreign] in
// place of it if the data are another program's. Only the user knows what else is in the
// directory when the log store is theirs.
func (l *Log) NameForeign(err error) error {
	_, own := l.base.(borrowed)
	return nameForeign(l.dir, l.base, own, err)
}

// nameForeign is NameForeign for what was found of a log in dir; nil: nothing.
func nameForeign(dir string, base Store, own bool, err error) error {
	if boltlog.HasMark(filepath.Join(dir, boltlog.Name)) || hasRecord(base) {
		return err // they are a node's
	}
	what, log := "", filepath.Join(dir, boltlog.Name)
	if own {
		log = "the log store"
	} else {
		what = foreignIn(dir)
	}
	var odd errs.Unfamiliar
	switch {
	case what != "":
	case errors.As(err, &odd):
		what = log + ": " + odd.Error()
	case errors.Is(err, errs.Damaged) && !hasHraftdsCommand(base):
		what = log + ": its commands are neither kvraft's nor hraftd's"
	default:
		return err
	}
	return fmt.Errorf("%w: %s; name an empty directory", errs.Foreign, what)
}

func hasRecord(base Store) bool {
	if base == nil {
		return false
	}
	var record []byte
	err := boltlog.Contain(func() (err error) {
		record, err = getStable(base, boltlog.RecordKey)
		return err
	})
	return err != nil || len(record) > 0
}

// hasHraftdsCommand reports whether there is a command of hraftd's, or no command at all:
// another program's log has some, and none of hraftd's.
func hasHraftdsCommand(base Store) bool {
	if base == nil {
		return true
	}
	commands, found := false, false
	_ = boltlog.Contain(func() error {
		first, _ := base.FirstIndex()
		last, err := base.LastIndex()
		for index := first; index <= last && last > 0 && !found; index++ {
			var entry raft.Log
			if base.GetLog(index, &entry) != nil || entry.Type != raft.LogCommand {
				continue
			}
			commands = true
			_, err := command.DecodeLegacy(entry.Data)
			found = err == nil
		}
		return err
	})
	return found || !commands
}

// foreignIn tells which program's data are in dir; empty: nobody's.
func foreignIn(dir string) string {
	for _, known := range foreignFiles {
		if matches := matchAll(dir, known.patterns); len(matches) > 0 {
			return fmt.Sprintf("%s holds data of %s (%s)", dir, known.program, strings.Join(matches, ", "))
		}
	}
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasPrefix(name, boltlog.Name) && entry.Type().IsRegular() && boltlog.IsFile(filepath.Join(dir, name)) {
			return fmt.Sprintf("%s holds the log of a program on hashicorp/raft, such as raft-kv-example (%s)", dir, name)
		}
	}
	return ""
}

// matchAll returns a file in dir for each pattern, or nothing if there is none for one.
func matchAll(dir string, patterns []string) (matches []string) {
	for _, pattern := range patterns {
		found, _ := fs.Glob(os.DirFS(dir), pattern) // the patterns are good ones
		if len(found) == 0 {
			return nil
		}
		matches = append(matches, found[0])
	}
	return matches
}
