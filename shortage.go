package kvraft

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/kvraft/kvraft/internal/roster"
)

// A leader without file descriptors keeps its place: it has its connections to the others,
// and heartbeats go on. But nobody can connect to it, and who has no connection to it
// already waits for a leader that does not take his calls, and elects no other.
//
// It hands over, as a leader does that commits nothing (see standstill.go). The target gets
// no vote of this node, which it cannot reach, so that a majority without it must be
// there: those that have answered a moment ago, or can be connected to. For that there is
// a descriptor in reserve.

// lookAtListener is for every node: one that others cannot reach is not ready.
func (w *watchdog) lookAtListener(now time.Time) string {
	s, t := w.s, w.s.transport
	failure := t.shortage.Load()
	fails := failure != nil && now.Sub(failure.at) < 2*longestAcceptWait // else nobody has tried to connect since
	lasts := w.accepting.Look(now, fails, t.accepted.Load())
	if lasts == 0 {
		t.reserve.fill()
	}
	if lasts <= s.patience() {
		w.handOverAt = 0
		return ""
	}
	if r := w.reign; r.leads && lasts > w.handOverAt && s.hasOtherVoter() {
		w.handOverAt = 2 * lasts
		s.life.Go(func() { w.handOver(r, lasts, failure.err) })
	}
	return fmt.Sprintf("this node can accept no connection: %v", failure.err)
}

// handOver has another voter elected, if one can be.
func (w *watchdog) handOver(r *reign, lasts time.Duration, reason error) {
	s := w.s
	target, err := s.successorOf(r)
	if err != nil {
		s.log.Warn("this leader can accept no connection, and none can take its place", "for", lasts.String(), "reason", reason, "because", err)
		return
	}
	s.log.Warn("this leader can accept no connection; handing leadership over", "for", lasts.String(), "reason", reason, "to", roster.UserID(target.Server))
	s.handOverTo(r, target, 4*s.opts.timing.Election)
}

// successorOf returns the voter whose log is known to reach furthest, of those that have
// answered this leader a moment ago.
func (s *detector) successorOf(r *reign) (target roster.Peer, err error) {
	moment := time.Now().Add(-s.opts.timing.Heartbeat)
	acked := s.raftTransport.acked
	all := roster.Voters(s.configuration())
	there := 0
	var missing []string
	for _, m := range all {
		voter := roster.Peer{Server: m.ID, Addr: string(m.Address)}
		switch {
		case m.ID == s.server:
		case acked.since(r.term, m.ID, moment):
			there++
			if target == (roster.Peer{}) || acked.by(m.ID) > acked.by(target.Server) {
				target = voter
			}
		default:
			if err := s.reach(r, voter); err != nil {
				missing = append(missing, fmt.Sprintf("; node %s: %v", roster.UserID(m.ID), err))
				continue
			}
			there++
		}
	}
	if target == (roster.Peer{}) || there <= len(all)/2 {
		return roster.Peer{}, fmt.Errorf("a majority of the %d voters is needed without it, which reaches %d%s", len(all), there, strings.Join(missing, ""))
	}
	return target, nil
}

// reach connects to a voter, to see whether it is there.
func (s *detector) reach(r *reign, voter roster.Peer) error {
	defer s.transport.reserve.release()()
	ctx, cancel := context.WithTimeout(r.ctx, s.opts.timing.Heartbeat)
	defer cancel()
	conn, _, err := s.transport.dial(ctx, voter.Addr, forRPC, voter.Server)
	if err != nil {
		return err
	}
	return conn.Close()
}

// reserve is file descriptors that are kept for when there are no others: for a
// connection, and for the questions to find the address of a name.
type reserve struct {
	mu    sync.Mutex
	files []*os.File // guarded by mu
}

const reserved = 4

func (r *reserve) fill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.files) < reserved {
		file, err := os.Open(os.DevNull)
		if err != nil {
			return // or else later
		}
		r.files = append(r.files, file)
	}
}

func (r *reserve) empty() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, file := range r.files {
		file.Close()
	}
	r.files = nil
}

// release makes the descriptors free until the function that it returns is called.
func (r *reserve) release() (fill func()) {
	r.empty()
	return r.fill
}
