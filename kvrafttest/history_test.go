package kvrafttest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
)

func TestWhatIsNotLinearizableIsFound(t *testing.T) {
	ab := []record{ // a batch of two sets
		{kind: set, key: "a", value: "1", version: 5, batch: 1, from: 1, to: 2},
		{kind: set, key: "b", value: "1", version: 5, batch: 1, from: 1, to: 2},
	}
	doubtful := []record{
		{kind: set, key: "a", value: "1", outcome: unknown, batch: 1, from: 1},
		{kind: set, key: "b", value: "1", outcome: unknown, batch: 1, from: 1},
	}
	read := func(key, value string, version uint64) record {
		return record{kind: get, key: key, value: value, version: version, from: 3, to: 4}
	}
	view := func(version uint64, keys ...record) []viewed {
		v := viewed{version: version, keys: map[string]record{}, from: 3, to: 4}
		for _, r := range keys {
			v.keys[r.key] = r
		}
		return []viewed{v}
	}
	event := func(version uint64, key string, more bool) seen {
		return seen{kvraft.Event{Kind: kvraft.EventSet, Key: key, Value: []byte("1"), Version: version, More: more}, 9}
	}
	watch := func(events ...seen) []*watched {
		return []*watched{{covers: func(string) bool { return true }, events: events}}
	}
	for name, c := range map[string]struct {
		calls   []record
		views   []viewed
		watches []*watched
		want    string
	}{
		"a batch":                           {calls: ab},
		"a batch that is read":              {calls: append(ab[:2:2], read("b", "1", 5))},
		"a view of it":                      {calls: ab, views: view(5, read("a", "1", 5), read("b", "1", 5))},
		"a view of a doubtful one":          {calls: doubtful, views: view(5, read("a", "1", 5), read("b", "1", 5))},
		"a view before it":                  {calls: doubtful, views: view(0, read("a", "", 0), read("b", "", 0))},
		"a watch of it":                     {calls: ab, watches: watch(event(5, "a", true), event(5, "b", false))},
		"a watch that begins it again":      {calls: ab, watches: watch(event(5, "a", true), event(5, "a", true), event(5, "b", false))},
		"two writes with one version":       {calls: append(ab[:2:2], record{kind: set, key: "c", version: 5, from: 1, to: 3}), want: "two writes"},
		"a batch and another read":          {calls: append(ab[:2:2], read("b", "2", 5)), want: "did not read"},
		"a view that is old":                {calls: ab, views: view(4, read("a", "", 0)), want: "older"},
		"a view that lacks a part":          {calls: ab, views: view(6, read("a", "1", 5), read("b", "", 0)), want: "and not what was written"},
		"a view with a part of a doubtful":  {calls: doubtful, views: view(5, read("a", "1", 5), read("b", "", 0)), want: "part of a batch"},
		"a view of the future":              {calls: doubtful, views: view(3, read("a", "1", 5)), want: "has {"},
		"a watch that goes back":            {watches: watch(event(5, "a", false), event(4, "b", false)), want: "goes back"},
		"a watch with a part":               {watches: watch(event(5, "a", true), event(6, "b", false)), want: "a part of a batch"},
		"a watch that repeats":              {watches: watch(event(5, "a", false), event(5, "a", false)), want: "done with"},
		"a watch that leaves out":           {calls: ab, watches: watch(event(4, "c", false), event(6, "c", false)), want: "leaves out"},
		"a watch with what was not written": {calls: ab, watches: watch(event(5, "c", false)), want: "what was written is"},
	} {
		var faults []string
		for _, found := range [][]string{checkVersions(c.calls), checkViews(c.calls, c.views), checkWatches(c.calls, c.watches)} {
			faults = append(faults, found...)
		}
		if all := strings.Join(faults, "\n"); c.want == "" && all != "" || !strings.Contains(all, c.want) {
			t.Errorf("%s: found %q, want %q", name, all, c.want)
		}
	}
}

func TestBatchesViewsAndWatchesOfAClusterAreLinearizable(t *testing.T) {
	history := NewHistory()
	synctest.Test(t, func(t *testing.T) {
		c := New(t, 3)
		ctx, stop := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for i := range c.Len() {
			client := c.Client(i)
			clients.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					call, cancel := context.WithTimeout(ctx, 2*time.Second)
					value := fmt.Sprint(i, "-", n)
					x, y := fmt.Sprint("key-", n%5), fmt.Sprint("key-", (n+1+i)%5)
					switch n % 4 {
					case 0:
						_, _ = history.Batch(call, client, map[string]string{x: value, y: value})
					case 1:
						_, _ = history.Batch(call, client, map[string]string{x: value}, "gone")
					default:
						_, _ = history.View(call, client, "key-0", "key-1", "key-2", "key-3", "key-4", "gone")
					}
					cancel()
					time.Sleep(5 * time.Millisecond)
				}
			})
			clients.Go(func() {
				flags := []kvraft.WatchOption{kvraft.SnapshotFirst, kvraft.After(0), kvraft.SyncEvery(time.Second)}
				for range history.Watch(ctx, client, "key-", flags[i]) {
				}
			})
		}
		for n := range 4 {
			leader := c.WaitLeader()
			switch n {
			case 0, 2:
				c.Crash(leader)
			case 1:
				c.Pause(leader)
			case 3:
				c.Isolate(leader)
			}
			time.Sleep(2 * time.Second)
			c.Heal()
			c.Resume(leader)
			if !c.Up(leader) {
				c.Restart(leader)
			}
			c.WaitReady(leader)
		}
		stop()
		clients.Wait()
	})
	events := 0
	for _, w := range history.watches {
		events += len(w.events)
	}
	if len(history.views) < 100 || events < 100 {
		t.Errorf("%d views and %d events", len(history.views), events)
	}
	history.Check(t, time.Minute)
}
