package kvraft

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"

	"github.com/kvraft/kvraft/internal/connlimit"
	"github.com/kvraft/kvraft/internal/loglimit"
	"github.com/kvraft/kvraft/internal/roster"
)

// portConfig is what a port is made of.
type portConfig struct {
	Network   dialer       // by which other nodes are reached
	Listener  net.Listener // the port's to close
	Advertise string       // the address under which other nodes reach this one
	Shared    bool         // what opens otherwise than with a handshake is handed out by others
	Log       hclog.Logger
}

type dialer interface {
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// hooks is what a port asks its node. They are asked from many goroutines, as soon as the
// port dials: before start as well.
type hooks interface {
	Self() self  // who the node is
	Leads() bool // it is the leader, as far as it knows

	IsPlaced() bool                                  // it has its place; else it speaks for nobody
	HasJoined() bool                                 // it has, or had, entries of the log
	ConfiguredAt() string                            // its address in its own configuration
	AddressOf(id raft.ServerID, addr string) string  // where to dial a member that the configuration has at addr
	TurnAway(dialer opening) (why, elsewhere string) // not empty: who dials for raft is refused
	LosePlace(at string)                             // another has turned this node away, and finds it there
	Vouch(dialer opening) error                      // what speaks against a dialer where one of the two has no cluster id
	Samples() []sample                               // of the log, for the other side's Vouch
}

// port owns the listener and every connection of a node, but those that it hands
// out, see others.go.
type port struct {
	config   portConfig
	node     hooks
	process  string            // see welcome
	lines    *loglimit.Limiter // of Log
	born     time.Time
	handlers map[string]func(net.Conn, hello) // by what a connection is for; not written after start
	calls    [256]callHandler                 // by their methods; likewise
	budget   *semaphore.Weighted              // bytes of callBytes
	pool     pool

	accepted atomic.Uint64                 // connections
	shortage atomic.Pointer[acceptFailure] // the last one, if nothing was accepted since
	reserve  reserve
	others   *others            // accepted for none of the handlers
	limit    *connlimit.Limiter // of what is accepted
	refusing chan struct{}      // holds a token for each connection over the limit that is told so
	running  sync.WaitGroup

	ctx    context.Context // ends with cut
	cancel context.CancelFunc

	mu         sync.Mutex
	conns      map[*peerConn]struct{}          // guarded by mu
	closed     bool                            // guarded by mu
	stranger   hello                           // guarded by mu: the last of another cluster
	strangerAt time.Time                       // guarded by mu
	callers    map[raft.ServerID]caller        // guarded by mu: nodes of this cluster that have dialed this one
	answers    map[raft.ServerID]*atomic.Int64 // guarded by mu: see peerConn
}

// newPort makes a port that dials, and accepts nothing before start. It is cut when ctx ends.
func newPort(ctx context.Context, c portConfig, node hooks) *port {
	ctx, cancel := context.WithCancel(ctx)
	p := &port{
		config:   c,
		node:     node,
		process:  roster.NewIdentity(),
		lines:    loglimit.New(time.Minute),
		born:     time.Now(),
		handlers: make(map[string]func(net.Conn, hello)),
		budget:   semaphore.NewWeighted(callBytes),
		others:   newOthers(c.Shared, c.Listener, ctx.Done()),
		ctx:      ctx,
		cancel:   cancel,
		conns:    make(map[*peerConn]struct{}),
		limit:    connLimits(),
		refusing: make(chan struct{}, maxRefusing),
		callers:  make(map[raft.ServerID]caller),
		answers:  make(map[raft.ServerID]*atomic.Int64),
	}
	p.pool.idle = make(map[roster.Peer][]*peerConn)
	p.handlers[forRPC] = p.serveCalls
	p.reserve.fill()
	context.AfterFunc(ctx, p.cut)
	return p
}

// handleConn has serve called for each connection that is for a purpose, until it
// returns; the connection is closed then. It is for before start, as Handle is.
func (p *port) handleConn(purpose string, serve func(net.Conn, hello)) { p.handlers[purpose] = serve }

// start begins to accept.
func (p *port) start() { p.running.Go(p.accept) }

// cut closes the listener and every connection, and does not wait.
func (p *port) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	p.cancel()
	p.config.Listener.Close()
	for conn := range p.conns {
		conn.Conn.Close()
	}
}

// close cuts and waits for what was served.
func (p *port) close() {
	p.cut()
	p.running.Wait()
	p.reserve.empty()
}
