package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"
)

// A call is one operation of one client, from its begin to its answer.
type call func(ctx context.Context) error

// run is one measurement.
type run struct {
	perSecond float64 // calls that ended in the measured time, by that time
	latency   *hdrhistogram.Histogram
}

func (r run) quantile(q float64) time.Duration { return time.Duration(r.latency.ValueAtQuantile(q)) }

// newHistogram takes nanoseconds up to a minute with an error of one per cent. It
// is small, since each client has its own.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(time.Minute), 2)
}

// measure lets each client make one call after the other, without a pause. What
// ends before warmUp is over is not counted, and latencies are those of calls that
// began after it. The first error ends the measurement. When nothing ends in d it
// takes longer.
//
// The loop is closed: a slow answer keeps its client from asking, as it would a
// goroutine of a program. Latencies are those of clients that wait, not of requests
// that arrive by a schedule; see paced.
func measure(ctx context.Context, calls []call, warmUp, d time.Duration) (run, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, warmUp+d+time.Minute, errors.New("calls do not return"))
	defer cancel()
	begin := time.Now().Add(warmUp)
	end := begin.Add(d)
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		all     = newHistogram() // guarded by mu
		ended   int64            // guarded by mu
		failed  error            // guarded by mu
	)
	for _, call := range calls {
		running.Go(func() {
			own, n, err := keepCalling(ctx, call, begin, end)
			mu.Lock()
			defer mu.Unlock()
			all.Merge(own)
			ended += n
			if err != nil && failed == nil {
				failed = err
				cancel()
			}
		})
	}
	running.Wait()
	if failed != nil {
		return run{}, failed
	}
	if ended == 0 { // on a machine that is busy with something else
		return measure(ctx, calls, 0, 4*d)
	}
	return run{float64(ended) / d.Seconds(), all}, nil
}

func keepCalling(ctx context.Context, call call, begin, end time.Time) (own *hdrhistogram.Histogram, ended int64, err error) {
	own = newHistogram()
	for at := time.Now(); at.Before(end); {
		if err := call(ctx); err != nil {
			return own, ended, err
		}
		done := time.Now()
		if !at.Before(begin) {
			record(own, done.Sub(at))
		}
		if !done.Before(begin) && done.Before(end) {
			ended++
		}
		at = done
	}
	return own, ended, nil
}

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(int64(d), h.HighestTrackableValue())) // which is all that it could object to
}

// timed is a call that was made.
type timed struct{ begin, end time.Time }

// paced makes calls at so many a second, by a schedule, until stop is closed. A call
// that is made late because its client was still waiting counts from when it was due.
func paced(ctx context.Context, calls []call, perSecond float64, stop <-chan struct{}) ([]timed, error) {
	every := time.Duration(float64(len(calls)) / perSecond * float64(time.Second))
	group, ctx := errgroup.WithContext(ctx)
	done := make([][]timed, len(calls))
	begin := time.Now()
	for i, call := range calls {
		group.Go(func() error {
			for due := begin.Add(every * time.Duration(i) / time.Duration(len(calls))); ; due = due.Add(every) {
				select {
				case <-stop:
					return nil
				default:
				}
				at := due
				if wait := time.Until(due); wait > 0 {
					select {
					case <-time.After(wait):
					case <-stop:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
					at = time.Now() // a timer that was late is not the system's fault
				}
				if err := call(ctx); err != nil {
					return err
				}
				done[i] = append(done[i], timed{at, time.Now()})
			}
		})
	}
	err := group.Wait()
	return slices.Concat(done...), err
}
