package kvraft

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// overWire takes an error to another node.
func overWire(err error) error { return decodeError(encodeError(err)) }

func TestEachErrorOfThePeerPortArrivesAsItself(t *testing.T) {
	sentinels := []error{errUnsent, ErrUnknown, ErrNotFound, ErrTooLarge, ErrInvalid, ErrRefused, ErrUnreachable, ErrNoLeader}
	for _, sent := range sentinels {
		wrapped := fmt.Errorf("join node n2: %w: because of it", sent)
		got := overWire(wrapped)
		for _, other := range sentinels {
			if errors.Is(got, other) != (other == sent) {
				t.Errorf("%q arrived, and errors.Is says %v to %q", sent, errors.Is(got, other), other)
			}
		}
		if got.Error() != wrapped.Error() {
			t.Errorf("the text %q arrived as %q", wrapped, got)
		}
		if again := overWire(fmt.Errorf("passed on: %w", got)); !errors.Is(again, sent) {
			t.Errorf("%q is lost on the second hop: %v", sent, again)
		}
	}
}

// Nodes of different versions talk to each other.
func TestTheCodesOnTheWireStayAsTheyAre(t *testing.T) {
	for code, want := range map[byte]error{
		1: errUnsent, 2: ErrUnknown, 3: ErrNotFound, 4: ErrTooLarge,
		5: ErrInvalid, 6: ErrRefused, 7: ErrUnreachable, 8: ErrNoLeader,
	} {
		if got, _ := encodeError(want); got != code {
			t.Errorf("%q has code %d, want %d", want, got, code)
		}
		if got := decodeError(code, "text"); !errors.Is(got, want) || got.Error() != "text" {
			t.Errorf("code %d is %v, want %v", code, got, want)
		}
	}
}

func TestNoErrorHasTheCodeOfSuccess(t *testing.T) {
	for _, err := range append(wire[1:], raft.ErrLeadershipLost, ErrClosed, context.Canceled) {
		if code, _ := encodeError(err); code == 0 {
			t.Errorf("%q crosses as success", err)
		}
	}
}

func TestAnErrorWithoutACodePromisesNothing(t *testing.T) {
	for _, err := range []error{
		errors.New("the disk"), raft.ErrLeadershipLost, context.DeadlineExceeded, ErrClosed, &ConflictError{Version: 3},
	} {
		got := overWire(err)
		if !errors.Is(got, ErrUnknown) || errors.Is(got, errUnsent) {
			t.Errorf("%q arrived as %v, want ErrUnknown", err, got)
		}
		if got.Error() != err.Error() {
			t.Errorf("the text %q arrived as %q", err, got)
		}
	}
}

func TestACodeOfANewerVersionPromisesNothing(t *testing.T) {
	for code := len(wire); code < 256; code++ {
		got := decodeError(byte(code), "too hot")
		if !errors.Is(got, ErrUnknown) || errors.Is(got, errUnsent) {
			t.Fatalf("code %d is %v, want ErrUnknown", code, got)
		}
		if text := got.Error(); !strings.Contains(text, "too hot") || !strings.Contains(text, fmt.Sprint(code)) {
			t.Fatalf("code %d: %q lacks the code or the text", code, text)
		}
	}
}

func TestAConflictSaysWhichVersionItFound(t *testing.T) {
	err := fmt.Errorf("set: %w", &ConflictError{Version: 7})
	var conflict *ConflictError
	if !errors.Is(err, ErrConflict) || !errors.As(err, &conflict) || conflict.Version != 7 {
		t.Errorf("%v is not a conflict at version 7", err)
	}
	if errors.Is(err, ErrNotFound) {
		t.Error("a conflict is also ErrNotFound")
	}
	if !strings.Contains(err.Error(), "version 7") {
		t.Errorf("%q does not say the version", err)
	}
	if text := (&ConflictError{}).Error(); !strings.Contains(text, "absent") {
		t.Errorf("%q does not say that the key is absent", text)
	}
}

func TestNoLeaderKeepsTheContextsErrorAndWhatWasInTheWay(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	refused := errors.New("connection refused")
	for _, last := range []error{nil, refused, fmt.Errorf("call: %w", context.Canceled)} {
		err := noLeader(ctx, last)
		if !errors.Is(err, ErrNoLeader) || !errors.Is(err, context.Canceled) {
			t.Errorf("after %v: %v, want ErrNoLeader and the context's error", last, err)
		}
		if errors.Is(err, ErrUnknown) || errors.Is(err, errUnsent) {
			t.Errorf("after %v: %v is more than that", last, err)
		}
		if n := strings.Count(err.Error(), context.Canceled.Error()); n != 1 {
			t.Errorf("%q names the context's error %d times", err, n)
		}
	}
	if err := noLeader(ctx, refused); !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%q does not say what was in the way", err)
	}
}

func TestUnknownWinsOnTheWire(t *testing.T) {
	if code, _ := encodeError(fmt.Errorf("%w: %w", ErrUnknown, errUnsent)); code != 2 {
		t.Errorf("an outcome that is unknown crosses as code %d", code)
	}
}

func TestAnErrorTellsItsOutcomeOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), -1)
	defer cancel()
	unknown := fmt.Errorf("%w: node n1: reset", ErrUnknown)
	for want, err := range map[string]error{
		"kvraft: outcome unknown: context deadline exceeded (node n1: reset)": outcome(ctx, ctx.Err(), true, unknown),
		"kvraft: no leader: context deadline exceeded (no leader is known)":   outcome(ctx, ctx.Err(), false, errNoLeaderKnown),
		"kvraft: no leader: context deadline exceeded (a:1: it is not there)": outcome(ctx, ctx.Err(), false, fmt.Errorf("a:1: %w: it is not there", errUnsent)),
		"a:1: no leader is known; b:1: it is not there":                       oneLine{errors.Join(fmt.Errorf("a:1: %w", errNoLeaderKnown), errors.New("b:1: it is not there"))},
	} {
		if err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
	}
}
