package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
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
	// NamesProxy reports whether one of the names in Via belongs to one of the cluster's proxies.
	NamesProxy(pseudonyms []string) bool
}

// maxVia bounds the names in Via that are looked at: this is done for callers without a token.
const maxVia = 32

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
	if names := lastVia(r.Header.Values("Via")); len(names) > 0 && p.NamesProxy(names) {
		return proxied()
	}
	if originOf(r).dialled(p) {
		return proxied()
	}
	return nil
}

// lastVia returns the last names in Via. Each proxy adds its own at the end: whatever a worker has
// put before it, that of the proxy nearest to here is among them.
func lastVia(values []string) (names []string) {
	looked := 0
	for _, value := range slices.Backward(values) {
		for more := true; more; looked++ {
			if looked == maxVia {
				return names
			}
			item := value
			if i := strings.LastIndexByte(value, ','); i >= 0 {
				value, item = value[:i], value[i+1:]
			} else {
				more = false
			}
			if words := strings.Fields(item); len(words) >= 2 {
				names = append(names, words[1])
			}
		}
	}
	return names
}

type originKey struct{}

// origin says whether a connection comes from a proxy. It is determined at the first request,
// because a proxy records a connection before it sends anything over it.
type origin struct {
	client, accepted string

	once sync.Once
	ours bool
}

func withOrigin(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, originKey{}, &origin{client: c.RemoteAddr().String(), accepted: c.LocalAddr().String()})
}

// originOf returns the origin of a request's connection. Another server that serves the handler
// keeps none with its connections: there each request has its own.
func originOf(r *http.Request) *origin {
	if o, ok := r.Context().Value(originKey{}).(*origin); ok {
		return o
	}
	o := &origin{client: r.RemoteAddr}
	if at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		o.accepted = at.String()
	}
	return o
}

func (o *origin) dialled(p ProxySource) bool {
	o.once.Do(func() {
		from, err := netip.ParseAddrPort(o.client)
		if err != nil {
			return
		}
		accepted, _ := netip.ParseAddrPort(o.accepted) // without one, no socket is connected to it
		o.ours = p.Dialled(from, accepted)
	})
	return o.ours
}
