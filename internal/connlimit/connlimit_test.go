package connlimit_test

import (
	"fmt"
	"math"
	"net"
	"sync"
	"testing"

	"github.com/kvraft/kvraft/internal/connlimit"
)

func from(host string, port int) net.Addr {
	return &net.TCPAddr{IP: net.ParseIP(host), Port: port}
}

func TestAHostHasItsShareAndLeavesTheRestToOthers(t *testing.T) {
	l := connlimit.New(5, 3)
	var leave []func()
	enter := func(host string, ok bool) {
		t.Helper()
		f, err := l.Enter(from(host, 1000+len(leave)))
		if (err == nil) != ok {
			t.Fatalf("from %s: %v, want %v", host, err, ok)
		}
		if err == nil {
			leave = append(leave, f)
		}
	}
	for range 3 {
		enter("10.0.0.1", true)
	}
	enter("10.0.0.1", false)
	enter("10.0.0.2", true)
	enter("fe80::1", true)
	enter("10.0.0.3", false) // in all
	leave[0]()
	enter("10.0.0.3", true)
	enter("10.0.0.1", false)
	leave[1]()
	enter("10.0.0.1", true)
}

func TestWhatLeavesIsForgotten(t *testing.T) {
	l := connlimit.New(100, 50)
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for port := range 1000 {
				leave, err := l.Enter(from(fmt.Sprintf("10.0.%d.%d", i, port%250), port))
				if err != nil {
					t.Error(err)
					return
				}
				leave()
			}
		})
	}
	callers.Wait()
	for port := range 50 {
		if _, err := l.Enter(from("10.0.0.1", port)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestALimitIsWithinTheFilesOfTheProcess(t *testing.T) {
	if n := connlimit.Within(1, 2); n != 1 {
		t.Errorf("%d, want what was asked for", n)
	}
	if n := connlimit.Within(math.MaxInt32, 1<<10); n < 0 || n > math.MaxInt32 {
		t.Errorf("%d of a share of the process's files", n)
	}
}
