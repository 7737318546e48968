package joining

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/kvraft/kvraft/internal/roster"
	"github.com/kvraft/kvraft/internal/wire"
)

// DNSPrefix marks a name that stands for all the addresses it has.
const DNSPrefix = "dns://"

// memberAddrs returns the addresses at which members may be, also with an error.
func (j *Joiner) memberAddrs() ([]string, error) {
	addrs, err := j.givenAddrs()
	if j.Self().Cluster == "" {
		addrs = append(addrs, j.statement().Known...)
		for _, f := range j.Stable().Record().Promise {
			addrs = append(addrs, f.Addr)
		}
	}
	for _, m := range j.Configuration().Servers {
		if m.ID != j.Server {
			addrs = append(addrs, roster.DialAddr(string(m.Address)))
		}
	}
	addrs = append(addrs, j.Port.CallerAddrs()...) // they may have moved
	slices.Sort(addrs)
	return slices.Compact(addrs), err
}

// givenAddrs are those of the options, looked up anew each time.
func (j *Joiner) givenAddrs() (addrs []string, err error) {
	given := j.config.Given
	if j.config.Find != nil {
		found, findErr := j.config.Find(j.Ctx)
		if findErr != nil {
			err = fmt.Errorf("look for members: %w", findErr)
		}
		given = append(slices.Clone(given), found...)
	}
	for _, addr := range given {
		resolved, resolveErr := j.resolve(addr)
		err = errors.Join(err, resolveErr)
		addrs = append(addrs, resolved...)
	}
	return addrs, err
}

// resolve returns the addresses that a name in DNS has now, or addr itself.
func (j *Joiner) resolve(addr string) ([]string, error) {
	name, ok := strings.CutPrefix(addr, DNSPrefix)
	if !ok {
		return []string{addr}, nil
	}
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(j.Ctx, wire.HandshakeTimeout)
	defer cancel()
	hosts, err := j.config.LookupHost(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("look %s up: %w", host, err)
	}
	for i, h := range hosts {
		hosts[i] = net.JoinHostPort(h, port)
	}
	return hosts, nil
}
