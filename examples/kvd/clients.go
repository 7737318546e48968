package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft/internal/connlimit"
	"github.com/kvraft/kvraft/internal/loglimit"
)

const maxClients = 16 << 10

// clients bounds the connections of HTTP clients: a node that has given them all its file
// descriptors can be reached by no other node, and cannot write a snapshot.
//
// A few more are answered that they are too many, or what probes and nodes that join ask.
// Beyond those a connection is closed at once.
type clients struct {
	most, more int64
	open       atomic.Int64
	log        hclog.Logger
	lines      *loglimit.Limiter // of log
}

// newClients allows a quarter of the process's descriptors; peers have half of them.
func newClients(log hclog.Logger) *clients {
	most := int64(connlimit.Within(maxClients, 4))
	return &clients{most: most, more: min(most/4, 64), log: log, lines: loglimit.New(time.Minute)}
}

// tooMany is the key in the context of a connection over the limit.
type tooMany struct{}

// bound has the server keep to the limit.
func (c *clients) bound(server *http.Server) {
	handler, onConn, onState := server.Handler, server.ConnContext, server.ConnState
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return onConn(c.enter(ctx, conn), conn)
	}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			c.open.Add(-1)
		}
		onState(conn, state)
	}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(tooMany{}) != nil {
			w.Header().Set("Connection", "close")
			switch r.URL.Path {
			case "/healthz", "/readyz", "/status":
			default:
				c.refuse(w)
				return
			}
		}
		handler.ServeHTTP(w, r)
	})
}

func (c *clients) enter(ctx context.Context, conn net.Conn) context.Context {
	open := c.open.Add(1)
	if open <= c.most {
		return ctx
	}
	if missed, ok := c.lines.Allow(""); ok {
		c.log.Warn("too many HTTP connections", "from", conn.RemoteAddr(), "limit", c.most, "others", missed)
	}
	if open > c.most+c.more {
		conn.Close() // the server finds it closed
	}
	return context.WithValue(ctx, tooMany{}, true)
}

// refuse answers as the handler does.
func (c *clients) refuse(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintf(w, `{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"too many connections: this node serves %d","applied":"no"}`, c.most)
}
