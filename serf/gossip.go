package serf

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/serf/serf"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/internal/logqueue"
	"github.com/kvraft/kvraft/internal/ownaddr"
	"github.com/kvraft/kvraft/internal/sleep"
)

// Config sets up a node's gossip. Only Addr must be given.
type Config struct {
	// Addr is the address, host:port, on which the node gossips, over UDP and
	// TCP. An empty host or a wildcard listens on every interface.
	Addr string
	// Advertise is the address under which the others reach it. Default: Addr, and for
	// a wildcard what [kvraft.WithAdvertise] says.
	Advertise string
	// Join are gossip addresses of other nodes, of which one that is up is
	// enough, this node's own among them or not. Those at which nobody is known to
	// be alive are tried again now and then, so that gossip that was split reunites.
	Join []string
	// Key encrypts and authenticates the gossip: 16, 24 or 32 bytes, the same on
	// all nodes. Default: none.
	Key []byte
	// HealAfter is how long a member must have been failed before it is removed
	// from the cluster. Default 10 minutes; negative: it never is.
	HealAfter time.Duration
	// Logger is where the node logs. What serf warns of again and again is logged
	// once in a minute, unless the level is Debug. Default: nowhere.
	Logger hclog.Logger

	name  string // of this process, in the gossip
	since string // when it began, for tagSince
}

// Store is what a Gossip uses of a [kvraft.Store].
type Store interface {
	Status() kvraft.Status
	Err() error
	Remove(ctx context.Context, id string, opts ...kvraft.RemoveOption) error
}

var _ Store = (*kvraft.Store)(nil)

// Gossip is a node's part in the gossip. Its methods may be called from any
// goroutine.
type Gossip struct {
	config Config
	log    hclog.Logger
	lines  *logqueue.Queue // behind log: nothing waits for where the node logs
	serf   *serf.Serf
	events chan serf.Event

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup
	once   sync.Once

	mu      sync.Mutex
	joinErr error // guarded by mu: why nobody was found yet
	store   Store // guarded by mu: nil before Attach
}

// What a node says of itself, in serf's tags.
const (
	tagID      = "id"      // its id in the cluster
	tagPeer    = "peer"    // its peer address
	tagCluster = "cluster" // the id of its cluster; empty: none yet
	tagSince   = "since"   // when its process began, in nanoseconds by its own clock
	tagStopped = "stopped" // not empty: its store has stopped by itself
)

const (
	interval = time.Second      // how often things are looked at that nobody is told of
	rarely   = 30 * time.Second // the longest pause between attempts that have yet to succeed
)

// Start begins to gossip. Errors are those of the configuration, all at once, and of
// the network.
func Start(c Config) (*Gossip, error) {
	// A process is a member of its own. Under one name for all processes of a node,
	// serf would take a restart at another address for an impostor.
	c.name, c.since = rand.Text(), strconv.FormatInt(time.Now().UnixNano(), 10)
	if c.HealAfter == 0 {
		c.HealAfter = 10 * time.Minute
	}
	sc, err := c.serf()
	if err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	lines := logqueue.New(c.Logger)
	g := &Gossip{config: c, log: lines.Logger(), lines: lines, events: make(chan serf.Event, 64)}
	sc.EventCh = g.events
	sc.Logger = newLog(g.log)
	sc.MemberlistConfig.Logger = sc.Logger
	if g.serf, err = serf.Create(sc); err != nil {
		lines.Close(logPatience)
		return nil, fmt.Errorf("gossip on %s: %w", c.Addr, err)
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.work.Go(g.follow)
	g.work.Go(g.join)
	return g, nil
}

// serf gives serf's own configuration.
func (c Config) serf() (*serf.Config, error) {
	var errs []error
	host, port, err := splitAddr(c.Addr)
	errs = append(errs, wrap("Addr", err))
	s := serf.DefaultConfig()
	s.NodeName, s.MemberlistConfig.Name = c.name, c.name
	s.MemberlistConfig.TCPTimeout = 3 * time.Second // Close may wait for it
	s.MemberlistConfig.BindAddr, s.MemberlistConfig.BindPort = host, port
	s.MemberlistConfig.AdvertisePort = port
	if ip := net.ParseIP(host); c.Advertise == "" && ip != nil && ip.IsUnspecified() {
		own, err := ownaddr.Local().Choose(ownaddr.Resolve(c.Join, net.DefaultResolver.LookupHost), false)
		if err != nil {
			errs = append(errs, fmt.Errorf("serf: Addr: %s: %w; name one, or set Advertise", c.Addr, err))
		}
		s.MemberlistConfig.AdvertiseAddr = own.String()
	}
	// Those that are gone are remembered for as long as that decides anything.
	s.ReconnectTimeout = time.Hour + 2*max(c.HealAfter, 0)
	s.TombstoneTimeout = s.ReconnectTimeout
	if c.Advertise != "" {
		host, port, err := splitAddr(c.Advertise)
		errs = append(errs, wrap("Advertise", err))
		s.MemberlistConfig.AdvertiseAddr, s.MemberlistConfig.AdvertisePort = host, port
	}
	for _, addr := range c.Join { // names are looked up at each attempt
		_, _, err := net.SplitHostPort(addr)
		errs = append(errs, wrap("Join", err))
	}
	if n := len(c.Key); n != 0 && n != 16 && n != 24 && n != 32 {
		errs = append(errs, fmt.Errorf("serf: Key: want 16, 24 or 32 bytes, have %d", n))
	}
	s.MemberlistConfig.SecretKey = c.Key
	return s, errors.Join(errs...)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("serf: %s: %w", what, err)
}

// splitAddr takes an address apart; the host is an IP address.
func splitAddr(addr string) (ip string, port int, err error) {
	resolved, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return "", 0, err
	}
	if resolved.Port == 0 {
		return "", 0, fmt.Errorf("%s: want a host and a port", addr)
	}
	if resolved.IP == nil {
		return "0.0.0.0", resolved.Port, nil
	}
	return resolved.IP.String(), resolved.Port, nil
}

// join tries the addresses to join at, as long as one of them is not that of a process
// known to be alive: gossip that has split knows nothing of its other part, and would
// stay as it is. Every second while this node is alone, and more and more rarely then.
func (g *Gossip) join() {
	if len(g.config.Join) == 0 {
		return
	}
	pause := sleep.Backoff{Next: interval, Most: rarely}
	for {
		err := g.tryAll()
		if len(g.alive()) < 2 {
			pause.Next = interval
		} else {
			err = nil
		}
		g.mu.Lock()
		g.joinErr = err
		g.mu.Unlock()
		if !pause.Wait(g.ctx) {
			return
		}
	}
}

// tryAll goes through the addresses at which nobody is known. One at a time, since
// Close waits for the one that is tried.
func (g *Gossip) tryAll() error {
	var errs []error
	for _, addr := range g.config.Join {
		if g.ctx.Err() != nil {
			return g.ctx.Err()
		}
		if alive := g.alive(); len(alive) > 1 && g.isOf(alive, addr) {
			continue
		}
		_, err := g.serf.Join([]string{addr}, true)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// isOf tells whether everything that addr means is an address of one of the members.
func (g *Gossip) isOf(members []serf.Member, addr string) bool {
	host, port, _ := net.SplitHostPort(addr) // checked by Start
	ips, err := net.DefaultResolver.LookupHost(g.ctx, host)
	for _, ip := range ips {
		if !slices.ContainsFunc(members, func(m serf.Member) bool {
			return m.Addr.Equal(net.ParseIP(ip)) && strconv.Itoa(int(m.Port)) == port
		}) {
			return false
		}
	}
	return err == nil
}

// Find returns the peer addresses of the other nodes that are alive, for
// kvraft.WithJoinFunc. It asks nobody. An error says that there are none, and why.
func (g *Gossip) Find(context.Context) ([]string, error) {
	var peers []string
	for _, m := range g.alive() {
		if m.Name != g.config.name && m.Tags[tagPeer] != "" {
			peers = append(peers, m.Tags[tagPeer])
		}
	}
	if len(peers) == 0 {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.joinErr != nil { // memberlist puts it into several lines
			return nil, fmt.Errorf("serf: no other node is known yet by gossip: %s", strings.Join(strings.Fields(g.joinErr.Error()), " "))
		}
		return nil, errors.New("serf: no other node is known yet by gossip")
	}
	slices.Sort(peers)
	return slices.Compact(peers), nil
}

func (g *Gossip) alive() []serf.Member {
	return slices.DeleteFunc(g.serf.Members(), func(m serf.Member) bool { return m.Status != serf.StatusAlive })
}

// Attach tells the others where the store is, and begins to heal its cluster. It
// is called once. The store may be closed before or after the Gossip.
func (g *Gossip) Attach(store Store) {
	g.mu.Lock()
	g.store = store
	g.mu.Unlock()
	g.work.Go(func() { g.tell(store) })
	if g.config.HealAfter > 0 {
		g.work.Go(func() { g.heal(store, g.serf.Members) })
	}
}

// tell keeps the tags true.
func (g *Gossip) tell(store Store) {
	var told map[string]string
	for {
		if tags := g.tags(store); !maps.Equal(tags, told) {
			if err := g.serf.SetTags(tags); err == nil {
				told = tags
			} else {
				g.log.Warn("tell the others of this node", "error", err)
			}
		}
		if !sleep.For(g.ctx, interval) {
			return
		}
	}
}

func (g *Gossip) tags(store Store) map[string]string {
	st := store.Status()
	tags := map[string]string{tagID: st.ID, tagPeer: st.Addr, tagCluster: st.Cluster, tagSince: g.config.since}
	if hasFailed(store) {
		tags[tagStopped] = "by itself"
	}
	return tags
}

// hasFailed tells whether the store has stopped by itself, as a member, which a copy of
// one is not. The error of one that was closed is ErrClosed and nothing else.
func hasFailed(store Store) bool {
	err := store.Err()
	return err != nil && err != kvraft.ErrClosed && !errors.Is(err, kvraft.ErrRemoved) && !errors.Is(err, kvraft.ErrCopied)
}

// follow reports failures as soon as the gossip knows of them.
func (g *Gossip) follow() {
	for {
		select {
		case event := <-g.events:
			if failed, ok := event.(serf.MemberEvent); ok {
				g.report(failed)
			}
		case <-g.ctx.Done():
			return
		}
	}
}

func (g *Gossip) report(event serf.MemberEvent) {
	for _, m := range event.Members {
		switch event.Type {
		case serf.EventMemberFailed:
			g.log.Warn("a node has failed", "id", m.Tags[tagID], "peer", m.Tags[tagPeer], "removed_in", g.config.HealAfter)
		case serf.EventMemberJoin, serf.EventMemberUpdate:
			switch {
			case m.Tags[tagID] == "" || m.Name == g.config.name: // it will tell; it is this one
			case m.Tags[tagStopped] != "":
				g.log.Warn("a node has stopped by itself", "id", m.Tags[tagID], "peer", m.Tags[tagPeer], "removed_in", g.config.HealAfter)
			default:
				g.log.Info("a node is there", "id", m.Tags[tagID], "peer", m.Tags[tagPeer], "cluster", m.Tags[tagCluster])
			}
		case serf.EventMemberLeave:
			g.log.Info("a node has stopped in order", "id", m.Tags[tagID])
		}
	}
}

// Close tells the others that this node leaves in order, unless its store has stopped
// by itself, and stops. A second Close waits for the first and returns nil.
func (g *Gossip) Close() (err error) {
	g.once.Do(func() {
		g.mu.Lock()
		store := g.store
		g.mu.Unlock()
		if store == nil || !hasFailed(store) {
			err = g.serf.Leave()
		}
		g.cancel()
		err = errors.Join(err, g.serf.Shutdown())
		g.work.Wait()
		g.lines.Close(logPatience)
	})
	return err
}
