// Package raftlog sorts what raft logs. Much of what raft calls an error or a warning is
// the usual course of an election, a transfer or a start, and is logged as an info. That a
// peer does not answer is a warning when it lasts: the peer may be starting again.
//
// There is no goroutine. The one mutex is not held while something is logged. It is tested
// in virtual time.
package raftlog

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Logger is what raft logs to.
type Logger struct {
	hclog.Logger
	closing func() bool

	mu      sync.Mutex
	outages map[string]*outage // guarded by mu: of a peer, by its id or its address, as the lines name it
}

// outage is of a peer that raft does not reach.
type outage struct {
	first, last time.Time // failures
	told        time.Time
}

const (
	outageLasts = 10 * time.Second
	outageEnds  = 15 * time.Second // after the last failure: raft tries again within 11 s
	outageAgain = time.Minute      // is told
)

// New returns a Logger that writes to log. When closing reports so the node stops, and
// loses its followers as it should.
func New(log hclog.Logger, closing func() bool) *Logger {
	return &Logger{Logger: log, closing: closing, outages: make(map[string]*outage)}
}

func (l *Logger) Error(msg string, args ...any) { l.log(l.Logger.Error, msg, args) }
func (l *Logger) Warn(msg string, args ...any)  { l.log(l.Logger.Warn, msg, args) }

func (l *Logger) log(write func(string, ...any), msg string, args []any) {
	switch {
	case isUsual(msg), isCompacted(msg, args), l.closing() && msg == "failed to contact quorum of nodes, stepping down":
		l.Logger.Info(msg, args...)
	case isOutage(msg):
		if lasts := l.missed(peerIn(args)); lasts > 0 {
			l.Logger.Warn(msg, append(args, "for", lasts.Round(time.Second).String())...)
		} else {
			l.Logger.Debug(msg, args...)
		}
	default:
		write(msg, args...)
	}
}

// isUsual reports whether raft says this in a cluster where nothing is wrong.
func isUsual(msg string) bool {
	switch msg {
	case "no known peers, aborting election", // a node that waits to be admitted
		"not part of stable configuration, aborting election",
		"heartbeat timeout reached, not part of a stable configuration or a non-voter, not triggering a leader election",
		"heartbeat timeout reached, starting election",
		"Election timeout reached, restarting election",
		"new leader elected, stepping down",
		"peer has newer term, stopping replication",
		"failed to get previous log", // the follower has less, or other entries
		"previous log term mis-match",
		"clearing log suffix",
		"appendEntries rejected, sending older logs":
		return true
	}
	return strings.HasPrefix(msg, "rejecting ") || strings.HasPrefix(msg, "duplicate requestVote") // or pre-vote
}

// isCompacted reports whether raft is about to send a snapshot, as the log does not reach
// back to what a follower has.
func isCompacted(msg string, args []any) bool {
	return msg == "failed to get log" && slices.ContainsFunc(args, func(arg any) bool { return arg == raft.ErrLogNotFound })
}

// isOutage reports whether raft says this of a peer that did not answer.
func isOutage(msg string) bool {
	switch msg {
	case "failed to make requestVote RPC",
		"failed to appendEntries to",
		"failed to heartbeat to",
		"failed to pipeline appendEntries",
		"failed to start pipeline replication to",
		"failed to contact": // within three leases
		return true
	}
	return false
}

// peerIn is the peer that a line is about, which comes first.
func peerIn(args []any) string {
	if len(args) < 2 {
		return ""
	}
	switch peer := args[1].(type) {
	case raft.Server:
		return string(peer.Address)
	case raft.ServerAddress:
		return string(peer)
	case raft.ServerID:
		return string(peer)
	}
	return ""
}

// missed counts a failure to reach a peer. If the outage is to be told now it returns
// how long it lasts.
func (l *Logger) missed(peer string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	o := l.outages[peer]
	if o == nil || now.Sub(o.last) > outageEnds {
		o = &outage{first: now}
		l.outages[peer] = o
	}
	o.last = now
	lasts := now.Sub(o.first)
	if lasts < outageLasts || now.Sub(o.told) < outageAgain {
		return 0
	}
	o.told = now
	return lasts
}

// Reached ends the outage of a peer: it has answered.
func (l *Logger) Reached(id raft.ServerID, addr raft.ServerAddress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.outages, string(id))
	delete(l.outages, string(addr))
}
