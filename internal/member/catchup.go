package member

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/loglimit"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/sleep"
	"github.com/kvraft/kvraft/internal/wire"
)

// Progress is kvraft.Progress.
type Progress struct {
	Index  uint64 `json:"index"`
	Behind uint64 `json:"behind"`
	Bytes  int64  `json:"bytes"`
	Rate   int64  `json:"bytes_per_second"`
}

func (p Progress) String() string {
	return fmt.Sprintf("%d log entries and %d bytes behind, at %d bytes per second", p.Behind, p.Bytes, p.Rate)
}

// learners are the members that a leader brings up to date, and what it has told
// this node if it is one of them.
type learners struct {
	mu         sync.Mutex
	catchingUp map[raft.ServerID]*catchUp // guarded by mu: by this node
	failures   loglimit.Trouble           // guarded by mu: to bring members up
	told       Progress                   // guarded by mu: this node's own
	toldAt     time.Time                  // guarded by mu
	loggedAt   time.Time                  // guarded by mu
}

// catchUp is the bringing up of one member, by a goroutine of its own.
type catchUp struct {
	done     chan struct{}
	err      error    // valid after done
	progress Progress // guarded by learners.mu
}

// FinishChanges looks after the members for as long as this node leads: what an earlier
// leader, or a join whose caller gave up, has left half done is finished.
func (ms *Members) FinishChanges(tenure *lead.Tenure) {
	if ms.State.AwaitTerm(tenure.Ctx, tenure.Term) != nil {
		return
	}
	words, forgetting := loglimit.Trouble{Log: ms.Log}, loglimit.Trouble{Log: ms.Log}
	for tenure.Ctx.Err() == nil {
		for _, m := range ms.Configuration().Servers {
			switch {
			case ms.IsRemoved(m.ID):
				words.About("a removal cannot be finished", ms.finishRemoval(tenure.Ctx, m))
			case m.Suffrage != raft.Voter && !ms.IsReplica(roster.UserID(m.ID)):
				ms.beginCatchUp(tenure, m)
			}
		}
		forgetting.About("old notes of members cannot be struck out", ms.forgetFormer(tenure))
		sleep.For(tenure.Ctx, ms.Timing.Heartbeat)
	}
}

// finishRemoval waits, as Remove would have refused, until the others are a majority
// without the member.
func (ms *Members) finishRemoval(ctx context.Context, m raft.Server) error {
	unlock, err := ms.LockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	req := RemoveRequest{ID: roster.UserID(m.ID), Force: ms.isRemovedByForce(m.ID)}
	if err := ms.checkRemovable(ctx, ms.Configuration(), m, req); err != nil {
		return err
	}
	if m.ID == ms.Server {
		return ms.lead.TransferTo(ctx, "")
	}
	return ms.removeForGood(ctx, m, req)
}

// bringUp waits until a member has caught up, and votes unless it is a replica.
func (ms *Members) bringUp(ctx context.Context, tenure *lead.Tenure, server raft.Server) error {
	l := ms.beginCatchUp(tenure, server)
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return fmt.Errorf("it catches up, and is %v: %w", ms.Progress()[roster.UserID(server.ID)], errs.Ended(ctx))
	}
}

// beginCatchUp begins to bring a member up, unless that is under way.
func (ms *Members) beginCatchUp(tenure *lead.Tenure, server raft.Server) *catchUp {
	ms.learners.mu.Lock()
	defer ms.learners.mu.Unlock()
	if l := ms.learners.catchingUp[server.ID]; l != nil {
		return l
	}
	l := &catchUp{done: make(chan struct{})}
	if ms.learners.catchingUp == nil {
		ms.learners.catchingUp = make(map[raft.ServerID]*catchUp)
	}
	ms.learners.catchingUp[server.ID] = l
	end := func(err error) {
		l.err = err
		delete(ms.learners.catchingUp, server.ID)
		close(l.done)
	}
	if !ms.Life.Go(func() {
		err := ms.promoteWhenCaughtUp(tenure.Ctx, l, server)
		ms.learners.mu.Lock()
		defer ms.learners.mu.Unlock()
		switch {
		case err == nil:
			ms.learners.failures.About("", nil)
		case tenure.Ctx.Err() == nil:
			ms.learners.failures.About("a node cannot be brought up", fmt.Errorf("%s: %w", roster.UserID(server.ID), err))
		}
		end(err)
	}) {
		end(ms.Life.Err())
	}
	return l
}

func (ms *Members) promoteWhenCaughtUp(ctx context.Context, l *catchUp, server raft.Server) error {
	if err := ms.awaitCaughtUp(ctx, l, server); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	if err := ms.promote(ctx, server); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	return nil
}

// awaitCaughtUp returns when server is as far as the leader was moments ago: after a
// round that took less than an election timeout (section 4.2.1 of Ongaro's
// thesis), or ten.
func (ms *Members) awaitCaughtUp(ctx context.Context, l *catchUp, server raft.Server) error {
	p := &catchUpMonitor{members: ms, server: server, catchUp: l, logged: time.Now()}
	for range 10 {
		began := time.Now()
		if err := p.reach(ctx, ms.Raft.CommitIndex()); err != nil {
			return err
		}
		if time.Since(began) < ms.Timing.Election {
			return nil
		}
	}
	return fmt.Errorf("%w: it falls behind as fast as it catches up", errs.Unsent)
}

// catchUpMonitor follows a member that catches up.
type catchUpMonitor struct {
	members *Members
	server  raft.Server
	catchUp *catchUp
	logged  time.Time // when progress was logged last

	at      time.Time // of the last look
	lacking int64     // bytes, then
	size    int64     // of the log and the snapshot, then
}

// CatchUpRequest is what a leader asks of a member that catches up.
type CatchUpRequest struct {
	Target uint64        `json:"target"` // answer when this log index is in the state,
	Within time.Duration `json:"within"` // or after that time; 0: that of the call
	So     Progress      `json:"so"`     // the member's, as its leader sees it
}

// reach waits until the member's state has reached a log index.
func (p *catchUpMonitor) reach(ctx context.Context, target uint64) error {
	ms := p.members
	to := roster.Peer{Server: p.server.ID, Addr: string(p.server.Address)}
	for {
		call, cancel := context.WithTimeout(ctx, ms.Patience())
		answer, err := wire.CallJSON[wire.Raw](call, ms.Port, to, wire.CallCatchUp, CatchUpRequest{target, ms.Timing.Heartbeat / 2, p.progress()})
		cancel()
		if err != nil {
			return err
		}
		index, err := wire.DecodeUint64(answer)
		if err != nil {
			return err
		}
		p.note(index)
		if index >= target {
			return nil
		}
	}
}

func (p *catchUpMonitor) progress() Progress {
	p.members.learners.mu.Lock()
	defer p.members.learners.mu.Unlock()
	return p.catchUp.progress
}

// note works out the progress of a member that is at a log index.
func (p *catchUpMonitor) note(index uint64) {
	const logEvery = 10 * time.Second
	ms := p.members
	lacking, size := ms.lacking(p.server.ID, index)
	now := Progress{Index: index, Bytes: lacking}
	if last := ms.Raft.LastIndex(); last > index {
		now.Behind = last - index
	}
	before := p.progress()
	if seconds := time.Since(p.at).Seconds(); !p.at.IsZero() && seconds > 0 {
		// What is written meanwhile makes it lack more, and was not sent.
		sent := max(0, p.lacking-lacking+size-p.size)
		now.Rate = (before.Rate + int64(float64(sent)/seconds)) / 2
	}
	p.at, p.lacking, p.size = time.Now(), lacking, size
	if time.Since(p.logged) > logEvery {
		p.logged = p.at
		ms.Log.Info("a node catches up", "id", roster.UserID(p.server.ID), "progress", now)
	}
	ms.learners.mu.Lock()
	defer ms.learners.mu.Unlock()
	p.catchUp.progress = now
}

// lacking is how many bytes a member at a log index lacks: of the newest snapshot,
// if the log does not reach back to the index, and of the log. size is that of all
// that could be lacking.
func (ms *Members) lacking(server raft.ServerID, index uint64) (bytes, size int64) {
	first, last := ms.Logs.Bounds()
	size = ms.Logs.Bytes()
	if index+1 >= first {
		return ms.Logs.SizeOf(index+1, last), size
	}
	list, err := ms.Snapshots.List()
	if err != nil || len(list) == 0 { // then raft cannot send one either
		return size, size
	}
	size += list[0].Size
	return max(0, list[0].Size-ms.RaftNet.SentTo(server)) + ms.Logs.SizeOf(list[0].Index+1, last), size
}

// ServeCatchUp is the member's side: it answers with the newest log index in its state,
// when that has reached the target, or when the time is up.
func (ms *Members) ServeCatchUp(ctx context.Context, p CatchUpRequest) (wire.Raw, error) {
	const logEvery = 10 * time.Second
	l := &ms.learners
	l.mu.Lock()
	l.told, l.toldAt = p.So, time.Now()
	log := time.Since(l.loggedAt) > logEvery && p.So.Behind > 0
	if log {
		l.loggedAt = l.toldAt
	}
	l.mu.Unlock()
	if log {
		ms.Log.Info("catching up", "progress", p.So)
	}
	wait, cancel := context.WithTimeout(ctx, cmp.Or(p.Within, wire.MaxCall))
	defer cancel()
	err := ms.State.AwaitIndex(wait, p.Target)
	if wait.Err() != nil && ctx.Err() == nil {
		err = nil
	}
	return binary.BigEndian.AppendUint64(nil, ms.Index()), err
}

// Progress is that of the members that this node brings up, by id, or this node's own.
func (ms *Members) Progress() map[string]Progress {
	l := &ms.learners
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]Progress)
	for server, c := range l.catchingUp {
		all[roster.UserID(server)] = c.progress
	}
	if l.told.Behind > 0 && time.Since(l.toldAt) < 2*ms.Timing.Heartbeat {
		all[ms.ID] = l.told
	}
	return all
}

// promote gives a member its vote, unless it is a replica.
func (ms *Members) promote(ctx context.Context, server raft.Server) error {
	unlock, err := ms.LockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, m := range ms.Configuration().Servers {
		if m.ID != server.ID || ms.IsRemoved(m.ID) {
			continue
		}
		if m.Suffrage == raft.Voter || ms.IsReplica(roster.UserID(m.ID)) { // what it is to be may have changed meanwhile
			return nil
		}
		ms.Log.Info("promote to voter", "id", roster.UserID(m.ID), "addr", roster.DialAddr(string(m.Address)))
		return ms.Change(ctx, func() raft.Future { return ms.Raft.AddVoter(m.ID, m.Address, 0, ms.Patience()) })
	}
	return fmt.Errorf("%w: it was removed meanwhile", errs.Unsent)
}
