package errs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// overWire takes an error to another node.
func overWire(err error) error { return Decode(Encode(err)) }

func TestEachErrorOfThePeerPortArrivesAsItself(t *testing.T) {
	sentinels := []error{Unsent, Unknown, NotFound, TooLarge, Invalid, Refused, Unreachable, NoLeader}
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
		1: Unsent, 2: Unknown, 3: NotFound, 4: TooLarge,
		5: Invalid, 6: Refused, 7: Unreachable, 8: NoLeader,
	} {
		if got, _ := Encode(want); got != code {
			t.Errorf("%q has code %d, want %d", want, got, code)
		}
		if got := Decode(code, "text"); !errors.Is(got, want) || got.Error() != "text" {
			t.Errorf("code %d is %v, want %v", code, got, want)
		}
	}
}

func TestNoErrorHasTheCodeOfSuccess(t *testing.T) {
	for _, err := range append(codes[1:], raft.ErrLeadershipLost, Closed, context.Canceled) {
		if code, _ := Encode(err); code == 0 {
			t.Errorf("%q crosses as success", err)
		}
	}
}

func TestAnErrorWithoutACodePromisesNothing(t *testing.T) {
	for _, err := range []error{
		errors.New("the disk"), raft.ErrLeadershipLost, context.DeadlineExceeded, Closed, fmt.Errorf("%w: at version 3", Conflict),
	} {
		got := overWire(err)
		if !errors.Is(got, Unknown) || errors.Is(got, Unsent) {
			t.Errorf("%q arrived as %v, want Unknown", err, got)
		}
		if got.Error() != err.Error() {
			t.Errorf("the text %q arrived as %q", err, got)
		}
	}
}

func TestACodeOfANewerVersionPromisesNothing(t *testing.T) {
	for code := len(codes); code < 256; code++ {
		got := Decode(byte(code), "too hot")
		if !errors.Is(got, Unknown) || errors.Is(got, Unsent) {
			t.Fatalf("code %d is %v, want Unknown", code, got)
		}
		if text := got.Error(); !strings.Contains(text, "too hot") || !strings.Contains(text, fmt.Sprint(code)) {
			t.Fatalf("code %d: %q lacks the code or the text", code, text)
		}
	}
}

func TestNoLeaderKeepsTheContextsErrorAndWhatWasInTheWay(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	refused := errors.New("connection refused")
	for _, last := range []error{nil, refused, fmt.Errorf("call: %w", context.Canceled)} {
		err := NoLeaderBefore(ctx, last)
		if !errors.Is(err, NoLeader) || !errors.Is(err, context.Canceled) {
			t.Errorf("after %v: %v, want NoLeader and the context's error", last, err)
		}
		if errors.Is(err, Unknown) || errors.Is(err, Unsent) {
			t.Errorf("after %v: %v is more than that", last, err)
		}
		if n := strings.Count(err.Error(), context.Canceled.Error()); n != 1 {
			t.Errorf("%q names the context's error %d times", err, n)
		}
	}
	if err := NoLeaderBefore(ctx, refused); !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%q does not say what was in the way", err)
	}
}

func TestUnknownWinsOnTheWire(t *testing.T) {
	if code, _ := Encode(fmt.Errorf("%w: %w", Unknown, Unsent)); code != 2 {
		t.Errorf("an outcome that is unknown crosses as code %d", code)
	}
}
