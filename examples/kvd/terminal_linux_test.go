package main_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a process on a pseudo-terminal, whose screen is its output.
type terminal struct {
	*process
	keyboard *os.File
}

// onTerminal starts kvd on a terminal of its own.
func onTerminal(t *testing.T, args ...string) terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		if os.Getenv("KVRAFT_TEST_TOOLS") == "required" { // as in runScript
			t.Fatal(err)
		}
		t.Skipf("needs a pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0) // not locked
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	p := newProcess(t, kvd, args...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = tty, tty, tty
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p.launch()
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			_, _ = p.output.Write(buf[:n]) // never fails
			if err != nil {
				return // nobody has the terminal open any more
			}
		}
	}()
	return terminal{p, master}
}

// answers waits for a question at the end of the screen, and types.
func (term terminal) answers(question, text string) {
	term.t.Helper()
	eventually(term.t, fmt.Sprintf("the question %q", question), func() string {
		if screen := term.output.String(); !strings.HasSuffix(screen, question) {
			return "the screen shows " + screen
		}
		return ""
	})
	if _, err := term.keyboard.WriteString(text); err != nil {
		term.t.Fatal(err)
	}
}

const (
	askHost = "Enter hostname: [localhost] "
	askPort = "Enter port: [4001] "
	askJoin = "Join to (host:port)> "

	backspace, ctrlC, ctrlD = "\x7f", "\x03", "\x04"
)

func portOf(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// raftd's walkthrough, with slips of the finger.
func TestNodesAreAskedForAtATerminalAndRememberTheAnswers(t *testing.T) {
	first, second := newNode(t, "first"), newNode(t, "second")
	for _, n := range []*node{first, second} {
		n.haddr = "localhost:" + portOf(n.haddr)
		n.raddr = n.haddr
	}

	term := onTerminal(t, "-prompt", first.dir)
	first.process = term.process
	term.answers(askHost, "localhos:\n")
	term.answers(askHost, "localhos"+backspace+"st\n")
	term.answers(askPort, "port\n")
	term.answers(askPort, portOf(first.haddr)+"\n")
	term.answers(askJoin, "\n")
	first.waitOutput("Name: " + first.haddr)
	first.waitOutput("formed cluster")
	waitReady(t, first)

	term = onTerminal(t, "-prompt", second.dir)
	second.process = term.process
	term.answers(askHost, "\n")
	term.answers(askPort, portOf(second.haddr)+"\n")
	term.answers(askJoin, first.haddr+"\n")
	waitReady(t, second)
	if code, body, err := post(first.url("/files/foo"), "BAR"); err != nil || code != 200 {
		t.Errorf("POST /files/foo: %d %s, %v", code, body, err)
	}
	if ids := membersOf(t, second).ids(); ids != first.haddr+" "+second.haddr && ids != second.haddr+" "+first.haddr {
		t.Errorf("the members are %s", ids)
	}

	if _, err := term.keyboard.WriteString(ctrlC); err != nil {
		t.Fatal(err)
	}
	if code := second.exitCode(); code != 0 {
		t.Errorf("exit code %d after Ctrl-C, want 0", code)
	}
	for _, args := range [][]string{{second.dir}, {"-v", second.dir}, {"-prompt", second.dir}} {
		second.process = onTerminal(t, args...).process
		waitReady(t, second)
		if out := second.output.String(); strings.Contains(out, "Enter") || strings.Contains(out, "Join to") {
			t.Errorf("kvd %q asks again:\n%s", args, out)
		}
		if code, body, err := get(second.url("/files/foo")); err != nil || code != 200 || body != "BAR" {
			t.Errorf("GET /files/foo: %d %s, %v", code, body, err)
		}
		second.stop(t)
	}
}

func TestWhoeverGivesUpAtTheQuestionsLeavesNothingBehind(t *testing.T) {
	for name, c := range map[string]struct {
		typed []string
		code  int // -1: ended by the signal
		says  string
	}{
		"the end of the input at the first": {[]string{ctrlD}, 1, `no answer to "Enter hostname: [localhost]": EOF; nothing was written to `},
		"the end of the input at the last":  {[]string{"\n", "\n", ctrlD}, 1, `no answer to "Join to (host:port)>": EOF; nothing was written to `},
		"an interrupt":                      {[]string{"\n", ctrlC}, -1, ""},
	} {
		dir := filepath.Join(t.TempDir(), "new")
		term := onTerminal(t, "-prompt", dir)
		for i, text := range c.typed {
			term.answers([]string{askHost, askPort, askJoin}[i], text)
		}
		if code := term.exitCode(); code != c.code {
			t.Errorf("%s: exit code %d, want %d", name, code, c.code)
		}
		term.waitOutput(c.says)
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: there is a directory: %v", name, err)
		}
	}
}
