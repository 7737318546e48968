package lead

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

// Retry makes attempts, each on whoever leads then, until one is done. The error is that
// of the node, when it has stopped, or of ctx.
func (t *Tracker) Retry(ctx context.Context, attempt func(*Tenure) (done bool)) error {
	for n := 0; ; n++ {
		if err := t.Life.Err(); err != nil {
			return err
		}
		tenure := t.Tenure()
		if attempt(tenure) {
			return nil
		}
		if err := t.pause(ctx, tenure, n); err != nil {
			return err
		}
	}
}

// pause waits before the next attempt: until the leader changes, or a moment. An
// error ends the attempts.
func (t *Tracker) pause(ctx context.Context, tenure *Tenure, attempt int) error {
	const shortest, longest = time.Millisecond, 100 * time.Millisecond
	timer := time.NewTimer(min(shortest<<min(attempt, 10), longest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-tenure.Ctx.Done():
		return t.Life.Err()
	case <-t.Life.Stopping():
		return t.Life.Err()
	case <-ctx.Done():
		return errs.Ended(ctx)
	}
}

// Under makes an attempt, and gives it up when the leader changes.
func (t *Tracker) Under(ctx context.Context, tenure *Tenure, attempt func(context.Context, *Tenure) error) error {
	if tenure.Leader == (roster.Peer{}) {
		return errs.NoLeaderKnown
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(tenure.Ctx, cancel)()
	return attempt(ctx, tenure)
}

// ReadThroughLeader repeats a read until it has an answer.
func (t *Tracker) ReadThroughLeader(ctx context.Context, read func(context.Context, *Tenure) error) error {
	last := errs.NoLeaderKnown
	err := t.Retry(ctx, func(tenure *Tenure) bool {
		switch {
		case tenure.Leads:
			last = read(ctx, tenure) // a round ends by itself, and soon
		case tenure.Leader != roster.Peer{}: // else the last attempt tells more
			last = t.Under(ctx, tenure, read)
		}
		return last == nil || errors.Is(last, errs.NotFound) || errors.Is(last, errs.Invalid)
	})
	switch {
	case err == nil:
		return last
	case errors.Is(err, errs.Closed):
		return err
	}
	return errs.NoLeaderBefore(ctx, t.ReasonOr(last))
}

// ChangeThroughLeader repeats a change until its outcome is known: to make it twice is to
// make it once.
func (t *Tracker) ChangeThroughLeader(ctx context.Context, attempt func(context.Context, *Tenure) error) error {
	var last error
	maybe := false // a leader may have begun with it
	err := t.Retry(ctx, func(tenure *Tenure) bool {
		err := t.Under(ctx, tenure, attempt)
		done := err == nil || isFinal(err)
		if done && err != nil && maybe { // final of this attempt alone
			err = fmt.Errorf("%w: an earlier attempt may have had effect: %w", errs.Unknown, err)
		}
		maybe, last = maybe || !errors.Is(err, errs.Unsent), err
		return done
	})
	if err != nil {
		return Outcome(ctx, err, maybe, t.ReasonOr(last))
	}
	return last
}

// isFinal reports whether an attempt has told the outcome.
func isFinal(err error) bool {
	for _, final := range []error{errs.Refused, errs.Unreachable, errs.Invalid, errs.NotFound} {
		if errors.Is(err, final) {
			return true
		}
	}
	return false
}

// Outcome is the error of a change that was given up because of err; maybe: an
// attempt may have been applied, or may still be; last is how the last one ended.
func Outcome(ctx context.Context, err error, maybe bool, last error) error {
	switch {
	case maybe && errors.Is(err, errs.Closed): // which would say that it was not applied
		return fmt.Errorf("%w: %v (%s)", errs.Unknown, err, errs.Reason(last))
	case maybe:
		return fmt.Errorf("%w: %w (%s)", errs.Unknown, err, errs.Reason(last))
	case errors.Is(err, errs.Closed):
		return err
	}
	return errs.NoLeaderBefore(ctx, last)
}

// ServeChange makes one attempt at a change of the membership for another node. That one
// has other members to ask, and asks again. What was forwarded is not passed on.
func (t *Tracker) ServeChange(ctx context.Context, forwarded bool, attempt func(context.Context, *Tenure) error) error {
	tenure := t.Tenure()
	if forwarded && !tenure.Leads {
		return errs.NotLeader
	}
	return t.Under(ctx, tenure, attempt)
}
