package kvraft

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/wire"
)

func openInMemory(t *testing.T, opts ...Option) *Store {
	t.Helper()
	s, err := Open("", append(opts, WithInMemory(), WithAddr("127.0.0.1:0"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if _, err := s.Set(t.Context(), "first", nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// fromPeer is a request as another node sends it.
func (s *Store) fromPeer(ops ...command.Op) command.Request {
	r := command.Request{Ops: ops}
	s.node.RequestIDs.Stamp(&r, s.Index())
	return r
}

func setTo(key string, size int) command.Op {
	return command.Op{Kind: command.Set, Key: key, Value: make([]byte, size)}
}

// A follower has checked its callers' writes, by limits of its own; and what calls
// itself one may be anybody.
func TestALeaderHoldsForwardedWritesToItsLimits(t *testing.T) {
	s := openInMemory(t)
	unmarked := s.fromPeer(setTo("k", 1))
	unmarked.Origin = command.Unmarked
	for name, c := range map[string]struct {
		request command.Request
		want    error
	}{
		"an empty key":      {s.fromPeer(setTo("", 1)), ErrInvalid},
		"a long key":        {s.fromPeer(setTo(strings.Repeat("k", 1<<10+1), 1)), ErrTooLarge},
		"a large value":     {s.fromPeer(setTo("k", 1<<20+1)), ErrTooLarge},
		"a large batch":     {s.fromPeer(slices.Repeat([]command.Op{setTo("k", 1<<20)}, 9)...), ErrTooLarge},
		"a long delete":     {s.fromPeer(command.Op{Kind: command.Delete, Key: strings.Repeat("k", 9<<20)}), ErrTooLarge},
		"a long check":      {s.fromPeer(command.Op{Kind: command.Check, Key: strings.Repeat("k", 9<<20)}), ErrTooLarge},
		"a huge value":      {s.fromPeer(setTo("k", 60<<20)), ErrTooLarge},
		"nothing":           {s.fromPeer(), ErrInvalid},
		"a note":            {s.fromPeer(command.Op{Kind: command.Note, Key: "retired/x#1", Value: []byte("1")}), ErrInvalid},
		"a note in a batch": {s.fromPeer(setTo("k", 1), command.Op{Kind: command.Note, Key: "replica/x"}), ErrInvalid},
		"without an origin": {unmarked, ErrInvalid},
	} {
		before := s.node.Raft.LastIndex()
		if _, err := s.writes.serveWrite(t.Context(), command.Append(nil, []command.Request{c.request})); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if s.node.Raft.LastIndex() != before {
			t.Errorf("%s is in the log", name)
		}
	}
	for name, group := range map[string][]command.Request{"no request": nil, "too many requests": slices.Repeat([]command.Request{s.fromPeer(setTo("k", 1))}, batch.GroupRequests+1)} {
		if _, err := s.writes.serveWrite(t.Context(), command.Append(nil, group)); !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(s.fsm.now.Load().view.Note("retired/x#1")) > 0 || s.fsm.now.Load().view.Revision() != 1 {
		t.Error("something of it is in the state")
	}
}

func TestTheOthersOfAGroupAreWrittenThoughOneIsOverALimit(t *testing.T) {
	s := openInMemory(t)
	answer, err := s.writes.serveWrite(t.Context(), command.Append(nil, []command.Request{
		s.fromPeer(setTo("a", 1)), s.fromPeer(setTo("large", 1<<20+1)), s.fromPeer(command.Op{Kind: command.Check, Key: "a", Version: 9}),
		s.fromPeer(setTo("", 1)), s.fromPeer(setTo("b", 1)),
	}))
	if err != nil {
		t.Fatal(err)
	}
	results, err := command.DecodeResults(answer)
	want := []command.Result{{Code: command.Created, Version: 2}, {Code: command.TooLarge}, {Code: command.Conflict, Version: 2}, {Code: command.Invalid}, {Code: command.Created, Version: 3}}
	if err != nil || !slices.Equal(results, want) {
		t.Errorf("%v, %v, want %v", results, err, want)
	}
}

// A refusal that no repetition can change was repeated until the caller's time was up,
// and then said to be of unknown outcome.
func TestARefusalOfTheLeaderIsAnsweredWhenItRepeats(t *testing.T) {
	for _, refusal := range []error{ErrInvalid, ErrTooLarge} {
		synctest.Test(t, func(t *testing.T) {
			var groups []int
			s := newTestFollower(t, answeredBy(func(_ wire.Method, payload []byte) ([]byte, error) {
				requests, err := command.Decode(payload)
				if err != nil {
					t.Error(err)
				}
				groups = append(groups, len(requests))
				return nil, refusal
			}))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			began := time.Now()
			if _, err := s.Set(ctx, "k", nil); !errors.Is(err, refusal) || errors.Is(err, ErrUnknown) {
				t.Errorf("got %v, want %v", err, refusal)
			}
			if took := time.Since(began); !slices.Equal(groups, []int{1, 1}) || took > 10*time.Millisecond {
				t.Errorf("groups of %v requests in %v, want it once more", groups, took)
			}
		})
	}
}

// A group can be refused for one of its requests: the others go again, each alone.
func TestARefusedGroupIsSentOnceMoreRequestByRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestFollower(t, answeredBy(func(_ wire.Method, payload []byte) ([]byte, error) {
			requests, _ := command.Decode(payload)
			if len(requests) > 1 || requests[0].Ops[0].Key == "bad" {
				return nil, ErrTooLarge
			}
			return command.AppendResults(nil, []command.Result{{Version: 7}}), nil
		}))
		release := hold(s)
		answers := map[string]chan error{"a": make(chan error, 1), "bad": make(chan error, 1), "b": make(chan error, 1)}
		for key, answer := range answers {
			go func() {
				_, err := s.Set(t.Context(), key, nil)
				answer <- err
			}()
		}
		synctest.Wait()
		release()
		for key, answer := range answers {
			if err := <-answer; errors.Is(err, ErrTooLarge) != (key == "bad") {
				t.Errorf("%s: %v", key, err)
			}
		}
	})
}

// An earlier leader may have brought the request into the log.
func TestARefusalAfterAnUnknownAttemptIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		s := newTestFollower(t, answeredBy(func(wire.Method, []byte) ([]byte, error) {
			if n++; n == 1 {
				return nil, ErrUnknown
			}
			return nil, ErrTooLarge
		}))
		if _, err := s.Set(t.Context(), "k", nil); !errors.Is(err, ErrUnknown) {
			t.Errorf("got %v, want ErrUnknown", err)
		}
	})
}
