package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	if g.keyFile != "" {
		key, err := readKey(g.keyFile)
		if err != nil {
			return talk{}, fmt.Errorf("-serf-key-file %s: %w", g.keyFile, err)
		}
		c.Key = key
	}
	for _, addr := range g.join {
		c.Join = append(c.Join, strings.TrimPrefix(addr, dnsPrefix)) // a name is all its addresses here anyway
	}
	gossip, err := serf.Start(c)
	if err != nil {
		return talk{}, fmt.Errorf("-serf %s: %w", g.addr, err)
	}
	return talk{gossip}, nil
}

// readKey does not repeat what is in the file.
func readKey(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, plainPath(err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if n := len(key); err != nil || n != 16 && n != 24 && n != 32 {
		return nil, errors.New("want 16, 24 or 32 bytes in base64, such as head -c 32 /dev/urandom | base64 makes")
	}
	return key, nil
}

// plainPath leaves out the path, which is told already.
func plainPath(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
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
