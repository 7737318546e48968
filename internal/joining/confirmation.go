package joining

import (
	"context"
	"errors"
	"sync"

	"github.com/kvraft/kvraft/internal/errs"
)

// seekConfirmation goes one step towards this node's place.
func (j *Joiner) seekConfirmation() error {
	viaLeader, err := j.Places.Seek(func() []string {
		addrs, _ := j.memberAddrs() // an address that is not known cannot be asked
		return addrs
	})
	if viaLeader {
		return j.askToJoin()
	}
	return err
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
