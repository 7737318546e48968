package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// findMembers looks members up for kvraft.WithJoinFunc: it asks those whose HTTP
// addresses are known for the peer addresses of all that they know.
func findMembers(join []string) func(context.Context) ([]string, error) {
	// A transport of its own: no proxy belongs between nodes.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	return func(ctx context.Context) ([]string, error) {
		var found []string
		var errs []error
		for _, member := range join {
			peers, err := peersOf(ctx, client, member)
			if err != nil {
				errs = append(errs, fmt.Errorf("ask member %s, by HTTP: %w", member, err))
			}
			found = append(found, peers...)
		}
		if len(found) == 0 {
			return nil, errors.Join(errs...)
		}
		return found, nil
	}
}

// peersOf returns the peer addresses that a member's status lists.
func peersOf(ctx context.Context, client *http.Client, member string) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+member+"/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET /status: %s", resp.Status)
	}
	type node struct{ Address string }
	var status struct {
		Me, Leader       node
		Followers, Nodes []node
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&status); err != nil {
		return nil, fmt.Errorf("GET /status: %w", err)
	}
	var peers []string
	for _, n := range append(append(status.Followers, status.Nodes...), status.Me, status.Leader) {
		if n.Address != "" {
			peers = append(peers, n.Address)
		}
	}
	if len(peers) == 0 {
		return nil, errors.New("GET /status: it names no peer address")
	}
	return peers, nil
}
