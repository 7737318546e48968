package serf

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/serf/serf"

	"github.com/kvraft/kvraft"
)

func process(id, cluster string, status serf.MemberStatus, since ...string) serf.Member {
	tags := map[string]string{tagID: id, tagCluster: cluster}
	if len(since) > 0 {
		tags[tagSince] = since[0]
	}
	return serf.Member{Status: status, Tags: tags}
}

func stopped(m serf.Member) serf.Member {
	m.Tags[tagStopped] = "by itself"
	return m
}

func TestOnlyMembersOfWhichNoProcessIsLeftHaveFailed(t *testing.T) {
	st := kvraft.Status{Node: kvraft.Node{ID: "me"}, Cluster: "c", Nodes: []kvraft.Node{{ID: "me"}, {ID: "a"}, {ID: "b"}}}
	for name, c := range map[string]struct {
		gossip []serf.Member
		want   []string
	}{
		"nobody is known":                  {nil, nil},
		"all are alive":                    {[]serf.Member{process("a", "c", serf.StatusAlive), process("b", "c", serf.StatusAlive)}, nil},
		"one has failed":                   {[]serf.Member{process("a", "c", serf.StatusFailed), process("b", "c", serf.StatusAlive)}, []string{"a"}},
		"one has left":                     {[]serf.Member{process("a", "c", serf.StatusLeft)}, nil},
		"one is leaving":                   {[]serf.Member{process("a", "c", serf.StatusLeaving)}, nil},
		"one was started again":            {[]serf.Member{process("a", "c", serf.StatusFailed, "1"), process("a", "", serf.StatusAlive, "2")}, nil},
		"one that failed, came back, left": {[]serf.Member{process("a", "c", serf.StatusLeft, "2"), process("a", "c", serf.StatusFailed, "1")}, nil},
		"one that left, came back, failed": {[]serf.Member{process("a", "c", serf.StatusLeft, "1"), process("a", "c", serf.StatusFailed, "2")}, []string{"a"}},
		"the store of one has stopped":     {[]serf.Member{stopped(process("a", "c", serf.StatusAlive))}, []string{"a"}},
		"one was opened again":             {[]serf.Member{stopped(process("a", "c", serf.StatusAlive, "1")), process("a", "c", serf.StatusAlive, "2")}, nil},
		"it is of another cluster":         {[]serf.Member{process("a", "x", serf.StatusFailed)}, nil},
		"it failed, and has a namesake":    {[]serf.Member{process("a", "c", serf.StatusFailed, "1"), process("a", "x", serf.StatusAlive, "2")}, []string{"a"}},
		"it is no member":                  {[]serf.Member{process("z", "c", serf.StatusFailed), process("", "c", serf.StatusFailed)}, nil},
		"an earlier process of this node":  {[]serf.Member{process("me", "c", serf.StatusFailed)}, nil},
	} {
		failed := map[string]*failure{}
		note(failed, st, c.gossip, time.Now())
		var got []string
		for id := range failed {
			got = append(got, id)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// fake is a Store by its fields.
type fake struct {
	status kvraft.Status
	err    error
	remove func(id string) error
}

func (f *fake) Status() kvraft.Status { return f.status }
func (f *fake) Err() error            { return f.err }

func (f *fake) Remove(_ context.Context, id string, _ ...kvraft.RemoveOption) error {
	return f.remove(id)
}

func TestAStoreThatWasClosedOrRemovedHasNotFailed(t *testing.T) {
	for err, want := range map[error]bool{
		nil:              false,
		kvraft.ErrClosed: false,
		fmt.Errorf("%w: %w", kvraft.ErrClosed, kvraft.ErrRemoved): false,
		fmt.Errorf("%w: %w", kvraft.ErrClosed, kvraft.ErrDamaged): true,
	} {
		if got := hasFailed(&fake{err: err}); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

func TestTheTimeOfAFailureIsThatOfItsBeginning(t *testing.T) {
	st := kvraft.Status{Cluster: "c", Nodes: []kvraft.Node{{ID: "a"}}}
	failed := map[string]*failure{}
	begin := time.Now()
	down, up := []serf.Member{process("a", "c", serf.StatusFailed)}, []serf.Member{process("a", "c", serf.StatusAlive)}
	note(failed, st, down, begin)
	note(failed, st, down, begin.Add(time.Minute))
	if since := failed["a"].since; since != begin {
		t.Errorf("failed since %v, want %v", since, begin)
	}
	note(failed, st, up, begin.Add(2*time.Minute))
	note(failed, st, down, begin.Add(3*time.Minute))
	if since := failed["a"].since; since != begin.Add(3*time.Minute) {
		t.Errorf("after it was back: failed since %v", since)
	}
	note(failed, kvraft.Status{Cluster: "c"}, down, begin.Add(4*time.Minute)) // it is no member any more
	if len(failed) != 0 {
		t.Errorf("failed: %v", failed)
	}
}

// The leader refuses as long as those that are left would lack a majority, and then as
// long as the member answers.
func TestARefusedRemovalIsTriedAgainUntilItIsAllowedAndLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		var out bytes.Buffer
		var attempts []time.Duration
		begin := time.Now()
		store := &fake{status: kvraft.Status{Node: kvraft.Node{ID: "me"}, Cluster: "c", State: kvraft.Leading, Nodes: []kvraft.Node{{ID: "me"}, {ID: "a"}, {ID: "b"}}}}
		store.remove = func(id string) error {
			if id != "b" {
				t.Errorf("%s has not failed", id)
			}
			after := time.Since(begin)
			attempts = append(attempts, after)
			switch {
			case after < time.Hour:
				return fmt.Errorf("%w: of the 2 voters that would remain 1 answer", kvraft.ErrRefused)
			case after < 2*time.Hour:
				return fmt.Errorf("%w: it answers at b:7000", kvraft.ErrRefused)
			}
			store.status.Nodes = store.status.Nodes[:2]
			return nil
		}
		gossip := []serf.Member{process("a", "c", serf.StatusAlive), process("b", "c", serf.StatusFailed)}
		g := &Gossip{config: Config{HealAfter: time.Minute}, log: hclog.New(&hclog.LoggerOptions{Output: &out}), ctx: ctx}
		g.heal(store, func() []serf.Member { return gossip })

		lines := strings.Split(out.String(), "\n")
		for i, want := range []string{"1 answer", "it answers", "is removed", ""} {
			if len(lines) != 4 || !strings.Contains(lines[i], want) {
				t.Fatalf("want a line for each outcome:\n%s", &out)
			}
		}
		if attempts[0] != time.Minute {
			t.Errorf("the first attempt was after %v", attempts[0])
		}
		longest, last := time.Duration(0), attempts[0]
		for _, at := range attempts {
			longest, last = max(longest, at-last), at
		}
		if second := attempts[1] - attempts[0]; second > 2*interval || longest < rarely || longest > rarely+2*interval {
			t.Errorf("the second attempt was after %v, the longest pause %v", second, longest)
		}
		if last > 2*time.Hour+rarely+interval {
			t.Errorf("it was removed after %v", last)
		}
	})
}
