package loglimit

import (
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft/internal/errs"
)

// Trouble logs what is wrong when it has changed, but not in a stream. What passes by
// itself in a cluster that starts is a warning only when it lasts; a refusal is one at
// once. One goroutine at a time may use it.
type Trouble struct {
	Log hclog.Logger

	last   string
	at     time.Time
	since  time.Time // there has been trouble
	warned bool
}

// About logs trouble, if it is to be told now, as the reason of what. nil: there is none
// any more.
func (t *Trouble) About(what string, trouble error) {
	const pause, lasting = 5 * time.Second, 10 * time.Second
	if trouble == nil {
		*t = Trouble{Log: t.Log}
		return
	}
	if t.last == "" {
		t.since = time.Now()
	}
	warns := time.Since(t.since) >= lasting || errors.Is(trouble, errs.Refused)
	changed := trouble.Error() != t.last && (t.last == "" || time.Since(t.at) > pause)
	if !changed && (!warns || t.warned) {
		return
	}
	t.last, t.at, t.warned = trouble.Error(), time.Now(), warns
	if warns {
		t.Log.Warn(what, "reason", t.last)
	} else {
		t.Log.Info(what, "reason", t.last)
	}
}
