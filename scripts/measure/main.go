// Measure prints how a tree of Go packages is cut: files, lines, functions, types.
//
//	go run ./scripts/measure [DIR]
//
// A function's length counts its signature and its braces, its complexity is cyclomatic,
// with && and ||, and has that of the functions in it. Comments are lines of nothing else.
// A type has the methods of what it embeds of its package, too.
package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// figures are of one package.
type figures struct {
	dir              string
	files, lines     int
	largest          int
	comments         int
	testFiles, tests int // tests are lines
	lengths, cycles  []int
	methods          map[string][]string // names, by type
	embedded         map[string][]string // types, by type
}

func main() {
	dir := "."
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	packages, err := measure(dir)
	if err != nil {
		log.Fatal(err)
	}
	if err := report(os.Stdout, packages); err != nil {
		log.Fatal(err)
	}
}

func measure(root string) (packages []*figures, err error) {
	byDir := map[string]*figures{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (name == "testdata" || strings.HasPrefix(name, ".")):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		p := byDir[dir]
		if p == nil {
			p = &figures{dir: dir, methods: map[string][]string{}, embedded: map[string][]string{}}
			byDir[dir] = p
			packages = append(packages, p)
		}
		return p.add(path)
	})
	slices.SortFunc(packages, func(a, b *figures) int { return cmp.Compare(a.dir, b.dir) })
	return packages, err
}

func (p *figures) add(path string) error {
	source, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(string(source), "\n"), "\n")
	if strings.HasSuffix(path, "_test.go") {
		p.testFiles++
		p.tests += len(lines)
		return nil
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, source, parser.ParseComments)
	if err != nil {
		return err
	}
	p.files++
	p.lines += len(lines)
	p.largest = max(p.largest, len(lines))
	for _, group := range file.Comments {
		from, to := fset.Position(group.Pos()), fset.Position(group.End())
		p.comments += to.Line - from.Line
		if strings.TrimSpace(lines[from.Line-1][:from.Column-1]) == "" {
			p.comments++
		}
	}
	p.addTypes(fset, file)
	return nil
}

// addTypes adds functions and methods, and what the types embed.
func (p *figures) addTypes(fset *token.FileSet, file *ast.File) {
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.FuncDecl:
			p.lengths = append(p.lengths, fset.Position(node.End()).Line-fset.Position(node.Pos()).Line+1)
			p.cycles = append(p.cycles, cyclomatic(node))
			if node.Recv != nil {
				of := typeName(node.Recv.List[0].Type)
				p.methods[of] = append(p.methods[of], node.Name.Name)
			}
			return false
		case *ast.TypeSpec:
			if s, ok := node.Type.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					if field.Names == nil {
						p.embedded[node.Name.Name] = append(p.embedded[node.Name.Name], typeName(field.Type))
					}
				}
			}
		}
		return true
	})
}

// typeName is the name of a type of the same package, which may be generic or pointed to.
func typeName(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return typeName(t.X)
	case *ast.IndexExpr:
		return typeName(t.X)
	case *ast.IndexListExpr:
		return typeName(t.X)
	case *ast.Ident:
		return t.Name
	}
	return ""
}

// largestType is the type with the most methods.
func (p *figures) largestType() (of string, most, exported int) {
	for _, name := range slices.Sorted(maps.Keys(p.methods)) {
		if all, public := p.countMethods(name, map[string]bool{}); all > most {
			of, most, exported = name, all, public
		}
	}
	return of, most, exported
}

// countMethods counts those of a type that are not seen yet, and puts it among the seen.
func (p *figures) countMethods(of string, seen map[string]bool) (all, exported int) {
	if seen[of] {
		return 0, 0
	}
	seen[of] = true
	for _, name := range p.methods[of] {
		all++
		if ast.IsExported(name) {
			exported++
		}
	}
	for _, embedded := range p.embedded[of] {
		a, e := p.countMethods(embedded, seen)
		all, exported = all+a, exported+e
	}
	return all, exported
}

func cyclomatic(f *ast.FuncDecl) int {
	n := 1
	ast.Inspect(f, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if node.List != nil {
				n++
			}
		case *ast.CommClause:
			if node.Comm != nil {
				n++
			}
		case *ast.BinaryExpr:
			if node.Op == token.LAND || node.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}

func report(to io.Writer, packages []*figures) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "package\tfiles\tlines\tlargest\tlength p50/p90/max\tcyclomatic p90/max\tcomments\tmost methods (exported)\ttest files/lines")
	for _, p := range packages {
		of, most, exported := p.largestType()
		fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%d/%d/%d\t%d/%d\t%d%%\t%s %d (%d)\t%d/%d\n", p.dir, p.files, p.lines, p.largest,
			quantile(p.lengths, 50), quantile(p.lengths, 90), quantile(p.lengths, 100), quantile(p.cycles, 90), quantile(p.cycles, 100),
			100*p.comments/max(p.lines, 1), of, most, exported, p.testFiles, p.tests)
	}
	return out.Flush()
}

// quantile is the smallest value that so many hundredths of the values do not exceed.
func quantile(values []int, hundredths int) int {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	return values[max(0, (len(values)*hundredths+99)/100-1)]
}
