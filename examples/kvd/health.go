package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const healthUsage = `Usage: kvd health [ADDRESS]

Asks the node whose HTTP API is at ADDRESS whether it can serve, by GET /readyz, for
at most 3 seconds. The exit code is 0 if it can, and else 1; it prints why not. The
address is localhost:11000 by default. It is what a container's health check runs.
`

// checkHealth returns the exit code.
func checkHealth(args []string) int {
	fs := flag.NewFlagSet("kvd health", flag.ContinueOnError)
	fs.SetOutput(os.Stderr)
	fs.Usage = func() {}
	err := fs.Parse(args)
	addr := cmp.Or(fs.Arg(0), "localhost:11000")
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(healthUsage)
		return 0
	case err != nil || fs.NArg() > 1 || !isAddr(addr):
		fmt.Fprintln(os.Stderr, "one address, host:port, is expected; kvd health -h tells more")
		return 2
	}
	host, port, _ := net.SplitHostPort(addr) // it is one
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := askReady(ctx, net.JoinHostPort(orLocalhost(host), port)); err != nil {
		fmt.Fprintf(os.Stderr, "kvd: %s: %v\n", addr, err)
		return 1
	}
	fmt.Println("ok")
	return 0
}

func askReady(ctx context.Context, addr string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, urlOf(addr, "/readyz"), nil)
	if err != nil {
		return err
	}
	resp, err := newClient().Do(req)
	if err != nil {
		return plainly(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return err
}
