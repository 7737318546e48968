// Package wire is the peer port of a node: one address on which other nodes reach it, and
// all its connections to them.
//
//	p := wire.New(ctx, config, hooks)          // dials from now on
//	p.Handle(wire.CallGet, s.serveGet)         // what the node serves, before Start
//	p.HandleConn(wire.ForRaft, serveRaft)
//	p.Start()                                  // accepts
//	answer, err := p.Call(ctx, leader, wire.CallGet, payload)
//	p.Close()                                  // waits for whatever is served
//
// A connection opens with a handshake (handshake.go), which says what it is for: raft's
// messages, calls, or to be watched. The kinds of calls are the table in calls.go; how a
// message of one is encoded is known to whoever serves it. What a node must answer for
// its port (who it is, whether it leads, who may come in) is asked through [Hooks].
//
// Protection (protect.go) comes before the handshake, where the port has [Security]: TLS, in
// which each side authenticates the other. A stranger is told no name before that. refuseOne
// answers earlier, and under Shared what else comes to the port is handed out.
//
// Limits are in limits.go, and the rules of a call in the table of calls.go. To count, there
// is one place for each thing: track and forget of Port for connections (and handOut, which
// gives one away), Port.answer and exchange for calls, noteRefusal for what is refused.
//
// Goroutines are the port's: one that accepts, one for each connection that was accepted,
// and those of Go. Close waits for all of them. A call runs on its caller's goroutine.
// Port.mu is never held while the network is waited for or a hook is
// asked; the pool's mutex is taken before Port.mu, where a connection is closed under it.
//
// Tests run on package memnet's network in virtual time.
package wire
