// Package failover has a cluster elect another leader as soon as its leader is gone, and
// none while that lives.
//
// The timeouts of a cluster are long, so that no healthy leader loses its place to
// a slow disk or a short pause. But the death of a process is no silence: the
// system closes its connections and refuses new ones. So each follower keeps a
// connection to its leader, on which nothing is said, to see it break. When it does,
// and the leader's address refuses another, the follower takes the leader for dead.
// When a majority of the voters do, the one of them whose log reaches furthest
// stands for election at once, as if the leader had told it to (section 3.10 of
// Ongaro's thesis): the others then vote although they had a leader a moment ago.
//
// This replaces the wait before an election, and nothing of the election itself.
// It must not cost a healthy leader its place:
//
//   - A pause, or a link that is lost, refuses nothing, and goes by the timeout.
//   - A leader to whom such a connection breaks refutes it: it at once dials who kept it, and
//     who has heard from the leader since, or has any connection from it, does not take
//     it for dead, though its address refuses another.
//   - What one follower sees is not enough.
//
// The timeout goes the same way. A follower of raft looks at times that are drawn at
// random whether it has heard from its leader within Heartbeat, and forgets it only
// then, up to three times Heartbeat after it was last heard; until then it gives nobody
// a pre-vote, and a candidate that is refused waits again. So a majority took from one
// to three times Heartbeat. Here each follower asks the others as soon as it has heard
// nothing for Heartbeat: when a majority of the voters have not, the leader has had no
// answer from a majority for as long, and its lease, which is not longer, has ended.
//
// When the voters of a cluster are started together, none of them has a leader, and raft
// would wait for one for as long. They ask each other likewise, see mayStart.
//
// It is used so:
//
//	d := failover.New(n, tracker)
//	tracker.WhenFollowing = []func(*lead.Tenure){d.Monitor, d.AwaitSilence}
//	n.Life.Go(d.CampaignAtStart)
//	port.HandleConn(wire.ForMonitor, d.ServeMonitor)
//	wire.HandleJSON(port, wire.CallSuspicion, d.VoteOnSuspicion)
//	wire.HandleJSON(port, wire.CallStart, d.VoteOnStart)
//
// Monitor and AwaitSilence are duties of a tenure, each in a goroutine of the tracker's;
// CampaignAtStart has one until this node has heard of a leader.
// ServeMonitor runs in that of the connection and waits for its own reader. The questions
// to the other voters have a goroutine of Life each; who asks waits for all of them. The
// package has no lock: what a tenure's duties share are its atomics.
//
// Tests: suspicion_test.go and start_test.go have the order of the voters. The rest are
// clusters in virtual time, in failover_test.go and start_test.go of the root package.
package failover

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"github.com/kvraft/kvraft/internal/wire"
)

// Detector is the failure detector of one node.
type Detector struct {
	*node.Node
	lead *lead.Tracker

	refutations batch.Spacing[raft.ServerID]
}

// New returns a detector, which does nothing before it is called.
func New(n *node.Node, t *lead.Tracker) *Detector { return &Detector{Node: n, lead: t} }

// Monitor watches the leader of a tenure, as long as that lasts.
func (d *Detector) Monitor(r *lead.Tenure) {
	const shortest, longest = 5 * time.Millisecond, 500 * time.Millisecond
	pause, last := sleep.Backoff{Next: shortest, Most: longest}, watch{broke: r.Began}
	for r.Ctx.Err() == nil {
		process, took, err := d.monitorOnce(r)
		kept := process != ""
		if kept {
			pause.Next, last = shortest, watch{process, time.Now(), took}
		}
		switch {
		case err == nil: // in order: it leads no more, and the next one will be heard of
			pause.Next = longest
		case !kept:
			d.suspect(r, last)
		}
		r.Dead.Store(false)
		pause.Wait(r.Ctx)
	}
}

// watch is a connection to the leader that was kept.
type watch struct {
	process string // of the leader; empty: none was kept in this tenure
	broke   time.Time
	dial    time.Duration // it took to begin
}

// monitorOnce returns nil when the leader ends it, and an error when it breaks, or when,
// without a process, it cannot begin. It took that long to begin.
func (d *Detector) monitorOnce(r *lead.Tenure) (process string, took time.Duration, err error) {
	began := time.Now()
	conn, who, err := d.Port.Dial(r.Ctx, r.Leader.Addr, wire.ForMonitor, r.Leader.Server)
	if err != nil {
		return "", 0, err
	}
	defer conn.Close()
	if !who.Leads {
		return "", 0, errs.NotLeader
	}
	took = time.Since(began)
	defer context.AfterFunc(r.Ctx, func() { conn.Close() })()
	var farewell [1]byte
	_, err = io.ReadFull(conn, farewell[:])
	return who.Process, took, err
}

// ServeMonitor is the leader's side: its end, a byte, comes when this node leads no
// more, and at once to who is no member: it is not reassured either.
func (d *Detector) ServeMonitor(conn net.Conn, h wire.Hello) {
	r := d.lead.Tenure()
	broken := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() {
		defer close(broken)
		_, _ = io.Copy(io.Discard, conn) // however it ends
	})
	defer listening.Wait()
	defer conn.Close()
	if !r.Leads || !d.Lists(h.From) {
		_, _ = conn.Write([]byte{1}) // if it does not arrive, the follower asks again
		return
	}
	select {
	case <-r.Ctx.Done():
		_, _ = conn.Write([]byte{1})
	case <-broken:
		d.refute(r, h)
	}
}

// refute dials a follower whose connection has broken: this leader lives. It does so some
// twenty times per Heartbeat, and not however often somebody in the follower's name has
// one break.
func (d *Detector) refute(r *lead.Tenure, h wire.Hello) {
	ctx, cancel := context.WithTimeout(r.Ctx, d.Timing.Heartbeat)
	defer cancel()
	if !d.refutations.Await(ctx, h.From, d.Timing.Heartbeat/20) {
		return
	}
	_, _ = d.Port.Ping(ctx, roster.Peer{Server: h.From, Addr: h.At})
}

// seemsDead reports whether another process is at the leader's address than was watched, or
// the address refuses a connection, or it leads no more; and in the latter two cases has no
// connection to this node, nor has dialed it as a leader since.
func (d *Detector) seemsDead(r *lead.Tenure, last watch) bool {
	ctx, cancel := context.WithTimeout(r.Ctx, d.Timing.Heartbeat/4)
	defer cancel()
	who, err := d.Port.Ping(ctx, r.Leader)
	switch {
	case err == nil && who.Leads, err != nil && !errors.Is(err, syscall.ECONNREFUSED):
		return false
	case err == nil && last.process != "" && who.Process != last.process:
		return true
	}
	c := d.Port.CallsFrom(r.Leader.Server)
	return c.Open == 0 && !c.Led.After(last.broke)
}

// suspect stands for election when a majority of the voters take the leader for dead as
// well. A leader that lives has the time of a dial, and a little more, to make itself
// heard.
func (d *Detector) suspect(r *lead.Tenure, last watch) {
	const poll = 5 * time.Millisecond
	grace := last.dial + d.Timing.Heartbeat/40
	end := time.Now().Add(2 * d.Timing.Heartbeat)
	candidacy := d.candidacyAfter(r)
	for wait := grace; time.Now().Before(end); wait = poll {
		if !sleep.For(r.Ctx, wait) {
			return
		}
		if !d.seemsDead(r, last) || d.RaftNet.Abstains() {
			return
		}
		r.Dead.Store(true)
		if !candidacy.isDue(r.Ctx) || !d.CampaignAfter(r, "the leader's process is gone") {
			continue
		}
		<-r.Ctx.Done() // if it is not elected it goes by the timeout
		return
	}
}
