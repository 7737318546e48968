package joining

import (
	"context"
	"errors"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/member"
)

// ErrLeft is what keeps a node from its place that has left.
var ErrLeft = errors.New("it has left the cluster: start it again, or join it through a member")

// Leave removes this node, which does not ask to be admitted meanwhile or afterwards.
func (j *Joiner) Leave(ctx context.Context, req member.RemoveRequest) error {
	j.leaving.Add(1)
	defer j.leaving.Add(-1)
	err := j.members.Remove(ctx, req)
	if err == nil {
		j.left.Store(true)
	}
	return err
}

// stayAway is for a node that has left. It finds out whether somebody has joined it
// again, or removed it for good.
func (j *Joiner) stayAway() error {
	switch err := j.askToJoin(); {
	case err == nil:
		j.left.Store(false)
		return nil
	case errors.Is(err, errs.Removed):
		return err
	}
	return ErrLeft
}
