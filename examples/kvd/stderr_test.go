package main_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"
)

// fullPipe is one that nobody reads, and that has no room.
func fullPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	for chunk := make([]byte, 64<<10); len(chunk) > 0; chunk = chunk[:len(chunk)/2] {
		for err = nil; err == nil; {
			if err := w.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
				t.Skipf("a pipe cannot be filled here: %v", err)
			}
			_, err = w.Write(chunk)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	return r, w
}

func TestANodeWhoseOutputIsNotReadServesAndStops(t *testing.T) {
	n := newNode(t, "node0", "-v")
	n.process = newProcess(t, kvd, n.args()...)
	_, full := fullPipe(t)
	n.cmd.Stdout, n.cmd.Stderr = full, full
	n.launch()
	waitReady(t, n)
	for i := range 20 {
		if err := set(n, fmt.Sprint(i), "value"); err != nil {
			t.Fatal(err)
		}
	}
	n.signal(syscall.SIGTERM)
	if code := n.exitCode(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestANodeThatCannotStartEndsAlthoughItsOutputIsNotRead(t *testing.T) {
	n := newNode(t, "node0")
	taken, err := net.Listen("tcp", n.haddr)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := newProcess(t, kvd, n.args()...)
	_, full := fullPipe(t)
	p.cmd.Stdout, p.cmd.Stderr = full, full
	p.launch()
	if code := p.exitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}

func TestANodeWhoseOutputHasLostItsReaderServesAndStops(t *testing.T) {
	n := newNode(t, "node0", "-v")
	n.process = newProcess(t, kvd, n.args()...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	n.cmd.Stdout, n.cmd.Stderr = w, w
	n.launch()
	w.Close()
	waitReady(t, n)
	r.Close()
	for i := range 20 {
		if err := set(n, fmt.Sprint(i), "value"); err != nil {
			t.Fatal(err)
		}
	}
	n.signal(syscall.SIGTERM) // of which there is a line
	if code := n.exitCode(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestSIGHUPStopsANodeInOrder(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored here, as nohup has it, and kvd leaves it so")
	}
	n := newNode(t, "node0")
	n.start(t)
	waitReady(t, n)
	n.signal(syscall.SIGHUP)
	if code := n.exitCode(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	n.waitOutput("shutting down")
}

func TestUnderNohupANodeOutlivesSIGHUP(t *testing.T) {
	n := newNode(t, "node0")
	n.process = startCommand(t, "nohup", append([]string{kvd}, n.args()...)...)
	waitReady(t, n)
	n.signal(syscall.SIGHUP)
	if err := set(n, "key", "value"); err != nil {
		t.Fatal(err)
	}
	n.signal(syscall.SIGTERM)
	if code := n.exitCode(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}
