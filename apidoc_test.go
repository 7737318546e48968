package kvraft

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// A function with such a parameter is an option that go doc lists beside no type.
func TestNoExportedFunctionHasAParameterOfAnUnexportedType(t *testing.T) {
	seen := 0
	for _, dir := range []string{".", "http", "kvrafttest", "kvrafttest/memnet", "serf"} {
		eachExportedFunc(t, dir, func(f *ast.FuncDecl) {
			seen++
			for _, param := range f.Type.Params.List {
				of := param.Type
				if star, ok := of.(*ast.StarExpr); ok {
					of = star.X
				}
				if name, ok := of.(*ast.Ident); ok && !name.IsExported() && types.Universe.Lookup(name.Name) == nil {
					t.Errorf("%s: %s takes a %s", dir, f.Name.Name, name.Name)
				}
			}
		})
	}
	if seen < 30 {
		t.Errorf("%d functions were found: the test shows nothing", seen)
	}
}

// eachExportedFunc calls f for each exported function of a package that is no method.
func eachExportedFunc(t *testing.T, dir string, f func(*ast.FuncDecl)) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.IsExported() {
				f(fn)
			}
		}
	}
}

func TestAnOptionQualifiesTheCallsOfOneType(t *testing.T) {
	all := []reflect.Type{
		reflect.TypeFor[ReadOption](), reflect.TypeFor[WriteOption](), reflect.TypeFor[WatchOption](),
		reflect.TypeFor[JoinOption](), reflect.TypeFor[RemoveOption](),
	}
	for _, option := range []any{
		Linearizable, LeaderLocal, Stale, MaxStaleness(time.Second), AtLeast(1),
		IfVersion(1), WithCreated(new(bool)), WithRequestID(RequestID{}),
		After(1), SnapshotFirst, SharedValues, SyncEvery(time.Second),
		Replica, Force, MayReturn, IfSilent,
	} {
		fits := 0
		for _, u := range all {
			if reflect.TypeOf(option).Implements(u) {
				fits++
			}
		}
		if fits != 1 {
			t.Errorf("%T is an option of %d types", option, fits)
		}
	}
}

func TestALevelThatIsNoneIsLinearizable(t *testing.T) {
	if o := gather[readOptions]([]ReadOption{Stale, ReadLevel(77)}); o.level != Linearizable {
		t.Errorf("it reads at level %d", o.level)
	}
}
