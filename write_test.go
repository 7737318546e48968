package kvraft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
	"github.com/kvraft/kvraft/internal/limits"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
	"github.com/kvraft/kvraft/internal/wire/wiretest"
)

func TestAWriteOverALimitIsNotEvenQueued(t *testing.T) {
	s := newTestServer(t)
	s.writes.groups = batch.NewGroups(nil, func(func()) bool { t.Error("it is queued"); return false })
	_, setErr := s.Set(t.Context(), "k", make([]byte, s.opts.limits.ValueBytes+1))
	_, deleteErr := s.Delete(t.Context(), strings.Repeat("k", s.opts.limits.BatchBytes+1))
	_, batchErr := s.Batch(t.Context())
	if !errors.Is(setErr, ErrTooLarge) || !errors.Is(deleteErr, ErrTooLarge) || !errors.Is(batchErr, ErrInvalid) {
		t.Errorf("got %v, %v, %v", setErr, deleteErr, batchErr)
	}
}

var errEnough = errors.New("enough")

// scriptedSender is a sender that answers requests one by one, as groups, and notes
// their ids and ages.
type scriptedSender struct {
	ids  []command.ID
	born []uint64
}

type answer struct {
	result command.Result
	err    error
}

// send answers so many requests. Those that come after wait to be sent.
func (x *scriptedSender) send(s *Store, answers ...answer) {
	send := func(entry []byte) ([]command.Result, error) {
		requests, err := command.Decode(entry)
		if err != nil {
			return nil, err
		}
		x.ids, x.born = append(x.ids, requests[0].ID), append(x.born, requests[0].Born)
		a := answers[0]
		answers = answers[1:]
		return []command.Result{a.result}, a.err
	}
	s.writes.groups = batch.NewGroups(sending(send), func(run func()) bool {
		if len(answers) > 0 {
			go run()
		}
		return true
	})
}

// sending is a send that has nothing to wait for.
func sending(f func(entry []byte) ([]command.Result, error)) func(func() []byte) ([]command.Result, error) {
	return func(seal func() []byte) ([]command.Result, error) {
		if entry := seal(); entry != nil {
			return f(entry)
		}
		return nil, nil
	}
}

// emptyEntry is what a group without requests would be.
func emptyEntry() []byte { return []byte{} }

// hold makes what is written on s wait for release.
func hold(s *Store) (release func()) {
	released := make(chan struct{})
	s.writes.groups = batch.NewGroups(s.writes.propose, func(run func()) bool {
		return s.node.Life.Go(func() {
			select {
			case <-released:
				run()
			case <-s.node.Ctx.Done():
			}
		})
	})
	return func() { close(released) }
}

var (
	unsent   = answer{err: fmt.Errorf("%w: not now", errs.Unsent)}
	unknown  = answer{err: fmt.Errorf("%w: lost on the way", ErrUnknown)}
	applied5 = answer{result: command.Result{Version: 5}}
	expired8 = answer{result: command.Result{Code: command.Expired, Version: 8}}
)

func TestAWriteIsRepeatedUnderItsIDUntilItsOutcomeIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		s.fsm.Apply(setEntry(3, 1, "a", ""))
		x := new(scriptedSender)
		x.send(s, unsent, unknown, unsent, unknown, applied5)
		if version, err := s.Set(t.Context(), "k", nil); version != 5 || err != nil {
			t.Errorf("got %d, %v, want version 5", version, err)
		}
		if len(x.ids) != 5 || len(slices.Compact(x.ids)) != 1 {
			t.Errorf("%d different ids in 5 attempts: it may take effect more than once", len(slices.Compact(x.ids)))
		}
		if !slices.Equal(slices.Compact(x.born), []uint64{3}) {
			t.Errorf("born at %v, want the state's index 3", x.born)
		}
	})
}

func TestTwoWritesHaveTwoIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, x := newTestServer(t), new(scriptedSender)
		x.send(s, applied5, applied5)
		for range 2 {
			if _, err := s.Set(t.Context(), "k", nil); err != nil {
				t.Error(err)
			}
		}
		if x.ids[0] == x.ids[1] {
			t.Error("the second is taken for the first")
		}
	})
}

func TestAConflictIsAnOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, x := newTestServer(t), new(scriptedSender)
		x.send(s, unknown, answer{result: command.Result{Code: command.Conflict, Version: 4}})
		_, err := s.Set(t.Context(), "k", nil, IfVersion(3))
		if conflict := new(ConflictError); !errors.As(err, &conflict) || conflict.Version != 4 || errors.Is(err, ErrUnknown) {
			t.Errorf("got %v, want a conflict with version 4", err)
		}
	})
}

// An id that is older than what the state remembers cannot be told from one
// that was applied and forgotten; the caller's node can tell only if no attempt
// went out before.
func TestAnExpiredWriteGetsANewIDOnlyIfNoAttemptCanHaveBeenApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, x := newTestServer(t), new(scriptedSender)
		x.send(s, unsent, expired8, applied5)
		if version, err := s.Set(t.Context(), "k", nil); version != 5 || err != nil {
			t.Errorf("got %d, %v, want version 5", version, err)
		}
		if len(x.ids) != 3 || x.ids[0] != x.ids[1] || x.ids[1] == x.ids[2] || x.born[2] != 8 {
			t.Errorf("ids %x born at %v, want a new one at index 8", x.ids, x.born)
		}

		x = new(scriptedSender)
		x.send(s, unknown, expired8)
		if _, err := s.Set(t.Context(), "k", nil); !errors.Is(err, ErrUnknown) {
			t.Errorf("after an attempt that may have been applied: %v, want ErrUnknown", err)
		}
		if len(x.ids) != 2 {
			t.Errorf("%d attempts", len(x.ids))
		}

		x = new(scriptedSender)
		x.send(s, expired8)
		if _, err := s.Set(t.Context(), "k", nil, WithRequestID(s.NewRequestID())); !errors.Is(err, ErrUnknown) {
			t.Errorf("with an id that the caller may have used before: %v, want ErrUnknown", err)
		}
	})
}

func TestAWriteThatIsGivenUpSaysWhetherItMayHaveBeenApplied(t *testing.T) {
	for name, c := range map[string]struct {
		answers []answer
		want    error
		not     error
	}{
		"never sent":             {[]answer{unsent, unsent}, ErrNoLeader, ErrUnknown},
		"nobody took it":         {nil, ErrNoLeader, ErrUnknown},
		"sent once":              {[]answer{unknown}, ErrUnknown, ErrNoLeader},
		"sent once, not again":   {[]answer{unknown, unsent}, ErrUnknown, ErrNoLeader},
		"an error of no class":   {[]answer{{err: io.ErrUnexpectedEOF}}, ErrUnknown, ErrNoLeader},
		"refused by the leader":  {[]answer{unsent, {err: ErrInvalid}}, ErrNoLeader, ErrUnknown},
		"expired and never sent": {[]answer{expired8, unsent}, ErrNoLeader, ErrUnknown},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, x := newTestServer(t), new(scriptedSender)
			x.send(s, c.answers...)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := s.Set(ctx, "k", nil)
			if !errors.Is(err, c.want) || errors.Is(err, c.not) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v, want %v with the context's error", name, err, c.want)
			}
			if errors.Is(err, errs.Unsent) {
				t.Errorf("%s: %v is an error of attempts, not of calls", name, err)
			}
		})
	}
}

func TestAWriteOnAStoreThatClosesSaysWhetherItMayHaveBeenApplied(t *testing.T) {
	for name, c := range map[string]struct {
		answers []answer
		want    error
	}{
		"never sent": {[]answer{unsent}, ErrClosed},
		"sent once":  {[]answer{unknown}, ErrUnknown},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, x := newTestServer(t), new(scriptedSender)
			x.send(s, c.answers...)
			time.AfterFunc(time.Minute, func() { s.node.Life.Stop(ErrClosed) })
			_, err := s.Set(t.Context(), "k", nil)
			if !errors.Is(err, c.want) || c.want != ErrUnknown && errors.Is(err, ErrUnknown) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
			if _, err := s.Set(t.Context(), "k", nil); !errors.Is(err, ErrClosed) || errors.Is(err, ErrUnknown) {
				t.Errorf("%s: when it is closed: %v, want ErrClosed", name, err)
			}
		})
	}
}

func TestABatchThatIsTakenFitsAFrame(t *testing.T) {
	l := limits.Limits{KeyBytes: 1, ValueBytes: 1, BatchBytes: wire.MaxBatchBytes}
	ops := slices.Repeat([]command.Op{{Kind: command.Check, Key: "k", Version: math.MaxUint64}}, limits.MaxOps)
	if err := l.Check(ops); err != nil {
		t.Error(err)
	}
	if size := command.Size(command.Request{Ops: ops}) + wire.MaxBatchBytes; size > wire.MaxFrame {
		t.Errorf("the largest batch takes %d bytes, a frame %d", size, wire.MaxFrame)
	}
	if err := l.Check(append(ops, ops[0])); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one operation more: %v", err)
	}
}

func TestAnUnknownOutcomeIsNotErrClosed(t *testing.T) {
	err := lead.Outcome(t.Context(), fmt.Errorf("%w: %w", ErrClosed, errEnough), true, errEnough)
	if errors.Is(err, ErrClosed) {
		t.Errorf("%v: Set says that ErrClosed means that nothing was written", err)
	}
}

func TestTheContextsErrorIsKeptBesideItsCause(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errEnough)
	s := newTestServer(t)
	if _, err := s.Set(ctx, "k", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v is not context.Canceled", err)
	}
	if _, err := s.Get(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v is not context.Canceled", err)
	}
}

func TestAnEntryWithoutAnIndexWasNotAppliedAndOneWithIsUnknown(t *testing.T) {
	disk := errors.New("disk: input/output error")
	for _, c := range []struct {
		err   error
		index uint64
		want  error
	}{
		{raft.ErrNotLeader, 0, errs.Unsent},
		{raft.ErrLeadershipTransferInProgress, 0, errs.Unsent},
		{raft.ErrEnqueueTimeout, 0, errs.Unsent},
		{raft.ErrRaftShutdown, 0, errs.Unsent},
		{disk, 0, errs.Unsent},
		{raft.ErrLeadershipLost, 7, ErrUnknown},
		{raft.ErrRaftShutdown, 7, ErrUnknown}, // it may be committed
		{raft.ErrAbortedByRestore, 7, ErrUnknown},
		{disk, 7, ErrUnknown}, // a failed fsync may have persisted
	} {
		got := applyError(c.err, c.index)
		if !errors.Is(got, c.want) || !errors.Is(got, c.err) || errors.Is(got, errs.Unsent) == errors.Is(got, ErrUnknown) {
			t.Errorf("%v at index %d is %v, want %v", c.err, c.index, got, c.want)
		}
	}
}

func TestWhatIsOnItsWayWhenTheStoreEndsIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		never := make(chan struct{})
		s.writes.groups = batch.NewGroups(sending(func([]byte) ([]command.Result, error) { <-never; return nil, errEnough }), s.node.Life.Go)
		time.AfterFunc(time.Second, func() { s.node.Life.Fail(errEnough) })
		if _, err := s.writes.groups.Do(t.Context(), []byte{1}, false); !errors.Is(err, ErrUnknown) || errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrUnknown alone", err)
		}
		close(never) // the group ends a second time, and nobody hears of it
		synctest.Wait()
	})
}

func TestAnAnswerThatDoesNotFitTheGroupIsUnknown(t *testing.T) {
	for name, answer := range map[string][]byte{
		"a result too few":  command.AppendResults(nil, nil),
		"a result too many": command.AppendResults(nil, make([]command.Result, 2)),
		"no results":        []byte("nonsense"),
		"nothing":           nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newTestFollower(t, answeredBy(func(wire.Method, []byte) ([]byte, error) { return answer, nil }))
			encoded := command.AppendRequest(nil, &command.Request{Origin: command.Own, Ops: []command.Op{{Kind: command.Set, Key: "k"}}})
			if _, err := s.writes.groups.Do(t.Context(), encoded, false); !errors.Is(err, ErrUnknown) {
				t.Errorf("%s: %v, want ErrUnknown", name, err)
			}
		})
	}
}

func TestAGroupWithoutALeaderIsUnsent(t *testing.T) {
	s := newTestServer(t)
	if _, err := s.writes.propose(emptyEntry); !errors.Is(err, errs.Unsent) {
		t.Errorf("got %v, want errs.Unsent", err)
	}
	s.lead.Replace(&lead.Tenure{Leader: testPeerB, Leads: true})
	s.node.Life.Stop(ErrClosed)
	s.node.Futures.Drain(time.Second)
	if _, err := s.writes.propose(emptyEntry); !errors.Is(err, errs.Unsent) || !errors.Is(err, ErrClosed) {
		t.Errorf("on a leader that closes: %v, want errs.Unsent and ErrClosed", err)
	}
}

func TestAGroupIsGivenUpOnALeaderThatIsSilentOrNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestFollower(t, saysNothing)
		began := time.Now()
		if _, err := s.writes.propose(emptyEntry); !errors.Is(err, ErrUnknown) || time.Since(began) != s.node.Patience() {
			t.Errorf("after %v: %v, want ErrUnknown after %v", time.Since(began), err, s.node.Patience())
		}
		time.AfterFunc(time.Second, func() { s.lead.Replace(&lead.Tenure{Leader: roster.Peer{Server: "c#3", Addr: "c:1"}}) })
		began = time.Now()
		if _, err := s.writes.propose(emptyEntry); !errors.Is(err, ErrUnknown) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v, want ErrUnknown when the leader changes", time.Since(began), err)
		}
	})
}

func TestAGivenUpWriteSendsNoBytesOfItsCallersNextUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent string
		s := newTestFollower(t, answeredBy(func(_ wire.Method, payload []byte) ([]byte, error) {
			group, err := command.Decode(payload)
			if err != nil {
				t.Error(err)
			}
			sent = string(group[0].Ops[0].Value)
			return command.AppendResults(nil, make([]command.Result, 1)), nil
		}))
		ctx, cancel := context.WithCancel(t.Context())
		value := []byte("green")
		s.writes.groups = batch.NewGroups(sending(func(entry []byte) ([]command.Result, error) {
			cancel()
			time.Sleep(time.Second) // in which Set returns: value is its caller's again
			copy(value, "XXXXX")
			return s.writes.propose(func() []byte { return entry })
		}), s.node.Life.Go)
		if _, err := s.Set(ctx, "color", value); !errors.Is(err, ErrUnknown) {
			t.Errorf("given up on its way: %v", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if sent != "green" {
			t.Errorf("the leader was sent %q, which nobody wrote", sent)
		}
	})
}

// A leader that cannot accept connections takes none, however long it is waited for.
func TestAWriteForWhichNoConnectionIsMadeWasNotApplied(t *testing.T) {
	for _, limit := range []time.Duration{time.Second, 10 * time.Second} { // less than an attempt takes, and more
		synctest.Test(t, func(t *testing.T) {
			lan := wiretest.LAN()
			s := newTestFollowerOn(t, lan, saysNothing)
			lan.Isolate("b")
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := s.Set(ctx, "k", nil)
			if !errors.Is(err, ErrNoLeader) || errors.Is(err, ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after %v: %v, want ErrNoLeader", limit, err)
			}
			if limit > s.node.Patience() && !strings.Contains(err.Error(), "no connection within 3s: node b: ") {
				t.Errorf("%v does not say what kept it", err)
			}
			time.Sleep(time.Minute) // the attempts end
		})
	}
}

func TestAWriteThatHasNoConnectionWhenTheStoreEndsWasNotApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := wiretest.LAN()
		s := newTestFollowerOn(t, lan, saysNothing)
		lan.Isolate("b")
		time.AfterFunc(time.Second, func() { s.node.Life.Fail(errEnough) })
		if _, err := s.Set(t.Context(), "k", nil); errors.Is(err, ErrUnknown) || !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}
