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
func (s *Joiner) seekConfirmation() error {
	if done, err := s.Places.LookAtOldPlace(); done || err != nil {
		return err
	}
	if s.ConfiguredAt() == "" {
		return s.askToJoin()
	}
	addrs, _ := s.memberAddrs() // an address that is not known cannot be asked
	answers, err := s.Places.AskForPlace(addrs, false)
	if err != nil {
		return err
	}
	t := s.Places.Count(answers)
	if t.Leader {
		return s.askToJoin()
	}
	if t.Enough() {
		if answers, err = s.Places.AskForPlace(addrs, true); err != nil {
			return err
		}
		if t = s.Places.Count(answers); t.Enough() && !t.Leader {
			s.Log.Info("confirmed by the other voters", "addr", s.Addr, "old", roster.DialAddr(s.ConfiguredAt()))
			s.TakePlace()
			return nil
		}
	}
	return fmt.Errorf("it was at %s, and has to be confirmed: %s; start those that are missing, or this node at its old address", roster.DialAddr(s.ConfiguredAt()), t)
}

// askWhoAnswers asks a member for this node's place that answers at some address,
// whoever should be there.
func (s *Joiner) askWhoAnswers() error {
	addrs, _ := s.memberAddrs()
	ctx, cancel := context.WithTimeout(s.Ctx, s.Timing.Heartbeat)
	defer cancel()
	here := make(chan string, len(addrs))
	var probing sync.WaitGroup
	for _, addr := range addrs {
		probing.Go(func() {
			if who, err := s.Probe(ctx, addr); err == nil && who.Node != s.Server {
				here <- addr
			}
		})
	}
	probing.Wait()
	close(here)
	err := errs.NoLeaderKnown
	for addr := range here {
		if err = s.askMember(addr); err == nil || errors.Is(err, errs.Refused) {
			break
		}
	}
	return err
}
