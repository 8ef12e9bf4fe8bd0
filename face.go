package weir

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// Name returns the node's name.
func (n *Node) Name() string { return n.name() }

// Ready waits until the node has a live session with its cluster, so that it can admit what is
// limited. It returns early with an error when ctx ends, or when the node must stop: it wraps the
// context's error and its cause, or [Node.Err].
func (n *Node) Ready(ctx context.Context) error {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(n.must, cancel)
	defer stop()
	if n.manager.WaitLive(wait) == nil {
		return nil
	}
	why := n.Err()
	if why == nil {
		why = whyEnded(ctx)
	}
	return fmt.Errorf("%s has no session with its cluster yet: %w", n.name(), why)
}

// whyEnded is the error of a context that has ended, and its cause where that is another one:
// errors.Is finds both.
func whyEnded(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// ProxyURL returns the URL of the node's proxy, for [http.ProxyURL] or HTTPS_PROXY. If it listens
// on all addresses, the URL is on loopback. If it speaks SOCKS5 only (Proxy.Protocols), it is a
// socks5h:// URL, which [http.Transport] takes.
//
// It is nil without a proxy, and also if the proxy speaks SOCKS5 inside TLS only, which no URL can
// say. Look before you use it: with [http.ProxyURL](nil), clients connect directly.
func (n *Node) ProxyURL() *url.URL {
	if len(n.proxyListeners) == 0 {
		return nil
	}
	scheme := api.ProxyScheme(n.cfg.Load().Proxy.Protocols, n.certs.proxy != nil)
	if scheme == "" {
		return nil
	}
	return &url.URL{Scheme: scheme, Host: dialled(n.proxyListeners[0])}
}

// APIURL returns the URL of the HTTP API; nil without a listener for it.
func (n *Node) APIURL() *url.URL {
	if n.apiListener == nil {
		return nil
	}
	scheme := "http"
	if n.certs.api != nil {
		scheme = "https"
	}
	return &url.URL{Scheme: scheme, Host: dialled(n.apiListener)}
}

// dialled is the address at which this machine reaches a listener.
func dialled(l net.Listener) string {
	at := addrPort(l)
	if !at.Addr().IsUnspecified() {
		return at.String()
	}
	return fmt.Sprintf("localhost:%d", at.Port())
}

// GossipAddr returns the address of the node's gossip, for other nodes' [Cluster.Join]; "" if the
// node is alone.
func (n *Node) GossipAddr() string { return n.members.GossipAddr() }

// Handler returns the HTTP API and its page, as they are served on [Config.API]. It belongs at the
// root of a server. Names that requests' Host may carry, beyond localhost and the node's, are a
// setting, as the tokens are. Requests end with the node's Close, and are refused after it.
//
// Requests that come through this node's own proxy are refused, by their RemoteAddr: leave it as
// net/http sets it. The proxies do not know the server's port, so those of other nodes connect
// their clients to it: set a token where they reach it.
func (n *Node) Handler() http.Handler {
	n.watching.Do(func() {
		if n.apiListener == nil {
			n.parts.Go(func() { n.api.Watch(n.life) })
		}
	})
	return n.api.Handler()
}

// Active returns how many connections to a host are open through this node, permits for the host
// included. If one limit is shared by several hosts, it counts those together. A host that can't be
// one has none.
func (n *Node) Active(host string) int {
	target, err := limit.ParseOptionalPort(host)
	if err != nil {
		return 0
	}
	_, key := view{n}.Table().Match(target)
	use, _ := n.manager.Use(key)
	return int(use.InUse)
}
