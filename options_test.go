package kvraft

import (
	"errors"
	"math"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/wire"
)

func TestAStoreWithoutOptionsGetsTheDocumentedDefaults(t *testing.T) {
	o, err := newOptions("data", nil)
	if err != nil {
		t.Fatal(err)
	}
	if dir, err := filepath.Abs("data"); err != nil || o.dir != dir {
		t.Errorf("dir %q, want %q, %v", o.dir, dir, err)
	}
	if o.id != "" || o.addr != "127.0.0.1:7000" || o.advertise != "" {
		t.Errorf("id %q, addr %q, advertise %q", o.id, o.addr, o.advertise)
	}
	if _, ok := o.network.(tcp); !ok {
		t.Errorf("network is a %T, want TCP", o.network)
	}
	if o.logger == nil {
		t.Error("no logger")
	}
	if want := (Timing{time.Second, time.Second, 500 * time.Millisecond, 10 * time.Millisecond, 10 * time.Second}); o.timing != want {
		t.Errorf("timing %+v, want %+v", o.timing, want)
	}
	if want := (Snapshots{64 << 20, 64 << 20, 2}); o.snapshots != want {
		t.Errorf("snapshots %+v, want %+v", o.snapshots, want)
	}
	if want := (Limits{1 << 10, 1 << 20, 8 << 20}); o.limits != want {
		t.Errorf("limits %+v, want %+v", o.limits, want)
	}
	if o.history != 16<<20 {
		t.Errorf("%d bytes of history, want 16 MiB", o.history)
	}
}

func TestWhatFollowsFromTheHeartbeatDoesSoUnlessItIsSet(t *testing.T) {
	o, err := newOptions("data", []Option{WithTiming(Timing{Heartbeat: 4 * time.Second})})
	if err != nil {
		t.Fatal(err)
	}
	if o.timing.Election != 4*time.Second || o.timing.Lease != 2*time.Second {
		t.Errorf("a heartbeat of 4s gives election %v and lease %v, want 4s and 2s", o.timing.Election, o.timing.Lease)
	}
	set := Timing{4 * time.Second, 6 * time.Second, time.Second, time.Millisecond, 5 * time.Second}
	o, err = newOptions("data", []Option{WithTiming(set)})
	if err != nil {
		t.Fatal(err)
	}
	if o.timing != set {
		t.Errorf("timing %+v, want it as it was set: %+v", o.timing, set)
	}
}

func TestJoinAddressesAddUp(t *testing.T) {
	o, err := newOptions("data", []Option{WithJoin("a:1"), WithJoin("b:2", "c:3")})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(o.join, " "); got != "a:1 b:2 c:3" {
		t.Errorf("join addresses %q", got)
	}
}

func TestOptionsInsideTheirBoundsAreTaken(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, opts := range map[string][]Option{
		"shortest timing":       {WithTiming(Timing{Heartbeat: 5 * time.Millisecond, Lease: 5 * time.Millisecond, Commit: time.Millisecond, Stall: 5 * time.Millisecond})},
		"the longest id":        {WithID(strings.Repeat("x", maxID))},
		"an id of any script":   {WithID("knoten-ä/7@東京")},
		"IPv6":                  {WithAddr("[::1]:7000"), WithAdvertise("[2001:db8::1]:7000"), WithJoin("[::1]:7001")},
		"every interface":       {WithAddr(":7000")},
		"any port":              {WithAddr("127.0.0.1:0")},
		"a listener of one own": {WithListener(listener)},
		"and its name":          {WithListener(listener), WithAddr("node-7.local:0")},
		"the largest batch":     {WithLimits(Limits{BatchBytes: wire.MaxBatchBytes})},
		"exactly one pair":      {WithLimits(Limits{KeyBytes: 10, ValueBytes: 20, BatchBytes: 30})},
	} {
		if _, err := newOptions("data", opts); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newOptions("", []Option{WithInMemory()}); err != nil {
		t.Errorf("in memory without a directory: %v", err)
	}
}

func TestAListenerOfOnesOwnHasItsAddressUnlessItIsNamed(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for want, opts := range map[string][]Option{
		listener.Addr().String(): {WithListener(listener)},
		"node-7.local:0":         {WithAddr("node-7.local:0"), WithListener(listener)},
	} {
		if o, err := newOptions("data", opts); err != nil || o.addr != want {
			t.Errorf("listens on %s, %v, want %s", o.addr, err, want)
		}
	}
}

func TestOptionsOutsideTheirBoundsAreRefused(t *testing.T) {
	for name, opt := range map[string]Option{
		"id with a space":            WithID("a b"),
		"id with the mark":           WithID("a#b"),
		"id with a line break":       WithID("a\nb"),
		"id with a control":          WithID("a\x7f"),
		"id that is not UTF-8":       WithID("a\xff"),
		"id too long":                WithID(strings.Repeat("x", maxID+1)),
		"addr without port":          WithAddr("localhost"),
		"advertise without port":     WithAdvertise("10.0.0.1"),
		"join without port":          WithJoin("a:1", "b"),
		"join empty":                 WithJoin(""),
		"heartbeat too short":        WithTiming(Timing{Heartbeat: 4 * time.Millisecond, Lease: 4 * time.Millisecond}),
		"heartbeat negative":         WithTiming(Timing{Heartbeat: -time.Second}),
		"lease too short":            WithTiming(Timing{Lease: 4 * time.Millisecond}),
		"lease over heartbeat":       WithTiming(Timing{Lease: 1001 * time.Millisecond}),
		"election under heartbeat":   WithTiming(Timing{Election: 999 * time.Millisecond}),
		"commit too short":           WithTiming(Timing{Commit: time.Microsecond}),
		"stall under heartbeat":      WithTiming(Timing{Stall: 999 * time.Millisecond}),
		"snapshots negative":         WithSnapshots(Snapshots{EveryBytes: -1}),
		"trailing negative":          WithSnapshots(Snapshots{TrailingBytes: -1}),
		"retain negative":            WithSnapshots(Snapshots{Retain: -1}),
		"keys negative":              WithLimits(Limits{KeyBytes: -1}),
		"values negative":            WithLimits(Limits{ValueBytes: -1}),
		"batch under one pair":       WithLimits(Limits{KeyBytes: 10, ValueBytes: 20, BatchBytes: 29}),
		"batch over the peer port's": WithLimits(Limits{BatchBytes: wire.MaxBatchBytes + 1}),
		"key over the batch":         WithLimits(Limits{KeyBytes: 9 << 20}),
		"history negative":           WithHistory(-1),
	} {
		if _, err := newOptions("data", []Option{opt}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
	if _, err := newOptions("", nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("no directory: got %v, want ErrInvalid", err)
	}
	both := []Option{WithInMemory(), WithLogStore(raft.NewInmemStore())}
	if _, err := newOptions("data", both); !errors.Is(err, ErrInvalid) {
		t.Errorf("in memory with a log store: got %v, want ErrInvalid", err)
	}
}

func TestEveryBadOptionIsNamedAtOnce(t *testing.T) {
	_, err := newOptions("", []Option{
		WithID("a b"), WithAddr("x"), WithAdvertise("y"), WithJoin("z", "w"),
		WithTiming(Timing{Lease: time.Hour, Commit: time.Nanosecond}),
		WithSnapshots(Snapshots{Retain: -1}), WithLimits(Limits{KeyBytes: -1}), WithHistory(-1),
	})
	if err == nil {
		t.Fatal("all of it was taken")
	}
	for _, part := range []string{
		"no directory", `id "a b"`, `WithAddr "x"`, `WithAdvertise "y"`, `WithJoin "z"`, `WithJoin "w"`,
		"Lease", "Commit", "snapshots", "limits", "WithHistory",
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is missing from:\n%v", part, err)
		}
	}
}

func TestOpenClosesItsListenerWhenAnOptionIsBad(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open("", WithListener(listener)); !errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v, want ErrInvalid", err)
	}
	if err := listener.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener was left open: closing it gave %v", err)
	}
}

func TestLimitsDoNotOverflow(t *testing.T) {
	if _, err := newOptions("data", []Option{WithLimits(Limits{KeyBytes: math.MaxInt})}); err == nil {
		t.Error("keys without end were taken")
	}
}

func TestAnAdvertisedAddressCanBeReached(t *testing.T) {
	for _, addr := range []string{":7000", "0.0.0.0:7000", "[::]:7000", "10.0.0.1:0", "10.0.0.1:", "a@b:7000"} {
		if _, err := newOptions("data", []Option{WithAdvertise(addr)}); err == nil {
			t.Errorf("WithAdvertise(%q) was taken", addr)
		}
	}
}
