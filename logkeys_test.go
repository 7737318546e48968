package kvraft

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Programs that read logs take key=value apart at blanks.
func TestTheKeysOfLogLinesAreWords(t *testing.T) {
	word := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	seen := 0
	eachLogCall(t, func(at token.Position, call *ast.CallExpr) {
		seen++
		for i := 1; i < len(call.Args); i += 2 {
			lit, ok := call.Args[i].(*ast.BasicLit)
			if !ok { // args... of a wrapper
				continue
			}
			if key, _ := strconv.Unquote(lit.Value); !word.MatchString(key) {
				t.Errorf("%s: the key %q is no word", at, key)
			}
		}
	})
	if seen < 30 {
		t.Errorf("%d log calls were found: the test shows nothing", seen)
	}
}

// eachLogCall calls f for each call such as log.Info("message", "key", value) of the
// packages of this module.
func eachLogCall(t *testing.T, f func(token.Position, *ast.CallExpr)) {
	t.Helper()
	levels := regexp.MustCompile(`^(Trace|Debug|Info|Warn|Error)$`)
	files := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && (d.Name() == "testdata" || d.Name() == "bench" || strings.HasPrefix(d.Name(), ".") && path != ".") {
			return fs.SkipDir
		}
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if lit, isText := call.Args[0].(*ast.BasicLit); ok && isText && lit.Kind == token.STRING && levels.MatchString(method.Sel.Name) {
				f(files.Position(call.Pos()), call)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
