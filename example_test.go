package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math"
	"net"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

func Example() {
	store, err := kvraft.Open("", kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	version, err := store.Set(ctx, "color", []byte("green"))
	if err != nil {
		log.Fatal(err)
	}
	entry, err := store.Get(ctx, "color")
	fmt.Println(string(entry.Value), entry.Version == version, err)

	_, err = store.Set(ctx, "color", []byte("blue"), kvraft.IfVersion(version))
	fmt.Println(err)
	_, err = store.Set(ctx, "color", []byte("red"), kvraft.IfVersion(version))
	fmt.Println(errors.Is(err, kvraft.ErrConflict))
	// Output:
	// green true <nil>
	// <nil>
	// true
}

// What a node had on disk when it stopped.
func ExampleOpenLog() {
	dir, err := os.MkdirTemp("", "kvraft")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := kvraft.Open(dir, kvraft.WithAddr("127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	_, err = store.Set(context.Background(), "color", []byte("green"))
	if err := errors.Join(err, store.Close()); err != nil {
		log.Fatal(err)
	}

	stopped, err := kvraft.OpenLog(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer stopped.Close()
	for entry, err := range stopped.Entries(1, math.MaxUint64) {
		if err != nil {
			fmt.Println("damaged:", err)
		}
		for _, request := range entry.Requests {
			for _, op := range request.Ops {
				fmt.Printf("%s %s %s\n", op.Kind, op.Key, op.Value)
			}
		}
	}
	// Output: set color green
}

// The first of three nodes on one machine. The others have directories and ports of
// their own, and are started in the same way.
func Example_oneOfThree() {
	store, err := kvraft.Open("data/n1", kvraft.WithAddr("127.0.0.1:7001"), kvraft.WithBootstrapExpect(3),
		kvraft.WithJoin("127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
}

// Three nodes of one program; in earnest each has a directory and runs on a
// machine of its own. They form a cluster together, in whatever order they start,
// and the same options start each of them again.
func Example_threeNodes() {
	var addrs []string
	var listeners []net.Listener
	for range 3 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		listeners, addrs = append(listeners, ln), append(addrs, ln.Addr().String())
	}
	var stores []*kvraft.Store
	for _, ln := range listeners {
		store, err := kvraft.Open("", kvraft.WithInMemory(), kvraft.WithListener(ln),
			kvraft.WithBootstrapExpect(3), kvraft.WithJoin(addrs...))
		if err != nil {
			log.Fatal(err)
		}
		defer store.Close()
		stores = append(stores, store)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	if _, err := stores[1].Set(ctx, "color", []byte("green")); err != nil {
		log.Fatal(err)
	}
	entry, err := stores[2].Get(ctx, "color")
	fmt.Println(string(entry.Value), err)
	// Output: green <nil>
}

func ExampleStore_Batch() {
	store, err := kvraft.Open("", kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	// A lease that is taken only if nobody has it, with a note beside it.
	version, err := store.Batch(ctx,
		kvraft.CheckOp("lease", 0),
		kvraft.SetOp("lease", []byte("node1")),
		kvraft.SetOp("lease/since", []byte("noon")),
	)
	fmt.Println(version > 0, err)
	_, err = store.Batch(ctx, kvraft.CheckOp("lease", 0), kvraft.SetOp("lease", []byte("node2")))
	fmt.Println(errors.Is(err, kvraft.ErrConflict))
	// Output:
	// true <nil>
	// true
}

// A counter: each increment is a read and a write that holds only if nobody came
// between.
func ExampleIfVersion() {
	store, err := kvraft.Open("", kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	increment := func() error {
		for {
			entry, err := store.Get(ctx, "counter") // absent: version 0
			if err != nil && !errors.Is(err, kvraft.ErrNotFound) {
				return err
			}
			n, _ := strconv.Atoi(string(entry.Value))
			_, err = store.Set(ctx, "counter", []byte(strconv.Itoa(n+1)), kvraft.IfVersion(entry.Version))
			if !errors.Is(err, kvraft.ErrConflict) {
				return err
			}
		}
	}
	for range 3 {
		if err := increment(); err != nil {
			log.Fatal(err)
		}
	}
	entry, err := store.Get(ctx, "counter")
	fmt.Println(string(entry.Value), err)
	// Output: 3 <nil>
}

func ExampleStore_View() {
	store, err := kvraft.Open("", kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := store.Batch(ctx,
		kvraft.SetOp("color/sky", []byte("blue")),
		kvraft.SetOp("color/grass", []byte("green")),
		kvraft.SetOp("size/sky", []byte("large")),
	); err != nil {
		log.Fatal(err)
	}

	view, err := store.View(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := store.Delete(ctx, "color/grass"); err != nil {
		log.Fatal(err)
	}
	for entry := range view.Prefix("color/") { // what was there when the view was taken
		fmt.Println(entry.Key, string(entry.Value))
	}
	// Output:
	// color/grass green
	// color/sky blue
}

// A watch that is broken off, and goes on with what came since.
func ExampleStore_Watch() {
	store, err := kvraft.Open("", kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	set := func(key, value string) {
		if _, err := store.Set(ctx, key, []byte(value)); err != nil {
			log.Fatal(err)
		}
	}
	set("color/sky", "blue")

	var seen uint64
	for event, err := range store.Watch(ctx, "color/", kvraft.SnapshotFirst) {
		if err != nil {
			log.Fatal(err)
		}
		if event.Kind == kvraft.EventSync { // that is all there is
			seen = event.Version
			break
		}
		fmt.Println(event.Key, "is", string(event.Value))
	}
	set("color/sky", "red")
	set("size/sky", "large")
	if _, err := store.Delete(ctx, "color/sky"); err != nil {
		log.Fatal(err)
	}
	for event, err := range store.Watch(ctx, "color/", kvraft.After(seen)) {
		if err != nil {
			log.Fatal(err)
		}
		if event.Kind == kvraft.EventDelete {
			fmt.Println(event.Key, "is gone")
			break
		}
		fmt.Println(event.Key, "becomes", string(event.Value))
	}
	// Output:
	// color/sky is blue
	// color/sky becomes red
	// color/sky is gone
}

// What a failed write has done: after ErrUnknown it may have been applied, after
// any other error it was not. With a request id it can be made again either way.
func ExampleWithRequestID() {
	store, err := kvraft.Open("", kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	id := store.NewRequestID()
	pay := func(ctx context.Context) {
		_, err := store.Set(ctx, "invoice", []byte("paid"), kvraft.IfVersion(0), kvraft.WithRequestID(id))
		switch {
		case err == nil:
			fmt.Println("paid")
		case errors.Is(err, kvraft.ErrUnknown):
			fmt.Println("perhaps paid: try again with the same id")
		default:
			fmt.Println("not paid:", errors.Is(err, context.Canceled))
		}
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	pay(cancelled)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	pay(ctx)
	pay(ctx) // answered as the first time, and not paid twice
	// Output:
	// not paid: true
	// paid
	// paid
}

// What the README shows of kvrafttest.
func TestMyServiceSurvivesItsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // virtual time: no timeout is waited for
		c := kvrafttest.New(t, 3)
		leader := c.WaitLeader()
		c.Crash(leader) // kill -9
		other := (leader + 1) % 3
		if _, err := c.Store(other).Set(t.Context(), "color", []byte("green")); err != nil {
			t.Fatal(err)
		}
		c.Restart(leader)
	}) // the cleanup compares the nodes' states and looks for goroutines left behind
}
