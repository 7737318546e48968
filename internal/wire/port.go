package wire

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

// Config is what a port is made of.
type Config struct {
	Network   Network      // by which other nodes are reached
	Listener  net.Listener // the port's to close
	Advertise string       // the address under which other nodes reach this one
	Shared    bool         // what opens otherwise than with a handshake is handed out by Others
	Security  *Security    // of the connections; nil: none
	Log       hclog.Logger
}

// Network is how other nodes are reached.
type Network interface {
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// Hooks is what a port asks its node. They are asked from many goroutines, as soon as the
// port dials: before Start as well.
type Hooks interface {
	Self() Self  // who the node is
	Leads() bool // it is the leader, as far as it knows

	IsPlaced() bool                                  // it has its place; else it speaks for nobody
	HasJoined() bool                                 // it has, or had, entries of the log
	ConfiguredAt() string                            // its address in its own configuration
	AddressOf(id raft.ServerID, addr string) string  // where to dial a member that the configuration has at addr
	TurnAway(dialer Opening) (why, elsewhere string) // not empty: who dials for raft is refused
	LosePlace(at string)                             // another has turned this node away, and finds it there
	Vouch(dialer Opening) error                      // what speaks against a dialer where one of the two has no cluster id
	Samples() []roster.Sample                        // of the log, for the other side's Vouch
}

// Port owns the listener and every connection of a node, but those that it hands
// out by Others.
type Port struct {
	Reserve reserve // for whoever is to dial without any other descriptor

	config   Config
	node     Hooks
	process  string            // see Welcome
	lines    *loglimit.Limiter // of Log
	born     time.Time
	handlers map[string]func(net.Conn, Hello) // by what a connection is for; not written after start
	calls    [256]Handler                     // by their methods; likewise
	budget   *semaphore.Weighted              // bytes of callBytes
	pool     pool

	accepted atomic.Uint64                 // connections
	shortage atomic.Pointer[acceptFailure] // the last one, if nothing was accepted since
	others   *others                       // accepted for none of the handlers
	limit    *connlimit.Limiter            // of what is accepted
	refusing chan struct{}                 // holds a token for each connection over the limit that is told so
	running  sync.WaitGroup

	ctx    context.Context // ends with cut
	cancel context.CancelFunc

	mu         sync.Mutex
	conns      map[*Conn]struct{}              // guarded by mu
	closed     bool                            // guarded by mu
	stranger   Hello                           // guarded by mu: the last of another cluster
	strangerAt time.Time                       // guarded by mu
	callers    map[raft.ServerID]Caller        // guarded by mu: nodes of this cluster that have dialed this one
	answers    map[raft.ServerID]*atomic.Int64 // guarded by mu: see Conn
}

// New makes a port that dials, and accepts nothing before Start. It is cut when ctx ends.
func New(ctx context.Context, c Config, node Hooks) *Port {
	ctx, cancel := context.WithCancel(ctx)
	p := &Port{
		config:   c,
		node:     node,
		process:  roster.NewIdentity(),
		lines:    loglimit.New(time.Minute),
		born:     time.Now(),
		handlers: make(map[string]func(net.Conn, Hello)),
		budget:   semaphore.NewWeighted(callBytes),
		others:   newOthers(ctx, c.Shared, c.Listener),
		ctx:      ctx,
		cancel:   cancel,
		conns:    make(map[*Conn]struct{}),
		limit:    connLimits(),
		refusing: make(chan struct{}, maxRefusing),
		callers:  make(map[raft.ServerID]Caller),
		answers:  make(map[raft.ServerID]*atomic.Int64),
	}
	p.pool.idle = make(map[roster.Peer][]*Conn)
	p.handlers[ForRPC] = p.serveCalls
	p.Reserve.Fill()
	context.AfterFunc(ctx, p.Cut)
	return p
}

// HandleConn has serve called for each connection that is for a purpose, until it
// returns; the connection is closed then. It is for before Start, as Handle is.
func (p *Port) HandleConn(purpose string, serve func(net.Conn, Hello)) { p.handlers[purpose] = serve }

// Start begins to accept.
func (p *Port) Start() { p.running.Go(p.accept) }

// Process is minted with the port: one that answers at two addresses is one.
func (p *Port) Process() string { return p.process }

// Addr is the address under which other nodes reach this one.
func (p *Port) Addr() string { return p.config.Advertise }

// Context ends when the port is cut.
func (p *Port) Context() context.Context { return p.ctx }

// Go starts a goroutine that Close waits for. It must end with Context.
func (p *Port) Go(f func()) { p.running.Go(f) }

// Others is the listener of the connections that open otherwise than with a handshake.
func (p *Port) Others() net.Listener { return p.others }

// Cut closes the listener and every connection, and does not wait.
func (p *Port) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	p.cancel()
	p.config.Listener.Close()
	for conn := range p.conns {
		conn.raw.Close()
	}
}

// Close cuts and waits for what was served.
func (p *Port) Close() {
	p.Cut()
	p.running.Wait()
	p.Reserve.empty()
}
