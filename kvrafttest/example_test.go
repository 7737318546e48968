package kvrafttest_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// In a test, t takes the place of tb, and a synctest bubble around it saves the
// waiting for the election.
func ExampleNew() {
	tb := &exampleTB{}
	defer tb.finish()

	c := kvrafttest.New(tb, 3)
	leader := c.WaitLeader()
	other := (leader + 1) % c.Len()
	_, err := c.Store(other).Set(context.Background(), "color", []byte("green"))
	fmt.Println("set on a follower:", err)

	c.Crash(leader)
	next := c.WaitLeader()
	entry, err := c.Store(next).Get(context.Background(), "color")
	fmt.Println("get on the next leader:", string(entry.Value), err)
	// Output:
	// set on a follower: <nil>
	// get on the next leader: green <nil>
}

// A client goes on with its node, whenever that is up.
func ExampleClient() {
	tb := &exampleTB{}
	defer tb.finish()

	c := kvrafttest.New(tb, 3)
	client := c.Client(1)
	_, err := client.Set(context.Background(), "color", []byte("green"))
	fmt.Println("before:", err)

	c.Crash(1)
	read := make(chan kvraft.Entry)
	go func() {
		entry, err := client.Get(context.Background(), "color") // waits
		if err != nil {
			log.Print(err)
		}
		read <- entry
	}()
	c.Restart(1)
	fmt.Println("after:", string((<-read).Value))
	// Output:
	// before: <nil>
	// after: green
}

// exampleTB is as much of a test as New needs, since an example has none.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (tb *exampleTB) Helper()                      {}
func (tb *exampleTB) Failed() bool                 { return false }
func (tb *exampleTB) Cleanup(f func())             { tb.cleanups = append(tb.cleanups, f) }
func (tb *exampleTB) Errorf(f string, args ...any) { log.Printf(f, args...) }
func (tb *exampleTB) Fatalf(f string, args ...any) { log.Fatalf(f, args...) }

func (tb *exampleTB) TempDir() string {
	dir, err := os.MkdirTemp("", "kvrafttest")
	if err != nil {
		log.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (tb *exampleTB) finish() {
	for i := len(tb.cleanups) - 1; i >= 0; i-- {
		tb.cleanups[i]()
	}
}
