package kvraft

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func TestAStoreThatDoesNotShareItsPortHandsNothingOut(t *testing.T) {
	s, err := Open("", WithInMemory(), WithAddr("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.OtherConns().Accept(); !errors.Is(err, ErrInvalid) {
		t.Errorf("Accept: %v", err)
	}
	conn, err := net.Dial("tcp", s.Status().Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(conn); len(answer) > 0 {
		t.Errorf("it answers %q", answer)
	}
}

// On real sockets: a connection is handed out although it was made before anybody
// asked for the listener, and its two directions can be closed one by one.
func TestASharedPortServesPeersAndOthersOverTCP(t *testing.T) {
	s, err := Open("", WithInMemory(), WithAddr("127.0.0.1:0"), WithSharedPort())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	addr := s.Status().Addr
	far, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if _, err := io.WriteString(far, "\x16\x03\x01"); err != nil {
		t.Fatal(err)
	}
	if have := s.OtherConns().Addr().String(); have != addr {
		t.Errorf("the listener is at %s, want %s", have, addr)
	}
	near, err := s.OtherConns().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	if near.RemoteAddr().String() != far.LocalAddr().String() {
		t.Errorf("it comes from %s, want %s", near.RemoteAddr(), far.LocalAddr())
	}
	if err := near.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if answer, err := io.ReadAll(far); err != nil || len(answer) > 0 {
		t.Errorf("read %q, %v, want EOF", answer, err)
	}
	if err := near.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	opening := make([]byte, 3)
	if _, err := io.ReadFull(near, opening); err != nil || string(opening) != "\x16\x03\x01" {
		t.Errorf("read %q, %v", opening, err)
	}
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("its own deadline: %v", err)
	}

	joiner, err := Open("", WithInMemory(), WithAddr("127.0.0.1:0"), WithSharedPort(), WithJoin(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer joiner.Close()
	if _, err := joiner.WaitLeader(t.Context()); err != nil {
		t.Errorf("a joiner: %v", err)
	}
}
