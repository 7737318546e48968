package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// finder finds members for kvraft.WithJoinFunc: it asks those whose HTTP addresses are
// known for the peer addresses of all that they know.
type finder struct {
	join   addrs
	id     string // of this node; empty: not known
	expect int    // how many nodes are to form a cluster
	told   string // what this node tells that its peers reach it at
}

// How long an answer may take; and where enough is known, how much longer than others.
const patience, grace = 2 * time.Second, 100 * time.Millisecond

// newClient has a transport of its own: no proxy belongs between nodes.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

// urlOf is the URL of path at addr, of which an IPv6 zone is escaped.
func urlOf(addr, path string) string {
	return (&url.URL{Scheme: "http", Host: addr, Path: path}).String()
}

// heard is what came of an address to join.
type heard struct {
	id     string   // of the node there
	peers  []string // the peer addresses that it knows
	member bool     // of a cluster
	err    error
}

// find asks everybody at the same time. Who answers late or never holds it up only
// while too little is known.
func (f finder) find(ctx context.Context) (found []string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var errs []error
	var enough <-chan time.Time
	others := map[string]bool{}
	answers := f.askAll(ctx)
	for {
		select {
		case h, more := <-answers:
			if !more {
				return found, inOrder(errs)
			}
			if h.err != nil {
				errs = append(errs, h.err)
				continue
			}
			found = append(found, h.peers...)
			if h.id == f.id {
				continue
			}
			others[h.id] = true
			if enough == nil && (h.member || f.isAll(others)) {
				enough = time.After(grace)
			}
		case <-enough:
			return found, inOrder(errs)
		}
	}
}

// isAll reports whether others, among them maybe this node where it does not know its
// id, are all that form a cluster with it.
func (f finder) isAll(others map[string]bool) bool {
	want := f.expect - 1
	if f.id == "" {
		want = f.expect
	}
	return f.expect > 1 && len(others) >= want
}

// inOrder joins errors so that the same ones have the same text.
func inOrder(errs []error) error {
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// askAll closes answers when it has asked everybody. It goes on until then, or until
// ctx ends.
func (f finder) askAll(ctx context.Context) <-chan heard {
	answers, client := make(chan heard), newClient()
	asking, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %v", patience))
	var running sync.WaitGroup
	tell := func(h heard) {
		select {
		case answers <- h:
		case <-ctx.Done():
		}
	}
	for _, addr := range f.join {
		running.Go(func() {
			members, err := resolve(asking, addr)
			if err != nil {
				tell(heard{err: err})
			}
			for _, member := range members {
				running.Go(func() { tell(f.hear(asking, client, member)) })
			}
		})
	}
	go func() {
		running.Wait()
		cancel()
		close(answers)
	}()
	return answers
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

// resolve returns the addresses that a name in DNS has now, or addr itself.
func resolve(ctx context.Context, addr string) (resolved []string, err error) {
	name, ok := strings.CutPrefix(addr, dnsPrefix)
	if !ok {
		return []string{addr}, nil
	}
	host, port, _ := net.SplitHostPort(name) // the flag was checked
	ips, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("look %s up: %w", host, context.Cause(ctx))
	}
	for _, ip := range ips {
		resolved = append(resolved, net.JoinHostPort(ip, port))
	}
	return resolved, err
}

// hear asks a node for its status.
func (f finder) hear(ctx context.Context, client *http.Client, member string) heard {
	h, err := f.askStatus(ctx, client, member)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		h.err = fmt.Errorf("ask %s, by HTTP: %w", member, err)
	}
	return h
}

func (f finder) askStatus(ctx context.Context, client *http.Client, member string) (h heard, err error) {
	var way httptrace.GotConnInfo
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { way = info }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, urlOf(member, "/status"), nil)
	if err != nil {
		return h, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return h, plainly(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return h, fmt.Errorf("GET /status: %s; is that the HTTP address of a node?", resp.Status)
	}
	type node struct{ ID, Address string }
	var status struct {
		Me, Leader       node
		Followers, Nodes []node
		Cluster          string
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&status); err != nil {
		return h, fmt.Errorf("GET /status: %w; is that the HTTP address of a node?", err)
	}
	if isElsewhere(way.Conn.LocalAddr(), way.Conn.RemoteAddr()) {
		if err := checkTold(status.Me.ID, status.Me.Address, f.told); err != nil {
			return h, err
		}
	}
	h.id, h.member = status.Me.ID, status.Cluster != ""
	for _, n := range append(append(status.Followers, status.Nodes...), status.Me, status.Leader) {
		if n.Address != "" {
			h.peers = append(h.peers, n.Address)
		}
	}
	if len(h.peers) == 0 {
		return h, errors.New("GET /status: it names no peer address")
	}
	return h, nil
}

// isElsewhere reports whether a connection led to another machine: to one's own
// address it comes from there.
func isElsewhere(local, remote net.Addr) bool {
	from, ok := local.(*net.TCPAddr)
	to, alsoOK := remote.(*net.TCPAddr)
	return ok && alsoOK && !to.IP.IsLoopback() && !from.IP.Equal(to.IP)
}

// checkTold refuses an address on loopback between machines: whoever dials it reaches
// a node of its own, or nobody.
func checkTold(id, theirs, mine string) error {
	switch {
	case isLoopback(theirs):
		return fmt.Errorf("node %s tells that its peers reach it at %s, which they cannot from another machine; start it with -raddr, or -advertise, and an address that they can", id, theirs)
	case isLoopback(mine):
		return fmt.Errorf("this node tells that its peers reach it at %s, which node %s, on another machine, cannot; start this one with -raddr, or -advertise, and an address that it can", mine, id)
	}
	return nil
}

func isLoopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr)
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}
