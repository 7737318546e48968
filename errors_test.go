package kvraft

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/lead"
)

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

func TestAnErrorTellsItsOutcomeOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), -1)
	defer cancel()
	unknown := fmt.Errorf("%w: node n1: reset", ErrUnknown)
	for want, err := range map[string]error{
		"kvraft: outcome unknown: context deadline exceeded (node n1: reset)": lead.Outcome(ctx, ctx.Err(), true, unknown),
		"kvraft: no leader: context deadline exceeded (no leader is known)":   lead.Outcome(ctx, ctx.Err(), false, errs.NoLeaderKnown),
		"kvraft: no leader: context deadline exceeded (a:1: it is not there)": lead.Outcome(ctx, ctx.Err(), false, fmt.Errorf("a:1: %w: it is not there", errs.Unsent)),
		"a:1: no leader is known; b:1: it is not there":                       errs.OneLine(errors.Join(fmt.Errorf("a:1: %w", errs.NoLeaderKnown), errors.New("b:1: it is not there"))),
	} {
		if err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
	}
}
