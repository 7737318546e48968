package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// drainTime is how long clients have to notice that the node is about to stop.
const drainTime = 500 * time.Millisecond

// drain is the time before a shutdown, in which readiness fails and clients are moved to
// leave their connections.
type drain struct {
	ctx   context.Context // ends when it begins
	begin context.CancelFunc
	open  atomic.Int64 // connections
}

func newDrain() *drain {
	d := &drain{}
	d.ctx, d.begin = context.WithCancel(context.Background())
	return d
}

// count is for the ConnState of the server.
func (d *drain) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		d.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		d.open.Add(-1)
	}
}

// wait begins the drain, and returns when its time is over or no connection is left.
func (d *drain) wait() {
	d.begin()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(drainTime); d.open.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
}

// stop drains the server and lets the requests in flight finish, for a while.
func stop(server *http.Server, drain *drain, log hclog.Logger) error {
	drain.wait()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("some requests do not end; they are cut off")
		err = server.Close()
	}
	return err
}
