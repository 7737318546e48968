package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// expectExit runs kvd, which must end with code and say each of texts.
func expectExit(t *testing.T, code int, args []string, texts ...string) {
	t.Helper()
	p := startCommand(t, kvd, args...)
	if got := p.exitCode(); got != code {
		t.Errorf("kvd %s: exit code %d, want %d", strings.Join(args, " "), got, code)
	}
	for _, text := range texts {
		if !strings.Contains(p.output.String(), text) {
			t.Errorf("kvd %s: it does not say %q, but:\n%s", strings.Join(args, " "), text, p.output)
		}
	}
}

func TestAWrongCommandLineIsExplained(t *testing.T) {
	dir := t.TempDir()
	expectExit(t, 1, nil, "No Raft storage directory specified", "Usage: kvd [flags] DIR: name a directory", "kvd -h lists the flags")
	expectExit(t, 1, []string{"-id", "node0"}, "No Raft storage directory specified")
	expectExit(t, 2, []string{"-nonsense", dir}, "-nonsense", "kvd -h lists the flags")
	expectExit(t, 2, []string{dir, "-id", "node0"}, "after the flags", `"-id"`)
	expectExit(t, 2, []string{"-haddr", ":1", "-client", ":2", dir}, `invalid value ":2" for flag -client`, `":1"`)
	expectExit(t, 2, []string{"-bind", ":1", "-raddr", ":2", dir}, `invalid value ":2" for flag -raddr`)
	expectExit(t, 2, []string{"-node", "a", "-id", "b", dir}, `invalid value "b" for flag -id`)
	expectExit(t, 2, []string{"-join", "localhost", dir}, `"localhost"`, "host:port")
	expectExit(t, 2, []string{"-haddr", "11000", dir}, "-haddr 11000: want host:port")
	expectExit(t, 2, []string{"-raddr", "12000", dir}, "-raddr 12000: want host:port")
	expectExit(t, 2, []string{"-haddr", "localhost:99999", dir}, "-haddr localhost:99999: want host:port")
	expectExit(t, 2, []string{"-join", "localhost:99999", dir}, `"localhost:99999": want host:port, with a port from 1 to 65535`)
	expectExit(t, 2, []string{"-bootstrap-expect", "0", dir}, "-bootstrap-expect 0")
	expectExit(t, 2, []string{"-bootstrap-expect", "3", dir}, "needs -join or -serf-join")
	expectExit(t, 2, []string{"-serf-join", "localhost:1", dir}, "-serf-join needs -serf")
	expectExit(t, 2, []string{"-replica", dir}, "a replica cannot form a cluster")
	expectExit(t, 2, []string{"-bootstrap-expect", "33", "-join", "localhost:1", dir}, "-bootstrap-expect 33: want 1 to 32")
	for _, addr := range []string{"localhost", "nonsense", "127.0.0.1:99999", "localhost:0", ":"} {
		expectExit(t, 2, []string{"-serf", addr, dir}, "-serf "+addr+": want host:port, with a port from 1 to 65535")
	}
	expectExit(t, 2, []string{"-serf-heal", "5s", dir}, "-serf-heal needs -serf")
	expectExit(t, 1, []string{"-haddr", freeAddr(t), "-raddr", freeAddr(t), "-serf", "nowhere.invalid:1", dir}, "-serf nowhere.invalid:1")
	expectExit(t, 0, []string{"-h"}, "Usage:", "0: the default", "32 at most")
}

func TestAnAddressInUseIsNamedWithItsFlag(t *testing.T) {
	n := newNode(t, "node0")
	n.start(t)
	waitReady(t, n)
	dir, free := t.TempDir(), freeAddr(t)
	expectExit(t, 1, []string{"-haddr", n.haddr, "-raddr", free, dir}, "kvd: -haddr "+n.haddr, "address already in use; name another with -haddr")
	expectExit(t, 1, []string{"-haddr", free, "-raddr", n.raddr, dir}, "kvd: -raddr "+n.raddr, "address already in use; name another with -raddr")
}

func TestADirectoryThatIsInUseOrAnotherNodesIsRefused(t *testing.T) {
	n := newNode(t, "node0")
	n.start(t)
	waitReady(t, n)
	again := *n
	again.haddr, again.raddr = freeAddr(t), freeAddr(t)
	expectExit(t, 1, again.args(), n.dir, "in use by another process")

	n.signal(syscall.SIGTERM)
	if code := n.exitCode(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	again.id = "node1"
	expectExit(t, 1, again.args(), n.dir, `"node0"`, `"node1"`)
}

func TestADirectoryThatIsAFileIsRefused(t *testing.T) {
	n := newNode(t, "node0")
	if err := os.WriteFile(n.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expectExit(t, 1, n.args(), n.dir, "not a directory")
}

func TestDamagedDataIsRefused(t *testing.T) {
	for _, damaged := range []string{"v", "w"} { // an entry before others, and the last one
		n := newNode(t, "node0")
		n.start(t)
		waitReady(t, n)
		for _, letter := range []string{"v", "w"} {
			if err := set(n, "k", strings.Repeat(letter, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		n.signal(syscall.SIGTERM)
		if code := n.exitCode(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		replaceInLog(t, n.dir, strings.Repeat(damaged, 1000), strings.Repeat(damaged, 999)+"x")
		expectExit(t, 1, n.args(), n.dir, "damaged data", "checksum")
	}
}

// replaceInLog changes the log of a stopped node, wherever it has old.
func replaceInLog(t *testing.T, dir, old, new string) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "raft.log", "segment-*"))
	if err != nil {
		t.Fatal(err)
	}
	replaced := 0
	for _, path := range segments {
		data, err := os.ReadFile(path)
		if n := bytes.Count(data, []byte(old)); n > 0 && err == nil {
			replaced += n
			err = os.WriteFile(path, bytes.ReplaceAll(data, []byte(old), []byte(new)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if replaced == 0 {
		t.Fatalf("%.20q is nowhere in %v", old, segments)
	}
}

// The limit on the size of files stands for a disk that is full.
func TestANodeWhoseDiskFailsSaysSoAndEnds(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("needs bash, for ulimit")
	}
	n := newNode(t, "node0")
	n.start(t) // which makes the files of the log
	waitReady(t, n)
	n.signal(syscall.SIGTERM)
	if code := n.exitCode(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	n.process = startCommand(t, bash, append([]string{"-c", `ulimit -f 1024; exec "$@"`, "bash", kvd}, n.args()...)...)
	waitReady(t, n)
	value := strings.Repeat("v", 100_000)
	for range 100 {
		if err = set(n, "k", value); err != nil {
			break
		}
	}
	if err == nil {
		t.Fatal("10 MB went into files of 1 MiB")
	}
	if code := n.exitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	n.waitOutput("kvd: the node has stopped: ")
	n.waitOutput("file too large")
}

func TestAFirstStartWithoutRoomForALogSaysSoAndCanBeRepeated(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("needs bash, for ulimit")
	}
	n := newNode(t, "node0")
	n.process = startCommand(t, bash, append([]string{"-c", `ulimit -f 1024; exec "$@"`, "bash", kvd}, n.args()...)...)
	if code := n.exitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	n.waitOutput(n.dir)
	n.waitOutput("file too large")
	n.start(t)
	waitReady(t, n)
}
