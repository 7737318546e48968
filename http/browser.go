package kvhttp

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// A browser makes requests for any page that it shows, also to loopback and to other
// hosts that only it can reach. A page of another origin is told by what the browser
// says of it. One whose name has come to mean an address of this server, by DNS
// rebinding, is of the same origin: there only the Host tells.

// WithCrossOriginProtection replaces the check by which pages of other origins are kept
// from changing anything (403). Its zero value, the default, trusts none:
//
//	var trusting http.CrossOriginProtection
//	err := trusting.AddTrustedOrigin("https://admin.example.com")
//	handler := kvhttp.Handler(store, kvhttp.WithCrossOriginProtection(&trusting))
func WithCrossOriginProtection(p *http.CrossOriginProtection) Option {
	return func(h *handler) { h.origins = p }
}

// WithHosts refuses requests (421) unless own reports that their Host, without a port,
// is a name of this server. Without it any goes. A server that listens on loopback is
// best given [LoopbackHost].
func WithHosts(own func(host string) bool) Option { return func(h *handler) { h.isOwn = own } }

// LoopbackHost reports whether host, without a port, can only mean this machine:
// localhost, a name below it, or a loopback address.
func LoopbackHost(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// admit refuses what only a page can have made that is none of this server's.
func (h *handler) admit(r *http.Request) error {
	if err := h.origins.Check(r); err != nil {
		return refuse(http.StatusForbidden, "a page of another origin changes nothing here: %v", err)
	}
	host := (&url.URL{Host: r.Host}).Hostname()
	if host != "" && h.isOwn != nil && !h.isOwn(host) { // browsers always name one
		return refuse(http.StatusMisdirectedRequest, "%.100q is no name of this server", host)
	}
	return nil
}
