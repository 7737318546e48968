package wire

import (
	"net"
	"time"

	"github.com/kvraft/kvraft/internal/sleep"
)

// acceptFailure is an Accept that has failed.
type acceptFailure struct {
	at  time.Time
	err error
}

const longestAcceptWait = time.Second

func (p *Port) accept() {
	const shortest = 5 * time.Millisecond
	pause := sleep.Backoff{Next: shortest, Most: longestAcceptWait}
	for {
		conn, err := p.config.Listener.Accept()
		switch {
		case err == nil:
			pause.Next = shortest
			p.accepted.Add(1)
			p.shortage.Store(nil)
			p.running.Go(func() { p.serve(conn) })
			continue
		case p.ctx.Err() != nil:
			return
		}
		p.shortage.Store(&acceptFailure{time.Now(), err})
		if missed, ok := p.lines.Allow("accept"); ok { // out of file descriptors, say: it passes
			p.config.Log.Error("accept", "error", err, "others", missed)
		}
		if !pause.Wait(p.ctx) {
			return
		}
	}
}

// Accepting returns how many connections have been accepted, and why none is at the moment:
// nil also when nobody has tried to connect since.
func (p *Port) Accepting(now time.Time) (accepted uint64, failure error) {
	f := p.shortage.Load()
	if f != nil && now.Sub(f.at) < 2*longestAcceptWait {
		failure = f.err
	}
	return p.accepted.Load(), failure
}

func (p *Port) serve(raw net.Conn) {
	leave, err := p.limit.Enter(raw.RemoteAddr())
	if err != nil {
		p.refuseOne(raw, err)
		return
	}
	conn, err := p.track(raw, leave)
	if err != nil {
		return
	}
	h, err := p.acceptHandshake(conn)
	if other, ok := err.(foreign); ok && p.others.shared {
		p.handOut(conn, other.head)
		return
	}
	if err != nil {
		p.noteRefusal(p.refusalKind(h, err), raw.RemoteAddr(), h, err)
		conn.Close()
		return
	}
	if h.To != "" || h.Cluster != "" && h.Cluster == p.node.Self().Cluster {
		p.noteCaller(conn, h)
	}
	defer conn.Close()
	if handle := p.handlers[h.For]; handle != nil {
		handle(conn, h)
	}
}

// handOut gives the connection away, with what was read of it: cut does not close
// it any more.
func (p *Port) handOut(conn *Conn, head []byte) {
	conn.leave() // those that wait to be accepted have a limit of their own
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	delete(p.conns, conn)
	p.mu.Unlock()
	err := conn.Conn.SetDeadline(time.Time{})
	if err == nil {
		err = p.others.hand(&otherConn{Conn: conn.Conn, unread: head})
	}
	if err == nil {
		return
	}
	conn.Conn.Close()
	p.noteRefusal(err.Error(), conn.RemoteAddr(), Hello{}, err)
}
