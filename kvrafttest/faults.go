package kvrafttest

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/kvraft/kvraft"
)

// Partition cuts the network into groups of nodes that cannot reach each other,
// until Heal. Nodes in no group form one more.
func (c *Cluster) Partition(groups ...[]int) {
	named := make([][]string, len(groups))
	for g, group := range groups {
		for _, i := range group {
			named[g] = append(named[g], c.nodes[i].host)
		}
	}
	c.network.Partition(named...)
}

// Isolate cuts node i off from all others, until Heal.
func (c *Cluster) Isolate(i int) { c.network.Isolate(c.nodes[i].host) }

// Block cuts one way, until Heal: what from sends does not reach to.
func (c *Cluster) Block(from, to int) { c.network.Block(c.nodes[from].host, c.nodes[to].host) }

// DropLarge loses packets of more than so many bytes that from sends to to, until Heal.
func (c *Cluster) DropLarge(from, to, over int) {
	c.network.DropLarge(c.nodes[from].host, c.nodes[to].host, over)
}

// Exhaust leaves node i without file descriptors to accept connections, and unless dials
// to make any, until Heal or Crash.
func (c *Cluster) Exhaust(i int, dials bool) { c.network.Exhaust(c.nodes[i].host, dials) }

// GoDark loses what is sent over the connections that are open between the nodes i and j, either way, for good and in
// silence. New ones work.
func (c *Cluster) GoDark(i, j int) { c.network.GoDark(c.nodes[i].host, c.nodes[j].host) }

// Heal ends every cut, loss, delay and shortage of the network.
func (c *Cluster) Heal() { c.network.Heal() }

// Crash ends node i as kill -9 would: its connections are reset, nothing that it
// does afterwards leaves it, and its disk keeps what was stored at that moment. It
// returns when the remains of the node are cleared away, which may take a few
// seconds, of virtual time in a bubble.
func (c *Cluster) Crash(i int) {
	c.tb.Helper()
	n := c.nodes[i]
	store := c.runs(i)
	n.disk.Crash()
	n.alive.dead.Store(true)
	c.network.Reset(n.host)
	close(n.alive.buried)
	c.ended(n)
	if err := store.Close(); err != nil && !errors.Is(err, ErrCrashed) { // only to clear the process away
		c.tb.Errorf("clear node %s away: %v", n.id, err)
	}
}

// Pause stops node i as SIGSTOP would, until Resume, as far as that can be had inside a process: its network and its disk
// are paused, see [Network.Pause] and [Disk.Pause]. Others find it as they find a process that is stopped: its connections
// stay, new ones are made, and nothing is answered.
//
// What needs neither goes on, where a process that is stopped finds out later: calls that read its state as it is, and
// its timers. A leader gives up its place when its lease has ended, and a node that is in the middle of an operation of its
// disk stops after [kvraft.Timing].Stall, as it does when that hangs. Files, which are its snapshots, are not paused.
func (c *Cluster) Pause(i int) {
	c.tb.Helper()
	c.runs(i)
	c.nodes[i].disk.Pause()
	c.network.Pause(c.nodes[i].host)
}

// Resume lets node i go on after Pause.
func (c *Cluster) Resume(i int) {
	c.network.Resume(c.nodes[i].host)
	c.nodes[i].disk.Resume()
}

// Stop closes the store of node i, which goes on first if it was paused.
func (c *Cluster) Stop(i int) {
	c.tb.Helper()
	n := c.nodes[i]
	store := c.runs(i)
	c.Resume(i)
	c.ended(n)
	if err := store.Close(); err != nil {
		c.tb.Fatalf("stop node %s: %v", n.id, err)
	}
}

// Restart starts node i again, after Crash or Stop, on what its disk holds. It
// does not wait for it; see WaitReady.
func (c *Cluster) Restart(i int) {
	c.tb.Helper()
	if c.Up(i) {
		c.tb.Fatalf("restart node %s: it is running", c.nodes[i].id)
	}
	c.start(i)
}

// SetOptions gives node i, which must be down, other options beside those of New for its next start, in place of those that
// Add or SetOptions gave it.
func (c *Cluster) SetOptions(i int, opts ...kvraft.Option) {
	c.tb.Helper()
	n := c.nodes[i]
	if c.Up(i) {
		c.tb.Fatalf("set options of node %s: it is running", n.id)
	}
	n.opts = opts
}

// Move gives node i, which must be down, another host to start on.
func (c *Cluster) Move(i int) {
	c.tb.Helper()
	n := c.nodes[i]
	if c.Up(i) {
		c.tb.Fatalf("move node %s: it is running", n.id)
	}
	n.moves++
	n.host = fmt.Sprintf("%s-%d", n.id, n.moves)
}

// Remove takes node i out of the cluster, through another node that is up, and
// stops it. It belongs to the cluster no more, and no check looks at it.
func (c *Cluster) Remove(i int) {
	c.tb.Helper()
	n := c.nodes[i]
	through := -1
	for j, other := range c.nodes {
		if j != i && other.store != nil {
			through = j
		}
	}
	if through < 0 {
		c.tb.Fatalf("remove node %s: no other node is up", n.id)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.runs(through).Remove(ctx, n.id); err != nil {
		c.tb.Fatalf("remove node %s: %v", n.id, err)
	}
	n.gone = true
	if c.Up(i) {
		c.Stop(i)
	}
}

// Removed reports whether node i was removed, or is a copy.
func (c *Cluster) Removed(i int) bool { return c.nodes[i].gone }

// Wipe empties the disk and the directory of node i, which must be down.
func (c *Cluster) Wipe(i int) {
	c.tb.Helper()
	n := c.nodes[i]
	if c.Up(i) {
		c.tb.Fatalf("wipe node %s: it is running", n.id)
	}
	n.disk = NewDisk()
	if err := os.RemoveAll(n.dir); err != nil {
		c.tb.Fatalf("wipe node %s: %v", n.id, err)
	}
}
