package main

import (
	"context"
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
	opts = append([]kvhttp.Option{kvhttp.WithWatchContext(watches), kvhttp.WithHosts(kvhttp.LoopbackHost), kvhttp.WithVersion(buildVersion())}, opts...)
	server := &http.Server{
		Handler:           kvhttp.Handler(store, opts...),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       kvhttp.ConnContext,
		Protocols:         new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			// What a connection may send before anybody reads it is held in memory.
			MaxReceiveBufferPerConnection: 256 << 10,
			MaxReceiveBufferPerStream:     256 << 10,
			SendPingTimeout:               30 * time.Second, // a stream of HTTP/1 is written to often enough
			WriteByteTimeout:              10 * time.Second,
		},
		ErrorLog: log.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Warn}),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
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
