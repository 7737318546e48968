package kvraft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/joining"
	"github.com/kvraft/kvraft/internal/peertls"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// Option sets up a store; see [Open].
type Option func(*options)

// options is what the With functions record. Only validate fills in defaults
// and judges.
type options struct {
	dir        string
	id         string
	addr       string
	advertise  string
	listener   net.Listener
	sharePort  bool
	secrets    []string // the first is this node's
	plainPeers bool
	network    Network
	join       []string
	joinFunc   func(context.Context) ([]string, error)
	expect     int
	replica    bool
	inMemory   bool

	segmentSize int64 // of the log; 0: package wal's default, but for tests
	atRest      bool  // the node is not to run, see recover.go
	logStore    LogStore
	logger      hclog.Logger
	timing      Timing
	snapshots   Snapshots
	limits      Limits
	history     int64
}

// Timing holds the intervals of a node. A zero field means its default. All
// nodes of a cluster should use the same.
type Timing struct {
	// Heartbeat is how long a leader may be silent: when a majority of the voters
	// have had no word from it for as long, one of them stands for election. It
	// must exceed the slowest fsync, since heartbeats queue behind it. Default 1 s.
	Heartbeat time.Duration
	// Election is how long a candidate waits for votes. Default: Heartbeat.
	Election time.Duration
	// Lease is how long a leader that hears from no majority stays leader.
	// At most Heartbeat. Default: half of Heartbeat.
	Lease time.Duration
	// Commit is how soon after a write an otherwise idle leader tells its
	// followers that it is committed. Default 10 ms.
	Commit time.Duration
	// Stall is how long one operation of the log store may take, and a second more
	// for each megabyte that it writes, before the node takes its disk for hung and
	// stops. Default 10 s.
	Stall time.Duration
}

// Snapshots says when the log is compacted. A zero field means its default. On disk the log
// is in segments of 4 MiB, two at the least; up to nine have no entry of it, but are there
// to be written to next.
type Snapshots struct {
	// EveryBytes of log a snapshot is taken, and the first of a run after an eighth
	// of that or more, at random: the nodes of a cluster are not to write theirs at
	// once. Default 64 MiB.
	EveryBytes int64
	// TrailingBytes of log are kept behind a snapshot, so that a follower
	// that is a little behind catches up from the log. Default 64 MiB.
	TrailingBytes int64
	// Retain is how many snapshots are kept. Default 2.
	Retain int
}

// Limits bounds what one write may carry. A zero field means its default. They are
// checked on the node where the call is made, and on the leader: all nodes of a cluster
// should have the same.
type Limits struct {
	KeyBytes   int // of a key that is set; default 1 KiB
	ValueBytes int // default 1 MiB
	BatchBytes int // keys and values of one batch together; default 8 MiB
}

// WithID names the node. The id must be unique in the cluster and stays with
// the data directory. Default: the address that the node advertises.
func WithID(id string) Option { return func(o *options) { o.id = id } }

// WithAddr is the address, host:port, on which the node listens for its peers.
// Port 0 takes a free port; an empty host or a wildcard listens on every
// interface. Default "127.0.0.1:7000".
func WithAddr(addr string) Option { return func(o *options) { o.addr = addr } }

// WithAdvertise is the address, host:port, under which the other nodes reach
// this one. Default: the address it listens on; where that is a wildcard, the one from
// which this host sends to those of WithJoin, or else by its default route, of IPv4 or of
// IPv6, or else the only one it has. Loopback, addresses of one link and, on Linux,
// temporary ones of IPv6 are no use to others. Where none is left, or several, Open fails
// with ErrInvalid.
func WithAdvertise(addr string) Option { return func(o *options) { o.advertise = addr } }

// WithListener listens for peers on ln; WithAddr then only says under which name.
// The store closes ln, also when Open fails.
func WithListener(ln net.Listener) Option { return func(o *options) { o.listener = ln } }

// WithSharedPort lets other protocols share the peer port: connections that do not
// open with kvraft's handshake are handed out by [Store.OtherConns], complete, and
// not refused. They can be HTTP, TLS or whatever else has the client speak first; a
// connection on which nothing comes within 5 s is closed. Whoever reaches that
// service then reaches the peer port, which without [WithSecret] asks nobody who he is.
func WithSharedPort() Option { return func(o *options) { o.sharePort = true } }

// WithSecret protects the connections between the nodes of a cluster by a secret that all of
// them have: with TLS 1.3, in which each side proves to the other that it has the secret
// before anything else is said. secret is 16 bytes or more, which are to be random: whoever
// connects can compare guesses at leisure. Who has the secret is taken for whichever member
// it says that it is, and can read and change everything.
//
// A connection whose other side proves one of accepted is taken as well. So a secret is
// changed by three rounds, in each of which the nodes are restarted one after the other, and
// no call fails: WithSecret(old, next), WithSecret(next, old), WithSecret(next).
//
// See package internal/peertls for the construction, and [WithPlainPeers] for a cluster that
// runs without a secret.
func WithSecret(secret string, accepted ...string) Option {
	return func(o *options) { o.secrets = append([]string{secret}, accepted...) }
}

// WithPlainPeers moves a cluster over to [WithSecret], whose second option it is: the node
// talks also to nodes that are not protected, and to those only without protection. When
// all nodes have been restarted with both, they are restarted once more without this. Until
// then nobody has to prove anything: whoever reaches the port is a peer, as without a secret.
func WithPlainPeers() Option { return func(o *options) { o.plainPeers = true } }

// WithNetwork replaces TCP. It is a seam for tests and for tunnels.
func WithNetwork(n Network) Option { return func(o *options) { o.network = n } }

// WithJoin names peer addresses, host:port, of some or all members of a
// cluster, this node among them or not. A node without data asks them to be
// admitted until it is; a node with data rejoins its cluster and uses them only
// to find it at new addresses. Without WithJoin or WithJoinFunc an empty node
// forms a cluster of its own.
//
// "dns://name:port" stands for all addresses that the name has, each with that
// port. It is looked up anew whenever members are asked.
func WithJoin(addrs ...string) Option {
	return func(o *options) { o.join = append(o.join, addrs...) }
}

// WithJoinFunc is WithJoin for programs that look members up (in DNS, by
// gossip): find is called before each round of attempts and returns their peer
// addresses. An error is logged and shown by Status, and the round repeated.
func WithJoinFunc(find func(context.Context) ([]string, error)) Option {
	return func(o *options) { o.joinFunc = find }
}

// WithBootstrapExpect lets n empty nodes form a cluster together: all of them are
// opened with the same n, and with WithJoin or WithJoinFunc to find each other, in
// whatever order. Each waits until it has found n, and all become voters. Where
// there is a cluster already a node asks to be admitted to it instead, and a node
// with data goes on from that: the same program text starts a node every time. n
// is to be more than half of the nodes that are ever started empty at one time, or
// they can form two clusters while they do not find each other. Default 1: form
// one alone, or with WithJoin wait to be admitted.
func WithBootstrapExpect(n int) Option { return func(o *options) { o.expect = n } }

// WithReplica makes a node that asks to be admitted a replica: see [Replica]. On a
// node that is a voter it has no effect.
func WithReplica() Option { return func(o *options) { o.replica = true } }

// WithInMemory keeps everything in memory: nothing is read from or written to
// the directory, and the node comes back empty. A majority of such nodes that
// stop at once lose what they stored.
func WithInMemory() Option { return func(o *options) { o.inMemory = true } }

// LogStore keeps a node's log, term and vote; see [WithLogStore].
//
// A write must be on stable storage when its call returns, and must be visible
// to reads from then on; StoreLogs must take effect as a whole or not at all.
// Reads and writes may come from several goroutines at once, but StoreLogs never beside
// another, nor beside a DeleteRange of entries that it stores. kvraft
// hands over logs without gaps, and never touches a store again after it
// returned an error other than [raft.ErrLogNotFound], or, from Get, one with
// the text "not found". An absent key may also read as an empty value. Byte
// slices handed over must not be changed, and ones that were returned are not.
//
// kvraft does not close a LogStore: it belongs to the one who opened it, and
// may be closed once [Store.Close] has returned.
type LogStore interface {
	raft.LogStore
	raft.StableStore
}

// WithLogStore keeps the log, the term, the vote and the node's identity in ls instead of
// raft.log and raft.db. Snapshots stay in the directory. The store does not close ls.
func WithLogStore(ls LogStore) Option { return func(o *options) { o.logStore = ls } }

// WithLogger is where the node logs. Default: nowhere. One goroutine of the store calls
// l with what is logged, so that nothing else waits for it: lines that come faster than
// l takes them are dropped and counted. The arguments are l's as they were when the line
// was logged, errors and whatever else can change as text. Once Close has returned l is
// called no more, unless it hangs.
func WithLogger(l hclog.Logger) Option { return func(o *options) { o.logger = l } }

// WithTiming replaces the intervals of a node.
func WithTiming(t Timing) Option { return func(o *options) { o.timing = t } }

// WithSnapshots replaces the rules for snapshots and log compaction.
func WithSnapshots(s Snapshots) Option { return func(o *options) { o.snapshots = s } }

// WithLimits replaces the limits on keys, values and batches.
func WithLimits(l Limits) Option { return func(o *options) { o.limits = l } }

// WithHistory bounds the latest changes that are kept in memory for Watch, in bytes:
// their keys and values, and 64 for each. (A value that is still in the state is not in
// memory twice.) How far that goes back is how long a watcher may be away, or slow.
// Default 16 MiB.
func WithHistory(bytes int64) Option { return func(o *options) { o.history = bytes } }

// maxID keeps raft's ServerIDs, configurations and log lines short.
const maxID = 128

// maxExpect is how many nodes may form a cluster together: their set is agreed on
// in one message.
const maxExpect = 32

// joins reports whether the node looks for others.
func (o *options) joins() bool { return len(o.join) > 0 || o.joinFunc != nil }

// lookupHost finds the addresses of a host, by the network if that can.
func (o *options) lookupHost(ctx context.Context, host string) ([]string, error) {
	if n, ok := o.network.(interface {
		LookupHost(context.Context, string) ([]string, error)
	}); ok {
		return n.LookupHost(ctx, host)
	}
	return net.DefaultResolver.LookupHost(ctx, host)
}

// newOptions records, fills in the defaults, and returns every fault at once.
func newOptions(dir string, opts []Option) (options, error) {
	o := options{dir: dir}
	for _, opt := range opts {
		opt(&o)
	}
	o.setDefaults()
	err := o.validate()
	if err == nil && o.dir != "" { // the process's working directory may change while the node runs
		if o.dir, err = filepath.Abs(o.dir); err != nil {
			err = fmt.Errorf("the data directory: %w", err)
		}
	}
	return o, err
}

func (o *options) setDefaults() {
	if o.listener != nil {
		orDefault(&o.addr, o.listener.Addr().String())
	}
	orDefault(&o.addr, "127.0.0.1:7000")
	orDefault(&o.expect, 1)
	orDefault[Network](&o.network, tcp{})
	orDefault(&o.logger, hclog.NewNullLogger())
	orDefault(&o.timing.Heartbeat, time.Second)
	orDefault(&o.timing.Election, o.timing.Heartbeat)
	orDefault(&o.timing.Lease, o.timing.Heartbeat/2)
	orDefault(&o.timing.Commit, 10*time.Millisecond)
	orDefault(&o.timing.Stall, 10*time.Second)
	orDefault(&o.snapshots.EveryBytes, 64<<20)
	orDefault(&o.snapshots.TrailingBytes, 64<<20)
	orDefault(&o.snapshots.Retain, 2)
	orDefault(&o.limits.KeyBytes, 1<<10)
	orDefault(&o.limits.ValueBytes, 1<<20)
	orDefault(&o.limits.BatchBytes, 8<<20)
	orDefault(&o.history, 16<<20)
}

// gather is what the options of a call come to. An option of another call has another
// qualify, and does not compile.
func gather[O any, Opt interface{ qualify(*O) }](opts []Opt) (o O) {
	for _, opt := range opts {
		opt.qualify(&o)
	}
	return o
}

func orDefault[T comparable](field *T, value T) { *field = cmp.Or(*field, value) }

func (o *options) validate() error {
	var faults []error
	refuseIf := func(fault bool, format string, args ...any) {
		if fault {
			faults = append(faults, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...))
		}
	}
	refuseIf(o.dir == "" && !o.inMemory, "no directory: name one, or use WithInMemory")
	if o.id != "" {
		faults = append(faults, checkID(o.id))
	}
	if o.advertise != "" {
		faults = append(faults, roster.CheckReachable("WithAdvertise", o.advertise))
	}
	if o.advertise == "" || o.listener == nil {
		faults = append(faults, roster.CheckAddr("WithAddr", o.addr))
	}
	for _, addr := range o.join {
		faults = append(faults, roster.CheckAddr("WithJoin", strings.TrimPrefix(addr, joining.DNSPrefix)))
	}
	refuseIf(o.expect < 1 || o.expect > maxExpect,
		"WithBootstrapExpect: want 1 to %d, have %d", maxExpect, o.expect)
	refuseIf(o.expect > 1 && !o.joins(),
		"WithBootstrapExpect(%d): name the other nodes with WithJoin", o.expect)
	refuseIf(o.replica && (o.expect > 1 || !o.joins()),
		"WithReplica: a replica cannot form a cluster; name members with WithJoin, without WithBootstrapExpect")
	refuseIf(o.inMemory && o.logStore != nil, "WithInMemory and WithLogStore exclude each other")
	for _, secret := range o.secrets {
		refuseIf(len(secret) < peertls.MinSecret, "WithSecret: a secret of %d bytes; want %d at the least, at random", len(secret), peertls.MinSecret)
	}
	refuseIf(o.plainPeers && o.secrets == nil, "WithPlainPeers is for moving over to WithSecret: give that too")
	t, s, l := o.timing, o.snapshots, o.limits
	refuseIf(t.Heartbeat < 5*time.Millisecond || t.Election < t.Heartbeat || t.Lease < 5*time.Millisecond || t.Lease > t.Heartbeat,
		"timing: want 5ms <= Lease <= Heartbeat <= Election, have %v, %v, %v", t.Lease, t.Heartbeat, t.Election)
	refuseIf(t.Commit < time.Millisecond || t.Stall < t.Heartbeat,
		"timing: want Commit >= 1ms and Stall >= Heartbeat, have %v and %v", t.Commit, t.Stall)
	refuseIf(s.EveryBytes < 0 || s.TrailingBytes < 0 || s.Retain < 0, "snapshots: negative: %+v", s)
	refuseIf(l.KeyBytes < 1 || l.ValueBytes < 0 || l.BatchBytes > wire.MaxBatchBytes || l.KeyBytes > l.BatchBytes || l.ValueBytes > l.BatchBytes-l.KeyBytes,
		"limits: want KeyBytes >= 1 and KeyBytes+ValueBytes <= BatchBytes <= %d, have %+v", wire.MaxBatchBytes, l)
	refuseIf(o.history < 0, "WithHistory(%d): want a number of bytes", o.history)
	return errors.Join(faults...)
}

// checkID keeps out what would not survive a ServerID, a log line or a URL.
func checkID(id string) error {
	unfit := func(r rune) bool { return r <= ' ' || r == '#' || r == 0x7f }
	if id == "" || len(id) > maxID || !utf8.ValidString(id) || strings.ContainsFunc(id, unfit) {
		return fmt.Errorf("%w: id %.100q: want 1 to %d bytes of UTF-8 without spaces and '#'", ErrInvalid, id, maxID)
	}
	return nil
}

// whose tells which member a directory of hraftd's is. (hraftd knows a member by the bare
// id, which it keeps, in a cluster without an id: see package member.) It does not say so itself:
// hraftd was told its id by each command line, or took the address of its peers for
// it.
func (o *options) whose(config raft.Configuration) (string, error) {
	var ids []string
	for _, m := range config.Servers {
		if err := checkID(string(m.ID)); err != nil {
			return "", fmt.Errorf("%w: a cluster with such a member cannot be taken over; set its keys in a new one", err)
		}
		ids = append(ids, string(m.ID))
	}
	if len(ids) == 0 {
		return "", fmt.Errorf("%w: it has no configuration, as a node has that never joined or whose raft is older than protocol version 3; empty the directory and let the node join", errs.Invalid)
	}
	if o.id != "" && !slices.Contains(ids, o.id) {
		return "", fmt.Errorf("%w: no member has the id %q; its members are %s", errs.Invalid, o.id, strings.Join(ids, ", "))
	}
	for _, id := range []string{o.id, o.advertise, o.addr} {
		if slices.Contains(ids, id) {
			return id, nil
		}
	}
	if len(ids) > 1 {
		return "", fmt.Errorf("%w: it does not say which of the members it is, %s: name its id, as hraftd was told it (WithID, kvd -id)", errs.Invalid, strings.Join(ids, ", "))
	}
	return ids[0], nil
}
