package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// testdata/kvd.json has every flag that the first version remembered. It stays readable.
func TestTheFlagsOfADirectoryAreReadAndWrittenAsTheyEverWere(t *testing.T) {
	stored, err := os.ReadFile("testdata/kvd.json")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, memoryFile)
	if err := os.WriteFile(path, stored, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := parseFlags([]string{dir}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	again := memory{}
	for name := range c.memory {
		again[name] = c.flags.Lookup(name).Value.String()
	}
	if err := again.write(dir); err != nil {
		t.Fatal(err)
	}
	if written, err := os.ReadFile(path); err != nil || !bytes.Equal(written, stored) {
		t.Errorf("the file was\n%s\nand is now, %v,\n%s", stored, err, written)
	}
}
