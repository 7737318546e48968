package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Each key has a file name of its own under a mirror, and each name tells its key.
// The first slashes of the key separate directories. What a file system does not take, or takes
// for something else, is escaped by %XX, as is % itself; then % with anything else
// behind it is free for what no key can contain:
//
//	an empty part    %            "a//b" is a/%/b
//	a long part      ...%+/...    goes on in a directory of that name
//	a key that is    name%        "a" is a%, while there is an "a/b"
//	a directory too
//
// The mirror's own files have such names, too.

const (
	maxDirs   = 32  // slashes after so many are escaped
	maxName   = 200 // bytes: file systems take 255, or a little less
	continued = "%+"
	beside    = "%" // behind the name of a file in whose place there is a directory
)

// pathOf is where the file of key is: directories, and its name.
func pathOf(key string) []string {
	var path []string
	for _, part := range strings.SplitN(key, "/", maxDirs+1) {
		path = appendPart(path, part)
	}
	return path
}

// canBeDirectory reports whether keys that go on after key and a slash have their files
// in a directory of its name.
func canBeDirectory(key string) bool { return strings.Count(key, "/") < maxDirs }

func appendPart(path []string, part string) []string {
	if part == "" {
		return append(path, "%")
	}
	var name strings.Builder
	dots := part == "." || part == ".."
	for i, size := 0, 0; i < len(part); i += size {
		var r rune
		r, size = utf8.DecodeRuneInString(part[i:])
		char := part[i : i+size]
		if dots || r == '/' || r == '%' || r < ' ' || r == 0x7f || r == utf8.RuneError && size == 1 {
			char = fmt.Sprintf("%%%02X", char[0])
		}
		if name.Len()+len(char) > maxName {
			path = append(path, name.String()+continued)
			name.Reset()
		}
		name.WriteString(char)
	}
	return append(path, name.String())
}

// keyOf is the key whose file is at path, and whether it is beside a directory of its
// name. It is false when no key has its file there.
func keyOf(path []string) (key string, besideDir, ok bool) {
	last := len(path) - 1
	plain := slices.Clone(path)
	if name, found := strings.CutSuffix(path[last], beside); found && name != "" {
		plain[last], besideDir = name, true
	}
	var b strings.Builder
	for i, name := range plain {
		part, goesOn := strings.CutSuffix(name, continued)
		b.WriteString(unescape(part))
		if !goesOn && i < last {
			b.WriteByte('/')
		}
	}
	key = b.String()
	return key, besideDir, slices.Equal(pathOf(key), plain)
}

// unescape is lenient: keyOf compares what comes of it.
func unescape(name string) string {
	var b strings.Builder
	for name != "" {
		before, after, found := strings.Cut(name, "%")
		b.WriteString(before)
		if !found {
			break
		}
		if name = after; len(after) < 2 {
			continue
		}
		if char, err := strconv.ParseUint(after[:2], 16, 8); err == nil {
			b.WriteByte(byte(char))
			name = after[2:]
		}
	}
	return b.String()
}
