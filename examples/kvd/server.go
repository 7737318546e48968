package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

// newServer serves the HTTP API of store, to requests for loopback alone unless opts say
// otherwise.
func newServer(store *kvraft.Store, log hclog.Logger, opts ...kvhttp.Option) *http.Server {
	watches, endWatches := context.WithCancel(context.Background())
	opts = append([]kvhttp.Option{kvhttp.WithWatchContext(watches), kvhttp.WithHosts(kvhttp.LoopbackHost)}, opts...)
	server := &http.Server{
		Handler:           kvhttp.Handler(store, opts...),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       kvhttp.ConnContext,
		ErrorLog:          log.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Warn}),
	}
	server.RegisterOnShutdown(endWatches)
	return server
}

// hosts are the names that a server has which listens at addr: where that is loopback, a
// browser on this machine can be had to ask it under any other by whoever has that name
// in DNS. The name that -haddr gives counts too, as a system may have its own name mean
// loopback.
func (c config) hosts(addr net.Addr) kvhttp.Option {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsLoopback() {
		return kvhttp.WithHosts(nil)
	}
	name, _, _ := net.SplitHostPort(c.haddr.value) // the flag was checked
	return kvhttp.WithHosts(func(host string) bool {
		return kvhttp.LoopbackHost(host) || strings.EqualFold(host, name)
	})
}

// stop lets the requests in flight finish, for a while.
func stop(server *http.Server, log hclog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("some requests do not end; they are cut off")
		err = server.Close()
	}
	return err
}
