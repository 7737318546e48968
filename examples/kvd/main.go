// Command kvd is one node of a replicated key-value store: package kvraft with
// its HTTP API, flags and signals.
//
// Standard output says, in three lines, what the node is, where it listens, and
// a command to try. Everything else goes to standard error. The exit code is 0
// after SIGINT or SIGTERM, 2 for a wrong command line, and 1 for any other error
// (a missing DIR among them).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

func main() {
	c, err := parseFlags(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case errors.Is(err, errNoDir):
		os.Exit(1)
	case err != nil:
		os.Exit(2)
	}
	if err := run(c); err != nil {
		fmt.Fprintln(os.Stderr, "kvd:", err)
		os.Exit(1)
	}
}

// run returns nil after a signal, and else why the node cannot go on.
func run(c config) error {
	log := newLogger(c.verbose)
	ctx := untilSignal(log)
	clients, err := listen("-haddr", c.haddr.value)
	if err != nil {
		return err
	}
	defer clients.Close() // the server closes it too, once it serves
	store, err := openStore(c, log)
	if err != nil {
		return err
	}
	server := newServer(store, log)
	failed := make(chan error, 2)
	go func() { failed <- server.Serve(clients) }()
	go func() {
		if _, err := store.WaitLeader(ctx); errors.Is(err, kvraft.ErrRefused) {
			failed <- fmt.Errorf("not admitted: %w", err)
		}
	}()
	announce(c, store.Status(), clients.Addr())

	select {
	case <-ctx.Done():
	case err = <-failed:
	case <-store.Done():
		err = store.Err()
	}
	return errors.Join(err, stop(server, store, log))
}

func openStore(c config, log hclog.Logger) (*kvraft.Store, error) {
	peers, err := listen("-raddr", c.raddr.value)
	if err != nil {
		return nil, err
	}
	opts := []kvraft.Option{kvraft.WithListener(peers), kvraft.WithAddr(c.raddr.value), kvraft.WithLogger(log)}
	if c.id.given {
		opts = append(opts, kvraft.WithID(c.id.value))
	}
	if len(c.join) > 0 {
		opts = append(opts, kvraft.WithJoinFunc(findMembers(c.join)))
	}
	if c.inMem {
		opts = append(opts, kvraft.WithInMemory())
	}
	return kvraft.Open(c.dir, opts...)
}

func newServer(store *kvraft.Store, log hclog.Logger) *http.Server {
	return &http.Server{
		Handler:           http.NewCrossOriginProtection().Handler(kvhttp.Handler(store)), // web pages reach loopback too
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Warn}),
	}
}

// stop lets the requests in flight finish, for a while, and closes the store.
func stop(server *http.Server, store *kvraft.Store, log hclog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("some requests do not end; they are cut off")
		err = server.Close()
	}
	return errors.Join(err, store.Close())
}

func listen(flag, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, addr, err)
	}
	return ln, nil
}

// untilSignal returns a context that ends with the first SIGINT or SIGTERM. The
// second ends the process.
func untilSignal(log hclog.Logger) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		log.Info("shutting down", "signal", <-signals)
		cancel()
		log.Warn("exiting at once", "signal", <-signals)
		os.Exit(1)
	}()
	return ctx
}

// newLogger logs to standard error: kvraft's own words, and of raft and the rest
// below it only warnings, unless verbose.
func newLogger(verbose bool) hclog.Logger {
	if verbose {
		return hclog.New(&hclog.LoggerOptions{Level: hclog.Debug})
	}
	return quiet{hclog.New(&hclog.LoggerOptions{Level: hclog.Info, IndependentLevels: true})}
}

type quiet struct{ hclog.Logger }

func (q quiet) Named(name string) hclog.Logger {
	l := q.Logger.Named(name)
	l.SetLevel(hclog.Warn)
	return l
}

// announce prints the first lines: who and where this node is, and what to try.
func announce(c config, st kvraft.Status, clients net.Addr) {
	standing := "is back in cluster " + st.Cluster
	switch {
	case st.Cluster == "" && len(c.join) == 0:
		standing = "waits to be admitted to a cluster; -join names its members"
	case st.Cluster == "":
		standing = "waits to be admitted to the cluster of " + c.join.String()
	case st.Founded:
		standing = "founded cluster " + st.Cluster
	}
	host, port, _ := net.SplitHostPort(clients.String()) // of a TCP listener: it has both
	fmt.Printf("kvd: node %s %s\n", st.ID, standing)
	fmt.Printf("kvd: listening: HTTP on %s, peers reach it at %s\n", clients, st.Addr)
	fmt.Printf("kvd: try: curl -XPOST %s/key -d '{\"foo\": \"bar\"}'\n", net.JoinHostPort(orLocalhost(host), port))
}
