package wire

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/kvraft/kvraft/internal/loglimit"
	"github.com/kvraft/kvraft/internal/roster"
)

// refuseOne tells who is one too many, if not too many are told just now: it costs the
// descriptors that it is about.
func (p *Port) refuseOne(raw net.Conn, reason error) {
	defer raw.Close()
	p.noteRefusal("too many", raw.RemoteAddr(), Hello{}, reason)
	select {
	case p.refusing <- struct{}{}:
		defer func() { <-p.refusing }()
	default:
		return
	}
	if raw.SetDeadline(time.Now().Add(time.Second)) == nil && writeHandshake(raw, Welcome{Refused: reason.Error()}) == nil {
		_, _ = io.CopyN(io.Discard, raw, maxHandshake) // or what it sends would end the connection before it has read that
	}
}

// noteRefusal logs a refusal, unless there have been others of its kind a moment ago.
// What is cut because the node closes is none.
func (p *Port) noteRefusal(kind string, from net.Addr, h Hello, reason error) {
	if p.ctx.Err() != nil {
		return
	}
	if me := p.node.Self(); h.Cluster != "" && h.Cluster != me.Cluster && roster.UserID(h.To) == roster.UserID(me.Server) {
		p.mu.Lock()
		p.stranger, p.strangerAt = h, time.Now()
		p.mu.Unlock()
	}
	missed, ok := p.lines.Allow(kind)
	if !ok {
		return
	}
	log := p.config.Log.Warn
	if kind == broken || kind == early {
		log = p.config.Log.Debug
	}
	log("refused a connection", "from", from, "node", printable(string(h.From)), "reason", printable(reason.Error()), "others", missed)
}

// Kinds of refusals that no warning is due for.
const (
	broken = "broken" // its dialer has thought better of it
	early  = "early"  // this node has yet to hear that it is in the dialer's cluster
)

// refusalKind tells refusals apart by what is wrong, and not by what the dialer says.
func (p *Port) refusalKind(h Hello, reason error) string {
	me := p.node.Self()
	_, isForeign := reason.(foreign)
	_, isUnproved := reason.(unproved)
	var netErr net.Error
	switch {
	case isForeign:
		return "foreign"
	case errors.Is(reason, errVersion):
		return "version"
	case errors.Is(reason, io.EOF), errors.Is(reason, io.ErrUnexpectedEOF), errors.As(reason, &netErr):
		return broken
	case isUnproved:
		return "protection"
	case me.Cluster == "" && h.To == me.Server && !roster.HasNoIdentity(me.Server):
		return early
	case h.Cluster != me.Cluster:
		return "cluster"
	case h.To != me.Server:
		return "node"
	}
	return "other"
}

// printable is what a stranger says as it can be logged.
func printable(text string) string { return loglimit.Plain(text, 256) }

// LastStranger returns what a node of another cluster said when it took this node
// for one of its own a moment ago.
func (p *Port) LastStranger() (Hello, bool) {
	const moment = time.Minute
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stranger, p.stranger.Cluster != "" && time.Since(p.strangerAt) < moment
}
