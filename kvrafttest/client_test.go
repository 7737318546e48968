package kvrafttest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

func TestClientsFollowTheirNodesAcrossRestarts(t *testing.T) {
	history := kvrafttest.NewHistory()
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		ctx, stop := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for i := range c.Len() {
			clients.Go(func() {
				client := c.Client(i)
				for n := 0; ctx.Err() == nil; n++ {
					call, cancel := context.WithTimeout(ctx, 2*time.Second)
					_, _ = history.Set(call, client, fmt.Sprint("key-", n%7), fmt.Sprint(i, "-", n))
					_, _ = history.Get(call, client, fmt.Sprint("key-", (n+i)%7))
					cancel()
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
		for range 3 {
			leader := c.WaitLeader()
			c.Crash(leader)
			time.Sleep(time.Second)
			c.Restart(leader)
			c.WaitReady(leader)
		}
		stop()
		clients.Wait()
	})
	history.Check(t, time.Minute)
}

func TestACallWaitsWhileItsNodeIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		client := c.Client(1)
		c.Stop(1)
		if _, err := client.Get(within(t, time.Second), "key"); !errors.Is(err, kvraft.ErrNoLeader) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while it is down: %v", err)
		}
		if _, err := c.Store(1).Get(t.Context(), "key"); !errors.Is(err, kvraft.ErrClosed) {
			t.Errorf("the store before: %v", err)
		}
		began := time.Now()
		written := make(chan error)
		go func() { _, err := client.Set(t.Context(), "key", []byte("value")); written <- err }()
		time.Sleep(30 * time.Second)
		c.Restart(1)
		if err := <-written; err != nil || time.Since(began) < 30*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestAWatchOfAClientMissesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		var versions []uint64
		ctx, stop := context.WithCancel(t.Context())
		watching := make(chan error)
		go func() {
			for event, err := range c.Client(2).Watch(ctx, "key") {
				if err != nil {
					watching <- err
					return
				}
				versions = append(versions, event.Version)
			}
		}()
		time.Sleep(time.Second)
		for n := range 6 {
			if n%2 == 1 {
				c.Crash(2)
			}
			if _, err := c.Client(0).Set(t.Context(), fmt.Sprint("key-", n), nil); err != nil {
				t.Fatal(err)
			}
			if n%2 == 1 {
				c.Restart(2)
				c.WaitReady(2)
			}
		}
		time.Sleep(time.Second)
		stop()
		if err := <-watching; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if fmt.Sprint(versions) != "[1 2 3 4 5 6]" {
			t.Errorf("saw versions %v", versions)
		}
	})
}

func TestANodeMayBeInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3, kvraft.WithInMemory())
		if _, err := c.Store(1).Set(t.Context(), "key", nil); err != nil {
			t.Error(err)
		}
	})
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
