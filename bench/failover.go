package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	leaderClosed = "leader stopped in order: pause until the next acknowledged write"
	leaderKilled = "leader killed: pause until the next acknowledged write"
	kvdInTest    = "kvd"
)

// closable is a cluster whose leader can be stopped in this process.
type closable interface {
	closeLeader() error // in order: it may hand leadership over
	crashLeader() error // at once, like a process that is killed; or errors.ErrUnsupported
}

// failover stops leaders in this process.
func (b *bench) failover(ctx context.Context, s system) error {
	for range b.rounds {
		for what, stop := range map[string]func(closable) error{leaderClosed: closable.closeLeader, leaderKilled: closable.crashLeader} {
			err := b.with(ctx, s, 3, func(c cluster) error {
				pause, err := pauseWhen(ctx, c, func() error { return stop(c.(closable)) })
				if errors.Is(err, errors.ErrUnsupported) {
					return nil
				}
				if err == nil {
					b.figures.add(name{what, s.name, took}, pause.Seconds())
					b.say("%s: %s: %s", s.name, what, latency(pause))
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// pauseWhen returns the longest time in which no write was acknowledged while stop
// is called. Writers on another node give a write up after a while and make the
// next, out of step, so that one is always about to begin.
func pauseWhen(ctx context.Context, c cluster, stop func() error) (pause time.Duration, err error) {
	const writers, patience, enough = 16, 250 * time.Millisecond, 500
	clients, err := c.clients(follower, writers)
	if err != nil {
		return 0, err
	}
	writing, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var (
		running sync.WaitGroup
		written atomic.Int64
		mu      sync.Mutex
		last    = time.Now() // guarded by mu
	)
	for i, client := range clients {
		running.Go(func() {
			for n := 0; writing.Err() == nil; n++ {
				one, cancel := context.WithTimeout(writing, patience+time.Duration(i)*patience/writers)
				err := client.set(one, fmt.Sprintf("writer%d", i), newValue(100))
				cancel()
				if err != nil {
					continue
				}
				written.Add(1)
				mu.Lock()
				pause, last = max(pause, time.Since(last)), time.Now()
				mu.Unlock()
			}
		})
	}
	goOn := func() error {
		target := written.Load() + enough
		return eventually(writing, "writes to go on", func() bool { return written.Load() >= target })
	}
	err = goOn()
	mu.Lock()
	pause = 0 // of what came before
	mu.Unlock()
	if err == nil {
		err = stop()
	}
	if err == nil {
		err = goOn()
	}
	cancel()
	running.Wait()
	return pause, err
}

// killed measures kvraft's failover where it can be killed: kvd's own benchmark
// starts processes.
func (b *bench) killed(ctx context.Context) error {
	b.say("kvd processes are killed and stopped: go test -bench Failover ./examples/kvd")
	command := exec.CommandContext(ctx, "go", "-C", "..", "test", "-run", "^$", "-bench", "Failover", "-benchtime", fmt.Sprintf("%dx", max(3*b.rounds, 3)), "./examples/kvd")
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s%s", command, err, out, &stderr)
	}
	for what, bench := range map[string]string{leaderKilled: "kill_-9", leaderClosed: "stop"} {
		ms, err := reported(string(out), "BenchmarkFailover/"+bench, "median-ms")
		if err != nil {
			return err
		}
		b.figures.add(name{what, kvdInTest, took}, ms/1000)
	}
	return nil
}

// reported finds a metric in what go test -bench prints.
func reported(out, bench, metric string) (float64, error) {
	number := regexp.MustCompile(`([0-9.]+) ` + regexp.QuoteMeta(metric))
	for line := range strings.Lines(out) {
		if found := number.FindStringSubmatch(line); strings.HasPrefix(line, bench) && found != nil {
			return strconv.ParseFloat(found[1], 64)
		}
	}
	return 0, fmt.Errorf("no %s of %s in:\n%s", metric, bench, out)
}
