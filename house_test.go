package kvraft_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rows has the packages of the module, those of internal by their names. A package may
// import those of the rows above its own. What links nothing of the module comes first.
var rows = []string{
	"command tree errs sleep durable progress connlimit logqueue ownaddr raftlog peertls kvrafttest/memnet",
	"roster state life pace loglimit raftrpc boltlog wal disktest",
	"founding feed batch disk wire",
	"snapshots raftnet limits wire/wiretest",
	"node",
	"lead",
	"failover place",
	"watchdog member",
	"joining",
	".",
	"http serf kvrafttest",
	"examples/kvd",
	"scripts/measure scripts/platforms",
}

// raftless are the packages that decide without raft.
var raftless = strings.Fields("command state feed batch")

func TestAPackageImportsOnlyWhatIsBelowIt(t *testing.T) {
	row := map[string]int{}
	for i, names := range rows {
		for name := range strings.FieldsSeq(names) {
			row[name] = i
		}
	}
	for name, imports := range readModule(t) {
		mine, ok := row[name]
		if !ok {
			t.Errorf("package %s is in no row", name)
		}
		for path := range imports {
			if slices.Contains(raftless, name) && path == "github.com/hashicorp/raft" {
				t.Errorf("package %s imports %s", name, path)
			}
			if inside, ok := moduleName(path); ok && row[inside] >= mine {
				t.Errorf("package %s imports %s, which is not above it in the rows", name, inside)
			}
		}
	}
}

// moduleName is the name of a package in the rows.
func moduleName(path string) (string, bool) {
	name, ok := strings.CutPrefix(path+"/", "github.com/kvraft/kvraft/")
	name = strings.TrimSuffix(name, "/")
	if name == "" {
		name = "."
	}
	return strings.TrimPrefix(name, "internal/"), ok
}

// readModule has what the module's packages import, but for those that are modules of their own.
func readModule(t *testing.T) map[string]map[string]bool {
	packages := map[string]map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, mod := os.Stat(filepath.Join(path, "go.mod"))
			if path != "." && (mod == nil || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		name := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "internal/")
		if packages[name] == nil {
			packages[name] = map[string]bool{}
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range file.Imports {
			packages[name][strings.Trim(i.Path.Value, `"`)] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

// ARCHITECTURE.md names functions, and beside them the files in which they are.
func TestTheWaysThroughTheCodeLeadToTheirFunctions(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	links := regexp.MustCompile(`\]\(([^)#]+)\)`)
	for _, link := range links.FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat(link[1]); err != nil {
			t.Error(err)
		}
	}
	steps := regexp.MustCompile(`(?m)^\| [1-8] \| .*$`).FindAllString(string(text), -1)
	if len(steps) != 16 {
		t.Errorf("%d steps, want 8 of a write and 8 of a read", len(steps))
	}
	for _, step := range steps {
		file, err := os.ReadFile(links.FindStringSubmatch(step)[1])
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile("`([A-Za-z]+)`").FindAllStringSubmatch(step, -1) {
			if !regexp.MustCompile(`(?m)^func (\(\w+ \*?\w+\) )?` + name[1] + `\(`).Match(file) {
				t.Errorf("no function %s for the step %s", name[1], step)
			}
		}
	}
}
