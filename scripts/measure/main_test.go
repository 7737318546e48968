package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAPackageIsMeasured(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"m.go":            "// Package m is measured.\npackage m\n\n/*\nTwo\n*/\ntype T struct { // not a line of its own\n\t*base\n}\n\nfunc (T) A(n int) bool {\n\tif n > 0 && n < 9 {\n\t\treturn true\n\t}\n\treturn false\n}\n",
		"base.go":         "package m\n\ntype base struct{}\n\nfunc (*base) B() {}\nfunc (*base) c() {}\n",
		"m_test.go":       "package m\n\n// one of three\n",
		"testdata/bad.go": "no Go",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	packages, err := measure(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := report(&out, packages); err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(out.String(), "\n")
	if got, want := strings.Join(strings.Fields(line), " "), ". 2 22 16 1/6/6 3/3 18% T 3 (2) 1/3"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// How large a room may be: the files of the root package, the lines of a file, and the
// methods of a type with those of what it embeds.
const (
	mostRootFiles = 14
	mostLines     = 450
	mostMethods   = 60
)

func TestNoRoomIsTooLarge(t *testing.T) {
	packages, err := measure("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages {
		if strings.HasPrefix(p.dir, "bench") { // a module of its own
			continue
		}
		if p.dir == "." && p.files > mostRootFiles {
			t.Errorf("%d files in the root, want at most %d", p.files, mostRootFiles)
		}
		if p.largest > mostLines {
			t.Errorf("%s: a file of %d lines, want at most %d", p.dir, p.largest, mostLines)
		}
		if name, n, _ := p.largestType(); n > mostMethods {
			t.Errorf("%s: type %s has %d methods, want at most %d", p.dir, name, n, mostMethods)
		}
	}
}
