package kvraft_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// How large a room may be: the files of the root package, the lines of a file, and the
// methods of a type with those of what it embeds.
const (
	mostRootFiles = 14
	mostLines     = 450
	mostMethods   = 60
)

// rows has the packages of the module, those of internal by their names. A package may
// import those of the rows above its own. What links nothing of the module comes first.
var rows = []string{
	"command errs sleep durable progress connlimit logqueue ownaddr raftlog kvrafttest/memnet",
	"roster state life pace loglimit raftrpc boltlog disktest",
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

// source is a package without its tests.
type source struct {
	files    []string
	imports  map[string]bool
	methods  map[string]int      // of a type's own
	embedded map[string][]string // types of the package, by the struct that embeds them
}

func TestAPackageImportsOnlyWhatIsBelowIt(t *testing.T) {
	row := map[string]int{}
	for i, names := range rows {
		for name := range strings.FieldsSeq(names) {
			row[name] = i
		}
	}
	for name, p := range readModule(t) {
		mine, ok := row[name]
		if !ok {
			t.Errorf("package %s is in no row", name)
		}
		for path := range p.imports {
			if slices.Contains(raftless, name) && path == "github.com/hashicorp/raft" {
				t.Errorf("package %s imports %s", name, path)
			}
			if inside, ok := moduleName(path); ok && row[inside] >= mine {
				t.Errorf("package %s imports %s, which is not above it in the rows", name, inside)
			}
		}
	}
}

func TestNoRoomIsTooLarge(t *testing.T) {
	for name, p := range readModule(t) {
		if name == "." && len(p.files) > mostRootFiles {
			t.Errorf("%d files in the root, want at most %d", len(p.files), mostRootFiles)
		}
		for _, path := range p.files {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if lines := bytes.Count(text, []byte("\n")); lines > mostLines {
				t.Errorf("%s has %d lines, want at most %d", path, lines, mostLines)
			}
		}
		for of := range p.methods {
			if n := p.methodsOf(of); n > mostMethods {
				t.Errorf("type %s of package %s has %d methods, want at most %d", of, name, n, mostMethods)
			}
		}
	}
}

// methodsOf counts the methods of a type, with those of what it embeds, each once.
func (p *source) methodsOf(name string) (n int) {
	seen := map[string]bool{}
	var count func(name string)
	count = func(name string) {
		if !seen[name] {
			seen[name] = true
			n += p.methods[name]
			for _, embedded := range p.embedded[name] {
				count(embedded)
			}
		}
	}
	count(name)
	return n
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

// readModule parses the module's packages, but for those that are modules of their own.
func readModule(t *testing.T) map[string]*source {
	packages := map[string]*source{}
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
			packages[name] = &source{imports: map[string]bool{}, methods: map[string]int{}, embedded: map[string][]string{}}
		}
		return packages[name].read(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

func (p *source) read(path string) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	p.files = append(p.files, path)
	for _, i := range file.Imports {
		imported, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return err
		}
		p.imports[imported] = true
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv != nil {
				p.methods[typeName(n.Recv.List[0].Type)]++
			}
			return false
		case *ast.TypeSpec:
			if s, ok := n.Type.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					if field.Names == nil {
						p.embedded[n.Name.Name] = append(p.embedded[n.Name.Name], typeName(field.Type))
					}
				}
			}
		}
		return true
	})
	return nil
}

// typeName is the name of a type of the same package, which may be generic or pointed to.
func typeName(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return typeName(t.X)
	case *ast.IndexExpr:
		return typeName(t.X)
	case *ast.Ident:
		return t.Name
	}
	return ""
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
