// Command platforms reports whether the packages of the module in the working directory,
// their tests and all that they import compile for each platform that is named, such as
// linux/386.
//
// It checks the types from source, as the compiler's front end does, and generates no
// code: a platform takes seconds, where go build && go vet take minutes, nearly all of
// them for the standard library. make platforms does it in full.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	failed := false
	for _, platform := range os.Args[1:] {
		if err := check(".", platform); err != nil {
			fmt.Fprintf(os.Stderr, "%s:\n%v\n", platform, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

// check returns all type errors in the module in dir, and the first in what it imports.
func check(dir, platform string) error {
	system, arch, ok := strings.Cut(platform, "/")
	sizes := types.SizesFor("gc", arch)
	if !ok || sizes == nil {
		return fmt.Errorf("want a platform such as linux/386")
	}
	packages, err := list(dir, system, arch)
	if err != nil {
		return err
	}
	c := &checker{files: token.NewFileSet(), sizes: sizes, checked: map[string]*types.Package{"unsafe": types.Unsafe}}
	var errs []error
	for _, p := range packages { // imports come first
		errs = append(errs, c.check(p)...)
	}
	return errors.Join(errs...)
}

// listed is what go list tells of a package.
type listed struct {
	ImportPath string
	Dir        string
	Standard   bool
	DepOnly    bool
	GoFiles    []string
	ImportMap  map[string]string
	Module     *struct{ GoVersion string }
	Error      *struct{ Err string }
}

func list(dir, system, arch string) (packages []listed, err error) {
	var why strings.Builder
	cmd := exec.Command("go", "list", "-e", "-deps", "-test", "-json=ImportPath,Dir,Standard,DepOnly,GoFiles,ImportMap,Module,Error", "./...")
	cmd.Dir, cmd.Stderr = dir, &why
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, why.String())
	}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		switch err := decoder.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages, nil
		case err != nil:
			return nil, err
		case p.Error != nil:
			return nil, errors.New(p.Error.Err)
		}
		packages = append(packages, p)
	}
}

// checker checks packages whose imports it has checked.
type checker struct {
	files   *token.FileSet
	sizes   types.Sizes
	checked map[string]*types.Package // by import path, as go list has it
}

func (c *checker) check(p listed) (errs []error) {
	if p.ImportPath == "unsafe" || strings.HasSuffix(p.ImportPath, ".test") { // a main that go test writes
		return nil
	}
	var files []*ast.File
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(c.files, absolute(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return []error{err}
		}
		files = append(files, file)
	}
	config := types.Config{
		Sizes:            c.sizes,
		IgnoreFuncBodies: p.DepOnly && p.Standard, // they compile wherever Go does
		FakeImportC:      true,
		Importer:         importer{c, p.ImportMap},
		Error:            func(err error) { errs = append(errs, err) },
	}
	if p.Module != nil && p.Module.GoVersion != "" {
		config.GoVersion = "go" + p.Module.GoVersion
	}
	path, _, _ := strings.Cut(p.ImportPath, " ") // without the test that it is compiled for
	c.checked[p.ImportPath], _ = config.Check(path, c.files, files, nil)
	if p.DepOnly && len(errs) > 1 {
		errs = errs[:1]
	}
	return errs
}

func absolute(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// importer finds what one package imports.
type importer struct {
	*checker
	renamed map[string]string // vendored, or compiled for a test
}

func (i importer) Import(path string) (*types.Package, error) {
	if renamed, ok := i.renamed[path]; ok {
		path = renamed
	}
	if p := i.checked[path]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%s is not among the packages of go list", path)
}
