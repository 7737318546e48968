package main

import (
	"context"
	"errors"
	"time"
)

func restarted(keys int) string { return "restart of three nodes" + overKeys(keys) }

// restart closes three nodes with keys and opens them again: until all
// have read and verified their files and elected a leader, and a read is answered.
func (b *bench) restart(ctx context.Context, s system, keys []string) error {
	return b.inDir(s, 3, func(at site) error {
		c, err := open(ctx, s, at)
		if err != nil {
			return err
		}
		if err := errors.Join(preload(ctx, c, keys, newValue(100)), c.close()); err != nil {
			return err
		}
		for range b.rounds {
			began := time.Now()
			c, err := open(ctx, s, at)
			if err != nil {
				return err
			}
			err = firstRead(ctx, s, c, keys[len(keys)-1])
			pause := time.Since(began)
			if err := errors.Join(err, c.close()); err != nil {
				return err
			}
			b.figures.add(name{restarted(len(keys)), s.name, took}, pause.Seconds())
			b.say("%s: %s: %s", s.name, restarted(len(keys)), latency(pause))
		}
		return nil
	})
}

func firstRead(ctx context.Context, s system, c cluster, key string) error {
	clients, err := c.clients(leader, 1)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not within a minute"))
	defer cancel()
	return eventually(ctx, "a read after the restart", func() bool { return clients[0].get(ctx, key, s.freshest()) == nil })
}
