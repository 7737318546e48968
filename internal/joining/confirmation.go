package joining

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

// seekConfirmation goes one step towards this node's place.
func (j *Joiner) seekConfirmation() error {
	if done, err := j.Places.LookAtOldPlace(); done || err != nil {
		return err
	}
	if j.ConfiguredAt() == "" {
		return j.askToJoin()
	}
	addrs, _ := j.memberAddrs() // an address that is not known cannot be asked
	answers, err := j.Places.AskForPlace(addrs, false)
	if err != nil {
		return err
	}
	t := j.Places.Count(answers)
	if t.Leader {
		return j.askToJoin()
	}
	if t.Enough() {
		if answers, err = j.Places.AskForPlace(addrs, true); err != nil {
			return err
		}
		if t = j.Places.Count(answers); t.Enough() && !t.Leader {
			j.Log.Info("confirmed by the other voters", "addr", j.Addr, "old", roster.DialAddr(j.ConfiguredAt()))
			j.TakePlace()
			return nil
		}
	}
	return fmt.Errorf("it was at %s, and has to be confirmed: %s; start those that are missing, or this node at its old address", roster.DialAddr(j.ConfiguredAt()), t)
}

// askWhoAnswers asks a member for this node's place that answers at some address,
// whoever should be there.
func (j *Joiner) askWhoAnswers() error {
	addrs, _ := j.memberAddrs()
	ctx, cancel := context.WithTimeout(j.Ctx, j.Timing.Heartbeat)
	defer cancel()
	here := make(chan string, len(addrs))
	var probing sync.WaitGroup
	for _, addr := range addrs {
		probing.Go(func() {
			if who, err := j.Probe(ctx, addr); err == nil && who.Node != j.Server {
				here <- addr
			}
		})
	}
	probing.Wait()
	close(here)
	err := errs.NoLeaderKnown
	for addr := range here {
		if err = j.askMember(addr); err == nil || errors.Is(err, errs.Refused) {
			break
		}
	}
	return err
}
