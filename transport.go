package kvraft

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/joining"
	"github.com/kvraft/kvraft/internal/node"
	"github.com/kvraft/kvraft/internal/ownaddr"
	"github.com/kvraft/kvraft/internal/peertls"
	"github.com/kvraft/kvraft/internal/raftrpc"
	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// Network is the seam between a store and the network: peers are reached
// through it alone. The default is TCP. Package kvrafttest has one in memory
// that can be cut, delayed and run in virtual time.
type Network interface {
	// Listen opens the one listener of a node.
	Listen(addr string) (net.Listener, error)
	// Dial connects to the listener of another node, or fails when ctx ends. Where
	// nobody listens at the address its error wraps syscall.ECONNREFUSED: nodes
	// tell by it that a process is gone, and not just slow.
	Dial(ctx context.Context, addr string) (net.Conn, error)

	// A Network that has a method
	//
	//	LookupHost(ctx context.Context, host string) (addrs []string, err error)
	//
	// looks up the names of WithJoin("dns://..."); else net.DefaultResolver does.
}

// tcp is the default network.
type tcp struct{}

func (tcp) Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

func (tcp) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// OtherConns returns the listener that hands out, under [WithSharedPort], the
// connections to the peer address that do not open with kvraft's handshake:
//
//	http.Serve(store.OtherConns(), kvhttp.Handler(store))
//
// It is the same at each call, and hands out connections made since Open: 4096 wait
// to be accepted, or a quarter of the process's descriptors, each for up to 5 s; what is too many or too long is closed. What
// was accepted is its new owner's to close, and outlives the store. Accept returns
// net.ErrClosed after Close, which has these connections refused from then on and is
// nothing to the store, and when the store stops. Without WithSharedPort it returns
// ErrInvalid.
func (s *Store) OtherConns() net.Listener { return s.node.Port.Others() }

// portHooks is what a node answers its port.
type portHooks struct {
	*node.Node
	s *Store
}

func (h portHooks) Leads() bool                     { return h.s.lead.Tenure().Leads }
func (h portHooks) HasJoined() bool                 { return h.Raft.LastIndex() > 0 }
func (h portHooks) Vouch(dialer wire.Opening) error { return h.s.members.VouchWithoutClusterID(dialer) }
func (h portHooks) TurnAway(dialer wire.Opening) (why, elsewhere string) {
	return h.s.places.TurnAway(dialer)
}
func (h portHooks) Samples() []roster.Sample { return h.Logs.Samples() }

// protect makes of the secrets what protects the node's connections.
func (s *Store) protect() error {
	if s.opts.secrets == nil {
		return nil
	}
	config, err := peertls.FromSecrets(s.opts.secrets)
	if err != nil {
		return fmt.Errorf("WithSecret: %w", err)
	}
	s.security = &wire.Security{TLS: config, PlainToo: s.opts.plainPeers}
	return nil
}

// newPort makes the node's port, with the calls that the node serves.
func (s *Store) newPort() *wire.Port {
	p := wire.New(s.node.Ctx, wire.Config{
		Network: s.opts.network, Listener: s.opts.listener, Advertise: s.opts.advertise, Shared: s.opts.sharePort,
		Security: s.security, Log: s.node.Log.Named("peer"),
	}, portHooks{s.node, s})
	p.HandleConn(wire.ForMonitor, s.failures.ServeMonitor)
	p.Handle(wire.CallWrite, s.writes.serveWrite)
	p.Handle(wire.CallGet, s.reads.serveGet)
	p.Handle(wire.CallReadIndex, s.reads.serveReadIndex)
	p.Handle(wire.CallConfirm, s.lead.ServeConfirm)
	wire.HandleJSON(p, wire.CallCatchUp, s.members.ServeCatchUp)
	p.Handle(wire.CallLastIndex, s.lead.ServeLastIndex)
	wire.HandleJSON(p, wire.CallJoin, s.members.ServeJoin)
	wire.HandleJSON(p, wire.CallNodes, s.serveNodes)
	wire.HandleJSON(p, wire.CallAdmit, s.joiner.AcceptAdmission)
	wire.HandleJSON(p, wire.CallRemove, s.members.ServeRemove)
	wire.HandleJSON(p, wire.CallTransfer, s.members.ServeTransfer)
	wire.HandleJSON(p, wire.CallFound, s.joiner.ServeFound)
	wire.HandleJSON(p, wire.CallSuspicion, s.failures.VoteOnSuspicion)
	wire.HandleJSON(p, wire.CallClaim, s.places.ServeClaim)
	wire.HandleJSON(p, wire.CallStart, s.failures.VoteOnStart)
	return p
}

// advertised is the address under which peers reach a node that was told to listen on
// addr: the name it was told, since names are resolved at each dial; for a wildcard the
// address by which this host reaches those that it is to join, or see package ownaddr.
func (o *options) advertised(this ownaddr.Host) (string, error) {
	listener := o.listener.Addr()
	_, port, err := net.SplitHostPort(listener.String())
	if err != nil {
		return listener.String(), nil
	}
	if !ownaddr.IsWildcard(o.addr) {
		host, _, _ := net.SplitHostPort(o.addr)
		return net.JoinHostPort(host, port), nil
	}
	var others []string
	for _, addr := range o.join {
		others = append(others, strings.TrimPrefix(addr, joining.DNSPrefix))
	}
	ip, err := this.Choose(ownaddr.Resolve(others, o.lookupHost), ownaddr.IsV4(listener))
	if err != nil {
		return "", fmt.Errorf("%w: WithAddr %q: %w; name one, or use WithAdvertise", ErrInvalid, o.addr, err)
	}
	return net.JoinHostPort(ip.String(), port), nil
}

// raftFilter is what a node answers raft's transport.
type raftFilter struct{ s *Store }

func (f raftFilter) Term() uint64                    { return f.s.node.Stable().Term() }
func (f raftFilter) Leads() bool                     { return f.s.lead.Tenure().Leads }
func (f raftFilter) IsPlaced() bool                  { return f.s.node.IsPlaced() }
func (f raftFilter) AsVoter(candidate []byte) []byte { return f.s.members.AsVoter(candidate) }
func (f raftFilter) MayElect(candidate raft.ServerID, own, index, term uint64) (may bool, raise uint64) {
	return f.s.node.MayElect(candidate, own, index, term)
}
func (f raftFilter) AwaitStored(index uint64) error { return f.s.node.Logs.AwaitStored(index) }
func (f raftFilter) HoldsBack(id raft.ServerID, at raft.ServerAddress) bool {
	return f.s.places.HoldsBack(id, at)
}
func (f raftFilter) Reached(id raft.ServerID, at raft.ServerAddress) {
	f.s.node.RaftLog.Reached(id, at)
}

// Node is what a message is held against.
func (f raftFilter) Node() raftrpc.Node {
	s, now := f.s, f.s.fsm.now.Load()
	return raftrpc.Node{
		Term:      s.node.Raft.CurrentTerm(),
		Committed: max(s.node.Raft.CommitIndex(), s.node.Raft.AppliedIndex(), now.index),
		StateTerm: now.term,
		Voter:     roster.IsVoter(s.node.Configuration(), s.node.Server),
		Led:       s.node.Raft.State() == raft.Leader || time.Since(s.node.Raft.LastContact()) < s.opts.timing.Heartbeat,
		Member:    s.node.Lists,
		TermAt: func(index uint64) (uint64, bool) {
			var entry raft.Log
			err := s.node.Logs.GetLog(index, &entry)
			return entry.Term, err == nil
		},
		Checksum: disk.VerifyReceived,
	}
}
