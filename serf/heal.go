package serf

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/hashicorp/serf/serf"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/internal/sleep"
)

// failure is that of a member, as this node has seen it.
type failure struct {
	since time.Time

	// Of the removal that did not succeed yet: the latest error, when the next
	// attempt is due, and the pause before that.
	err   string
	next  time.Time
	pause time.Duration
}

// heal removes members that have failed for long enough, while this node leads.
func (g *Gossip) heal(store Store, gossip func() []serf.Member) {
	failed := map[string]*failure{} // by id
	for {
		note(failed, store.Status(), gossip(), time.Now())
		for id, f := range failed {
			if time.Since(f.since) >= g.config.HealAfter && !time.Now().Before(f.next) && store.Status().State == kvraft.Leading {
				g.remove(store, id, f)
			}
		}
		if !sleep.For(g.ctx, interval) {
			return
		}
	}
}

// note brings failed up to date: the members of the cluster of which the newest
// process that the gossip knows has failed, or says that its store has.
func note(failed map[string]*failure, st kvraft.Status, gossip []serf.Member, now time.Time) {
	newest := map[string]serf.Member{}
	for _, m := range gossip {
		if other := m.Tags[tagCluster]; other != "" && other != st.Cluster {
			continue // it may have the same id
		}
		if known, ok := newest[m.Tags[tagID]]; !ok || began(m) > began(known) {
			newest[m.Tags[tagID]] = m
		}
	}
	gone := map[string]bool{}
	for _, n := range st.Nodes {
		m, known := newest[n.ID]
		gone[n.ID] = known && n.ID != st.ID && (m.Status == serf.StatusFailed || m.Tags[tagStopped] != "")
	}
	for id := range failed {
		if !gone[id] {
			delete(failed, id)
		}
	}
	for id, isGone := range gone {
		if _, known := failed[id]; isGone && !known {
			failed[id] = &failure{since: now}
		}
	}
}

// began is when a process began, by the clock of its machine: only those of one node
// are compared.
func began(m serf.Member) int64 {
	since, _ := strconv.ParseInt(m.Tags[tagSince], 10, 64) // one that does not tell is the oldest
	return since
}

// remove tries to. A member can be refused for ever, as it answers although its gossip
// does not: that is logged when the reason changes, and tried more and more rarely.
func (g *Gossip) remove(store Store, id string, f *failure) {
	ctx, cancel := context.WithTimeout(g.ctx, 10*time.Second)
	defer cancel()
	switch err := store.Remove(ctx, id, kvraft.MayReturn, kvraft.IfSilent); {
	case err == nil:
		g.log.Warn("a node that has failed is removed from the cluster until it comes back", "id", id)
	case errors.Is(err, kvraft.ErrNotFound): // somebody was faster
	default:
		if err.Error() != f.err {
			g.log.Warn("a node that has failed cannot be removed from the cluster", "id", id, "error", err)
		}
		f.err = err.Error()
		f.pause = min(max(2*f.pause, interval), rarely)
		f.next = time.Now().Add(f.pause)
	}
}
