package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"log"
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

// Three nodes of one program; in earnest each has a directory and runs on a
// machine of its own. The first founds the cluster, the others ask it.
func Example_threeNodes() {
	var stores []*kvraft.Store
	var first []kvraft.Option
	for range 3 {
		store, err := kvraft.Open("", append(first, kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"))...)
		if err != nil {
			log.Fatal(err)
		}
		defer store.Close()
		stores = append(stores, store)
		first = []kvraft.Option{kvraft.WithJoin(stores[0].Status().Addr)}
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
