package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/kvraft/kvraft"
)

func renewed(keys int) string {
	return "an empty node gets its state while others write" + overKeys(keys)
}
func withoutRenewal(keys int) string {
	return writes(256, 100).String() + ", in a turn" + overKeys(keys)
}
func duringRenewal(keys int) string {
	return withoutRenewal(keys) + ", while an empty node gets its state"
}

// renewals lets a follower lose its directory and come back, while writers keep to a
// quarter of what they can do: until it has got a snapshot and the log behind it, and is
// a voter again.
func (b *bench) renewals(ctx context.Context) error {
	keys := newKeys(b.many)
	return b.inDir(kvraftDefault, 3, func(at site) error {
		c, err := openKvraft(ctx, at, func(int) []kvraft.Option { return nil })
		if err != nil {
			return err
		}
		return errors.Join(b.renewEach(ctx, c, at, keys), c.close())
	})
}

func (b *bench) renewEach(ctx context.Context, c *kvraftCluster, at site, keys []string) error {
	if err := preload(ctx, c, keys, newValue(100)); err != nil {
		return err
	}
	free, err := writes(256, 100).run(ctx, c, keys, b.warmUp, b.duration)
	if err != nil {
		return err
	}
	for range b.rounds {
		if err := b.renewal(ctx, c, at, keys, free.perSecond/4); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) renewal(ctx context.Context, c *kvraftCluster, at site, keys []string, perSecond float64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("the node is not back"))
	defer cancel()
	follower := c.follower()
	calls, err := writes(256, 100).calls(c, keys)
	if err != nil {
		return err
	}
	var done []timed
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		done, err = paced(ctx, calls, perSecond, stop)
		ended <- err
	}()
	begun := time.Now()
	time.Sleep(b.warmUp + 2*b.duration) // what is measured without it
	lost := time.Now()
	err = c.renew(ctx, at, follower)
	back := time.Now()
	close(stop)
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	without, during := newHistogram(), newHistogram()
	for _, one := range done {
		switch {
		case one.begin.After(lost):
			record(during, one.end.Sub(one.begin))
		case one.begin.After(begun.Add(b.warmUp)) && one.end.Before(lost):
			record(without, one.end.Sub(one.begin))
		}
	}
	b.figures.add(name{renewed(len(keys)), kvraftName, took}, back.Sub(lost).Seconds())
	b.figures.addRun(withoutRenewal(len(keys)), kvraftName, run{perSecond, without})
	b.figures.addRun(duringRenewal(len(keys)), kvraftName, run{perSecond, during})
	b.say("an empty node is a voter after %s; write p99.9 %v, before it %v", latency(back.Sub(lost)),
		latency(time.Duration(during.ValueAtQuantile(99.9))), latency(time.Duration(without.ValueAtQuantile(99.9))))
	return nil
}

// follower is the number of a node that does not lead.
func (c *kvraftCluster) follower() int {
	for i, s := range c.stores {
		if s.Status().State != kvraft.Leading {
			return i
		}
	}
	return 0
}

// renew empties a node's directory, and waits until it has all again, and a vote.
func (c *kvraftCluster) renew(ctx context.Context, at site, i int) error {
	if err := errors.Join(c.stores[i].Close(), os.RemoveAll(at.dirs[i])); err != nil {
		return err
	}
	store, err := c.openNode(at, i)
	if err != nil {
		return err
	}
	c.stores[i] = store
	return eventually(ctx, fmt.Sprintf("node %d with all that there is", i), func() bool {
		st := store.Status()
		return st.Ready && st.Voter
	})
}
