package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	askHost = "Enter hostname: [localhost] "
	askPort = "Enter port: [4001] "
	askJoin = "Join to (host:port)> "
)

// answer has the questions for dir answered, and returns what was said.
func answer(t *testing.T, dir, answers string) (c config, said string, err error) {
	t.Helper()
	if c, err = parseFlags([]string{dir}, io.Discard); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = ask(strings.NewReader(answers), &out, c.flags, dir)
	c.haddr.value, c.raddr.value = c.flags.Lookup("haddr").Value.String(), c.flags.Lookup("raddr").Value.String()
	if join := c.flags.Lookup("join").Value.String(); join != "" {
		c.join = addrs{join}
	}
	return c, out.String(), err
}

func TestAnswersSayWhatTheNodeIs(t *testing.T) {
	for _, c := range []struct{ answers, addr, join string }{
		{"\n\n\n", "localhost:4001", ""},
		{"\r\n \r\n\t\r\n", "localhost:4001", ""},
		{"\n4002\nlocalhost:4001\n", "localhost:4002", "localhost:4001"},
		{"host1.example.com\n80\nhost2:80,:81, dns://all:82", "host1.example.com:80", "host2:80,localhost:81,dns://all:82"},
		{"10.0.0.1\n65535\n10.0.0.2:1\n", "10.0.0.1:65535", "10.0.0.2:1"},
		{"::1\n1\n[::2]:1\n", "[::1]:1", "[::2]:1"},
		{"\n\n:4001,:4002\n", "localhost:4001", "localhost:4001,localhost:4002"}, // itself among others
		{"münchen_2\n\n\n", "münchen_2:4001", ""},
	} {
		have, said, err := answer(t, t.TempDir(), c.answers)
		if err != nil || have.haddr.value != c.addr || have.raddr.value != c.addr || have.join.String() != c.join {
			t.Errorf("%q: %+v, %v, want %s joining %q", c.answers, have, err, c.addr, c.join)
		}
		if !strings.HasPrefix(said, askHost+askPort+"Name: "+c.addr+"\n") || !strings.HasSuffix(said, askJoin) {
			t.Errorf("%q: it said\n%s", c.answers, said)
		}
	}
}

func TestNonsenseIsToldAndAskedAgain(t *testing.T) {
	for _, nonsense := range []string{"localhost:4001", "http://host", "a b", "4001", "256.256.256.256", "-", ".", "a..b", "[::1]", "0.0.0.0", "::", "x@y"} {
		_, said, err := answer(t, t.TempDir(), nonsense+"\nhost\n\n\n")
		if err != nil || !strings.HasPrefix(said, askHost) || !strings.Contains(said, nonsense) || !strings.Contains(said, ": want a") || strings.Count(said, askHost) != 2 {
			t.Errorf("host name %q: %v\n%s", nonsense, err, said)
		}
	}
	for _, nonsense := range []string{"abc", "0", "-1", "65536", "+4001", "04001", "4001x", ":4001", "99999999999999999999", "4 001"} {
		c, said, err := answer(t, t.TempDir(), "\n"+nonsense+"\n4009\n\n")
		if err != nil || !strings.Contains(said, `"`+nonsense+`": want a number from 1 to 65535`) || strings.Count(said, askPort) != 2 || c.haddr.value != "localhost:4009" {
			t.Errorf("port %q: %v\n%s", nonsense, err, said)
		}
	}
	for nonsense, says := range map[string]string{
		"localhost": "want host:port", "4001": "want host:port", "host:1,": "want host:port", "http://host:1": "want host:port",
		":0": "want host:port", "127.0.0.1:0": "want host:port", "host:99999": "want host:port", "host:080": "want host:port",
		"localhost:4001": "that is this node itself", ":4001": "that is this node itself", "127.0.0.1:4001": "that is this node itself",
		"127.0.0.1:4001,localhost:4001": "that is this node itself",
	} {
		c, said, err := answer(t, t.TempDir(), "\n\n"+nonsense+"\nhost:9\n")
		if err != nil || !strings.Contains(said, says) || strings.Count(said, askJoin) != 2 || c.join.String() != "host:9" {
			t.Errorf("join %q: %v\n%s", nonsense, err, said)
		}
	}
}

func TestTheEndOfTheInputIsAnError(t *testing.T) {
	for answers, question := range map[string]string{
		"":              "hostname",
		"localhost":     "port",
		"\n":            "port",
		"\nabc\n":       "port",
		"\n4001\n":      "Join to",
		"\n4001\nabc":   "Join to",
		"\n4001\nabc\n": "Join to",
	} {
		c, said, err := answer(t, "some-dir", answers)
		if !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), question) || !strings.Contains(err.Error(), "nothing was written to some-dir") {
			t.Errorf("%q: %v", answers, err)
		}
		if c.haddr.given || c.join != nil || !strings.HasSuffix(said, "\n") {
			t.Errorf("%q: %+v, and it said\n%s", answers, c, said)
		}
	}
	if _, _, err := answer(t, "some-dir", strings.Repeat("x", 1<<20)); err == nil {
		t.Error("a host name of 1 MiB is taken")
	}
}

func TestADirectoryWithoutANodeIsNew(t *testing.T) {
	dir := t.TempDir()
	if !isNew(filepath.Join(dir, "absent")) || !isNew(dir) {
		t.Error("an absent and an empty directory are not new")
	}
	for _, name := range []string{memoryFile, "raft.db", "raft.log"} { // without the first it is of another program, or of former times
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if isNew(dir) {
			t.Errorf("with a %s it is new", name)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
