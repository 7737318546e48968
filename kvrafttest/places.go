package kvrafttest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Exchange gives the nodes, which must be down, each other's hosts: each gets that of
// the next one in the list, and the last that of the first. They start there, as
// containers and pods do that get their addresses anew.
func (c *Cluster) Exchange(nodes ...int) {
	c.tb.Helper()
	var hosts []string
	for _, i := range nodes {
		if c.Up(i) {
			c.tb.Fatalf("move node %s: it is running", c.nodes[i].id)
		}
		hosts = append(hosts, c.nodes[i].host)
	}
	for k, i := range nodes {
		c.nodes[i].host = hosts[(k+1)%len(hosts)]
	}
}

// Copy starts a node on a copy of what node i has on its disk and in its directory at
// this moment, on another host, and returns its number. It has the id of node i. It does
// not belong to the cluster, and no check looks at it: see Removed.
func (c *Cluster) Copy(i int) int {
	c.tb.Helper()
	original, k := c.nodes[i], len(c.nodes)
	host := fmt.Sprintf("%s-copy-%d", original.id, k)
	n := &node{id: original.id, host: host, gone: true, opts: original.opts, dir: filepath.Join(c.dir, host), disk: original.disk.Clone()}
	if err := copyComplete(n.dir, original.dir); err != nil {
		c.tb.Fatalf("copy node %s: %v", n.id, err)
	}
	c.include(n)
	c.start(k)
	return k
}

// copyComplete copies a node's directory, but for snapshots that are being written.
func copyComplete(to, from string) error {
	entries, err := filepath.Glob(filepath.Join(from, "*", "*"))
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(path string) bool { return filepath.Ext(path) == ".tmp" })
	for _, path := range entries {
		below, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if err := os.CopyFS(filepath.Join(to, below), os.DirFS(path)); err != nil {
			return err
		}
	}
	return os.MkdirAll(to, 0o700)
}

// Succeed makes copy k node i, and node i the copy: the cluster has taken the copy for
// the node.
func (c *Cluster) Succeed(i, k int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, b := c.nodes[i], c.nodes[k]
	a.gone, b.gone = b.gone, a.gone
	b.moves = a.moves
	c.nodes[i], c.nodes[k] = b, a
	c.tell()
}
