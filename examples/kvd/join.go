package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// findMembers looks members up for kvraft.WithJoinFunc: it asks those whose HTTP
// addresses are known for the peer addresses of all that they know.
func findMembers(join addrs) func(context.Context) ([]string, error) {
	// A transport of its own: no proxy belongs between nodes.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	return func(ctx context.Context) ([]string, error) {
		var found []string
		var errs []error
		members, err := resolve(ctx, join)
		if err != nil {
			errs = append(errs, err)
		}
		for _, member := range members {
			peers, err := peersOf(ctx, client, member)
			if err != nil {
				errs = append(errs, fmt.Errorf("ask %s, by HTTP: %w", member, err))
			}
			found = append(found, peers...)
		}
		return found, errors.Join(errs...)
	}
}

// plainly leaves out what is known or changes from one attempt to the next: the URL
// and this side's port.
func plainly(err error) error {
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial":
		return op.Err
	case errors.As(err, &op), errors.Is(err, io.EOF):
		return errors.New("the connection was closed without an answer; is that the HTTP address of a node?")
	}
	return err
}

// resolve replaces names in DNS by the addresses that they have now, as far as it
// can, also with an error.
func resolve(ctx context.Context, addrs []string) (resolved []string, err error) {
	for _, addr := range addrs {
		name, ok := strings.CutPrefix(addr, dnsPrefix)
		if !ok {
			resolved = append(resolved, addr)
			continue
		}
		host, port, _ := net.SplitHostPort(name) // the flag was checked
		ips, lookupErr := net.DefaultResolver.LookupHost(ctx, host)
		err = errors.Join(err, lookupErr)
		for _, ip := range ips {
			resolved = append(resolved, net.JoinHostPort(ip, port))
		}
	}
	return resolved, err
}

// peersOf returns the peer addresses that a member's status lists.
func peersOf(ctx context.Context, client *http.Client, member string) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+member+"/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, plainly(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET /status: %s; is that the HTTP address of a node?", resp.Status)
	}
	type node struct{ Address string }
	var status struct {
		Me, Leader       node
		Followers, Nodes []node
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&status); err != nil {
		return nil, fmt.Errorf("GET /status: %w; is that the HTTP address of a node?", err)
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
