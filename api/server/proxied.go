package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
)

// A worker that reaches the API through one of the cluster's proxies comes from a node's address,
// and needs no token on a listener on loopback. The proxies do not connect workers to the API, but
// address translation on the way can hide that an address is the API's. So the API refuses requests
// that have recognisably come through a proxy.

// ProxySource describes the cluster's proxies.
type ProxySource interface {
	// Proxied reports whether requests through the cluster's proxies must be refused.
	Proxied() bool
	// Dialled reports whether this node's proxy opened the connection from client, which the API
	// accepted at the address accepted.
	Dialled(client, accepted netip.AddrPort) bool
	// NamesProxy reports whether a name in Via belongs to one of the cluster's proxies.
	NamesProxy(pseudonym string) bool
}

// proxied refuses a request that has come through a proxy.
func proxied() error {
	return problemf(http.StatusForbidden, "through_proxy",
		"this request came through a proxy of this cluster: send it to the API directly (NO_PROXY), or set proxy.allow_cluster_destinations on all nodes")
}

// checkDirect refuses a request that has come through a proxy of the cluster.
func (s *Server) checkDirect(r *http.Request) error {
	p := s.deps.Proxies
	if p == nil || !p.Proxied() {
		return nil
	}
	for _, value := range r.Header.Values("Via") {
		for _, item := range strings.Split(value, ",") {
			if words := strings.Fields(item); len(words) >= 2 && p.NamesProxy(words[1]) {
				return proxied()
			}
		}
	}
	if o, ok := r.Context().Value(originKey{}).(*origin); ok && o.dialled(p) {
		return proxied()
	}
	return nil
}

type originKey struct{}

// origin says whether a connection comes from a proxy. It is determined at the first request,
// because a proxy records a connection before it sends anything over it.
type origin struct {
	client, accepted net.Addr

	once sync.Once
	ours bool
}

func withOrigin(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, originKey{}, &origin{client: c.RemoteAddr(), accepted: c.LocalAddr()})
}

func (o *origin) dialled(p ProxySource) bool {
	o.once.Do(func() {
		from, err := netip.ParseAddrPort(o.client.String())
		if err != nil {
			return
		}
		accepted, _ := netip.ParseAddrPort(o.accepted.String()) // without one, no socket is connected to it
		o.ours = p.Dialled(from, accepted)
	})
	return o.ours
}
