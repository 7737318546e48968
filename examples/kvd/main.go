// Command kvd is one node of a replicated key-value store: package kvraft with
// its HTTP API, flags and signals.
//
// Standard output says what the node is, where it listens, and, as soon as it is in a
// cluster, a command to try. Everything else goes to standard error; where that is not
// read, lines are dropped, and the node goes on. The exit code is 0
// after SIGINT, SIGTERM or SIGHUP, 2 for a wrong command line, 3 for a node that was
// removed from its cluster, which no restart changes, and 1 for any other error (a missing
// DIR among them).
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
	"github.com/kvraft/kvraft/internal/loglimit"
	"github.com/kvraft/kvraft/internal/logqueue"
)

func main() {
	if len(os.Args) > 1 && commands()[os.Args[1]] != nil {
		os.Exit(commands()[os.Args[1]](os.Args[2:]))
	}
	c, err := parseFlags(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		printHelp(os.Stdout, c.flags)
		return
	case errors.Is(err, errNoDir), errors.As(err, new(notFlags)):
		os.Exit(1)
	case err != nil:
		os.Exit(2)
	case c.version:
		os.Exit(printVersion(nil))
	}
	if err := run(c); err != nil {
		complain(err)
		os.Exit(exitCode(err))
	}
}

// exitCode is what supervisors go by: they restart a node that failed, and not one
// that was removed.
func exitCode(err error) int {
	if errors.Is(err, kvraft.ErrRemoved) {
		return 3
	}
	return 1
}

// run returns nil after a signal, and else why the node cannot go on.
func run(c config) error {
	lines := logqueue.New(newLogger(c.verbose))
	defer lines.Close(logPatience)
	log := lines.Logger()
	log.Info("starting", "version", buildVersion())
	ctx := untilSignal(lines)
	if err := checkMirror(c); err != nil {
		return err
	}
	clients, err := c.listen("-haddr", c.haddr.value)
	if err != nil {
		return err
	}
	defer clients.Close() // the server closes it too, once it serves
	talk, err := startGossip(c.gossip, log)
	if err != nil {
		return err
	}
	first := c.inMem || isNew(c.dir)
	store, err := openStore(c, clients, talk, log)
	if err != nil {
		return errors.Join(err, talk.Close())
	}
	if c.onePort {
		clients = store.OtherConns()
	}
	talk.attach(store)
	err = startMirror(c, store, log)
	if err == nil {
		err = c.remember(store.Status(), log)
	}
	if err != nil {
		return errors.Join(err, store.Close(), talk.Close())
	}
	drain := newDrain()
	server := newServer(store, log, c.hosts(clients.Addr()), kvhttp.WithDrainContext(drain.ctx))
	server.ConnState = drain.count
	newClients(log).bound(server)
	failed := make(chan error, 2)
	go func() { failed <- server.Serve(clients) }()
	st := store.Status()
	announced := make(chan struct{})
	go func() { // standard output may not be read
		defer close(announced)
		announce(c, st, first, clients.Addr())
	}()
	go func() {
		_, err := store.WaitLeader(ctx)
		switch {
		case errors.Is(err, kvraft.ErrRefused):
			failed <- fmt.Errorf("not admitted: %w", err)
		case err == nil && st.Cluster == "":
			<-announced
			if st.State == kvraft.Joining {
				fmt.Printf("kvd: node %s %s\n", st.ID, entrance(store.Status()))
			}
			hint(clients.Addr())
		}
	}()

	select {
	case <-ctx.Done():
	case err = <-failed:
	case <-store.Done():
	}
	if why := store.Err(); why != nil { // which may have ended the one port as well
		err = why
	}
	err = errors.Join(err, stop(server, drain, log))
	leave(c, store, log)
	return errors.Join(err, store.Close(), talk.Close())
}

func openStore(c config, clients net.Listener, talk talk, log hclog.Logger) (*kvraft.Store, error) {
	opts := []kvraft.Option{kvraft.WithAddr(c.raddr.value), kvraft.WithLogger(log)}
	peers := clients
	if c.onePort {
		opts = append(opts, kvraft.WithSharedPort())
	} else {
		var err error
		if peers, err = c.listen("-raddr", c.raddr.value); err != nil {
			return nil, err
		}
	}
	told, err := c.tells(peers.Addr())
	if err != nil {
		return nil, errors.Join(err, peers.Close())
	}
	opts = append(opts, kvraft.WithListener(peers), kvraft.WithAdvertise(told))
	if c.id.given {
		opts = append(opts, kvraft.WithID(c.id.value))
	}
	if c.joins() {
		opts = append(opts, kvraft.WithJoinFunc(talk.orAsk(finder{c.join, c.id.value, c.expect, cmp.Or(told, c.raddr.value)})), kvraft.WithBootstrapExpect(c.expect))
	}
	if c.replica {
		opts = append(opts, kvraft.WithReplica())
	}
	if c.inMem {
		opts = append(opts, kvraft.WithInMemory())
	}
	return kvraft.Open(c.dir, opts...)
}

// leave takes this node out of the cluster if it is to leave, and the others can do
// without it.
func leave(c config, store *kvraft.Store, log hclog.Logger) {
	if !c.leave || store.Err() != nil || store.Status().State == kvraft.Joining {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	switch err := store.Remove(ctx, store.Status().ID, kvraft.MayReturn); {
	case err == nil:
		log.Info("left the cluster")
	case errors.Is(err, kvraft.ErrUnknown):
		log.Warn("this node may have left the cluster, or not", "reason", err)
	default:
		log.Warn("this node stays a member", "reason", err)
	}
}

func (c config) listen(flag, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		return ln, nil
	}
	hint := ""
	switch {
	case !errors.Is(err, syscall.EADDRINUSE):
	case !c.prompt:
		hint = "; name another with " + flag
	case isNew(c.dir):
		hint = "; start again and answer another port"
	default:
		hint = "; name another with " + flag + ", without -prompt"
	}
	if hint != "" && !isNew(c.dir) {
		hint += ", unless this node runs already"
	}
	return nil, fmt.Errorf("%s %s: %w%s", flag, addr, err, hint)
}

// untilSignal returns a context that ends with the first SIGINT, SIGTERM or SIGHUP. The
// second ends the process, unless it is the same that was sent to the group as well. A
// SIGHUP that nohup has the process ignore stays so. Where what the node prints is read
// no more, it goes on.
func untilSignal(lines *logqueue.Queue) context.Context {
	const echo = 200 * time.Millisecond
	log := lines.Logger()
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	signal.Ignore(syscall.SIGPIPE)
	go func() {
		first, at := <-signals, time.Now()
		cancel()
		log.Info("shutting down", "signal", first)
		for next := range signals {
			if next != first || time.Since(at) > echo {
				log.Warn("exiting at once", "signal", next)
				lines.Close(echo)
				os.Exit(1)
			}
		}
	}()
	return ctx
}

// logPatience is how long the end waits for the last lines to be written.
const logPatience = time.Second

// complain prints why kvd ends, unless standard error is not read.
func complain(err error) {
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		fmt.Fprintln(os.Stderr, "kvd:", plain(err.Error()))
	}()
	select {
	case <-printed:
	case <-time.After(logPatience):
	}
}

// plain is the text of an error without the package that it is of.
func plain(text string) string {
	text = strings.ReplaceAll(text, kvraft.ErrClosed.Error()+": ", "the node has stopped: ")
	return strings.ReplaceAll(text, "kvraft: ", "")
}

// newLogger logs to standard error: kvraft's own words, and of raft and the rest
// below it only warnings, unless verbose.
func newLogger(verbose bool) hclog.Logger {
	if verbose {
		return hclog.New(&hclog.LoggerOptions{Level: hclog.Debug})
	}
	return quiet{hclog.New(&hclog.LoggerOptions{Level: hclog.Info, IndependentLevels: true})}
}

// quiet lets only warnings through of what has a name, and of each kind of error one in a
// minute.
type quiet struct{ hclog.Logger }

func (q quiet) Named(name string) hclog.Logger {
	l := q.Logger.Named(name)
	l.SetLevel(hclog.Warn)
	return rare{l, loglimit.New(time.Minute)}
}

// rare logs an error once in a while, however often it is met.
type rare struct {
	hclog.Logger
	lines *loglimit.Limiter // by message
}

func (r rare) Error(msg string, args ...any) {
	if _, ok := r.lines.Allow(msg); ok {
		r.Logger.Error(msg, args...)
	}
}

// announce prints the first lines: who and where this node is, and what to try. The
// first start of a node in a cluster was its admission.
func announce(c config, st kvraft.Status, first bool, clients net.Addr) {
	standing := "goes on with the data of cluster " + st.Cluster // which may have removed it meanwhile
	switch {
	case st.Cluster == "" && st.State != kvraft.Joining:
		standing = "goes on with the data of hraftd"
	case st.Cluster == "" && !c.joins():
		standing = "waits to be admitted to a cluster; -join names its members"
	case st.Cluster == "" && c.expect > 1:
		standing = fmt.Sprintf("waits for %d nodes to form a cluster", c.expect)
	case st.Cluster == "":
		standing = "waits to be admitted to the cluster of " + strings.Join(slices.Concat(c.join, c.gossip.join), ",")
	case st.Founded || first:
		standing = entrance(st)
	}
	fmt.Printf("kvd: node %s %s\n", st.ID, standing)
	fmt.Printf("kvd: listening: HTTP on %s, peers reach it at %s\n", clients, st.Addr)
	if st.Cluster != "" {
		hint(clients)
	}
}

// entrance is how this start has brought the node into its cluster.
func entrance(st kvraft.Status) string {
	if st.Founded {
		return "formed cluster " + st.Cluster
	}
	return "was admitted to cluster " + st.Cluster
}

func hint(clients net.Addr) {
	host, port, _ := net.SplitHostPort(clients.String()) // of a TCP listener: it has both
	key := strings.TrimPrefix(urlOf(net.JoinHostPort(orLocalhost(host), port), "/key"), "http://")
	fmt.Printf("kvd: try: curl -XPOST %s -d '{\"foo\": \"bar\"}'\n", key)
}
