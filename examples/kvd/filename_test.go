package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPlainKeysHavePlainNames(t *testing.T) {
	for _, key := range []string{"user1", "dir/name", "a b/ü.txt", ".hidden", "...", "-", "~", "a\\b", "con", "a+b&c=d", "日本/語"} {
		if got := join(pathOf(key)); got != key {
			t.Errorf("the file of %q is %q", key, got)
		}
	}
}

func TestNamesThatCannotBeAreEscaped(t *testing.T) {
	x, e, deep := strings.Repeat("x", 500), strings.Repeat("é", 150), strings.Repeat("d/", 32)
	for key, want := range map[string]string{
		"../x":         "%2E%2E/x",
		"a/./b":        "a/%2E/b",
		"/etc/passwd":  "%/etc/passwd",
		"a//b/":        "a/%/b/%",
		"/":            "%/%",
		"":             "%",
		"100%":         "100%25",
		"%2E%2E/x":     "%252E%252E/x",
		"%mirror":      "%25mirror",
		"%new":         "%25new",
		"%":            "%25",
		"a\x00\n\x7f":  "a%00%0A%7F",
		"a\xff\xfeü":   "a%FF%FEü",
		"�":            "�",
		x + "/y":       x[:200] + "%+/" + x[:200] + "%+/" + x[:100] + "/y",
		x[:200]:        x[:200],
		x[:199] + "é":  x[:199] + "%+/é",
		x[:199] + "\n": x[:199] + "%+/%0A",
		deep + "a/b/c": deep + "a%2Fb%2Fc",
		deep:           deep + "%",
		deep + "a/":    deep + "a%2F",
		e:              e[:200] + "%+/" + e[200:],
	} {
		if got := join(pathOf(key)); got != want {
			t.Errorf("the file of %q is %q, want %q", key, got, want)
		}
	}
}

func TestAFileThatNoKeyHasIsToldFromOthers(t *testing.T) {
	for _, name := range []string{"%mirror", "%new", "%2e", "%41", "a%2", "a%%", "%%%", "a/%+", "%+/a", "a%+/b", "%2F", "a%/b", "%%/b", "%C3%A9", "%2E%+", "%2Ea", "a%2Fb"} {
		if key, besideDir, ok := keyOf(strings.Split(name, "/")); ok {
			t.Errorf("%q is taken for the file of %q (beside a directory: %v)", name, key, besideDir)
		}
	}
}

// FuzzFileName: every name is fit for a file system, tells its key, and is neither
// the file nor the directory of another.
func FuzzFileName(f *testing.F) {
	for _, key := range []string{"", "a", "a/b", "../x", "/", "//", "a%", "%", "%%", "%2E", "a/", "\x00", "\xff", strings.Repeat("x/..", 300), strings.Repeat("\xff", 300), strings.Repeat("x", 200) + "%+", strings.Repeat("日本", 200)} {
		f.Add(key, "a/%")
		f.Add(key+"%", key)
		f.Add(key+"/", key)
		f.Add(strings.Repeat("/", 31)+key, strings.Repeat("/", 31)+key+"/x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, key := range []string{a, b} {
			path := pathOf(key)
			if !filepath.IsLocal(join(path)) || len(path) > maxDirs+1+3*len(key)/(maxName-6) {
				t.Errorf("%q has its file at %q", key, path)
			}
			for _, name := range path {
				if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || len(name)+len(beside) > 255 || !utf8.ValidString(name) {
					t.Errorf("%q has its file at %q: %q is unfit", key, path, name)
				}
			}
			for besideDir, name := range map[bool]string{false: join(path), true: join(path) + beside} {
				if got, at, ok := keyOf(strings.Split(name, "/")); !ok || got != key || at != besideDir {
					t.Errorf("%q is taken for the file of %q, %v, %v; want %q", name, got, at, ok, key)
				}
			}
		}
		if a == b {
			return
		}
		pathA, pathB := pathOf(a), pathOf(b)
		inA := len(pathB) > len(pathA) && slices.Equal(pathB[:len(pathA)], pathA)
		if inA != (strings.HasPrefix(b, a+"/") && strings.Count(a, "/") < 32) || slices.Equal(pathA, pathB) {
			t.Errorf("%q is at %q, and %q at %q", a, pathA, b, pathB)
		}
		pathA[len(pathA)-1] += beside
		if len(pathB) >= len(pathA) && slices.Equal(pathB[:len(pathA)], pathA) {
			t.Errorf("%q is at %q, and beside a directory %q at %q", b, pathB, a, pathA)
		}
	})
}
