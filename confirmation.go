package kvraft

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/roster"
)

// seekConfirmation goes one step towards this node's place.
func (s *joiner) seekConfirmation() error {
	if done, err := s.places.lookAtOldPlace(); done || err != nil {
		return err
	}
	if s.configuredAt() == "" {
		return s.askToJoin()
	}
	addrs, _ := s.memberAddrs() // an address that is not known cannot be asked
	answers, err := s.places.askForPlace(addrs, false)
	if err != nil {
		return err
	}
	t := s.places.count(answers)
	if t.leader {
		return s.askToJoin()
	}
	if t.enough() {
		if answers, err = s.places.askForPlace(addrs, true); err != nil {
			return err
		}
		if t = s.places.count(answers); t.enough() && !t.leader {
			s.log.Info("confirmed by the other voters", "addr", s.addr, "old", roster.DialAddr(s.configuredAt()))
			s.takePlace()
			return nil
		}
	}
	return fmt.Errorf("it was at %s, and has to be confirmed: %s; start those that are missing, or this node at its old address", roster.DialAddr(s.configuredAt()), t)
}

// askWhoAnswers asks a member for this node's place that answers at some address,
// whoever should be there.
func (s *joiner) askWhoAnswers() error {
	addrs, _ := s.memberAddrs()
	ctx, cancel := context.WithTimeout(s.ctx, s.timing.Heartbeat)
	defer cancel()
	here := make(chan string, len(addrs))
	var probing sync.WaitGroup
	for _, addr := range addrs {
		probing.Go(func() {
			if who, err := s.probe(ctx, addr); err == nil && who.Node != s.server {
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
