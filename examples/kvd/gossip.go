package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/serf"
)

// talk is the gossip of a node, or none.
type talk struct{ *serf.Gossip }

func startGossip(g gossip, log hclog.Logger) (talk, error) {
	if g.addr == "" {
		return talk{}, nil
	}
	c := serf.Config{Addr: g.addr, HealAfter: g.after, Logger: log}
	for _, addr := range g.join {
		c.Join = append(c.Join, strings.TrimPrefix(addr, dnsPrefix)) // a name is all its addresses here anyway
	}
	gossip, err := serf.Start(c)
	if err != nil {
		return talk{}, fmt.Errorf("-serf %s: %w", g.addr, err)
	}
	return talk{gossip}, nil
}

func (t talk) attach(store *kvraft.Store) {
	if t.Gossip != nil {
		t.Attach(store)
	}
}

// orAsk looks for members by gossip as well as by asking.
func (t talk) orAsk(f finder) func(context.Context) ([]string, error) {
	if t.Gossip == nil {
		return f.find
	}
	return func(ctx context.Context) ([]string, error) {
		found, err := t.Find(ctx)
		asked, askErr := f.find(ctx)
		return append(found, asked...), errors.Join(err, askErr)
	}
}

// Close is nil's as well.
func (t talk) Close() error {
	if t.Gossip == nil {
		return nil
	}
	return t.Gossip.Close()
}
