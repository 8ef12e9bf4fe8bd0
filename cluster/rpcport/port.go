// Package rpcport is the TCP port that Raft, gRPC and the nodes' HTTP share: it accepts and dials
// connections, over TLS if the node has a certificate, sorts them by the kind that their preface
// names, bounds those of strangers, and ends those whose peer is gone. It also holds the gRPC and
// HTTP servers behind the port and this node's connections to the others' ports.
//
// # Decisions
//
// Over TLS, the certificate says that its holder is a node, and for Raft which one. Every node is
// fully trusted, so nothing more is checked. If one end lacks a certificate or key, both ends log
// the cause and the setting to change: a plain end answers TLS, and a TLS end plain, with an alert
// that no library sends by itself.
//
// Silence ends a connection within seconds, by TCP's own means. A node is thus soon connected again
// after a partition; a busy network breaks some connections that would have recovered.
//
// A dial to the node's own address uses no socket, so that the leader's own node goes the same way
// as all others.
package rpcport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/config/certs"
)

// ErrClosed says that the node is shutting down.
var ErrClosed = errors.New("the node is shutting down")

// Config describes a port.
type Config struct {
	Log      hclog.Logger
	Listener net.Listener // open; the port takes it over
	Self     string       // the address at which others dial this node
	Door     *handshake.Doorkeeper
	// TLS returns the node's present certificate and CA. With nil, nothing is encrypted.
	TLS       func() *certs.Set
	Plaintext handshake.Plaintext // with TLS
	// Members lists the addresses of the members' machines, whose connections come first where
	// places are short; nil: none are known.
	Members func() map[netip.Addr]struct{}
}

// Port is this node's rpc port, and its connections to the others'.
type Port struct {
	mux     *mux
	peers   *peers
	servers *servers // nil until Serve
}

// New makes a port that accepts nothing yet.
func New(cfg Config) *Port {
	m := newMux(cfg.Log, cfg.Listener, cfg.Self, cfg.Door, newSecurity(cfg.TLS, cfg.Plaintext))
	m.greeting.Members, m.settled.Members = cfg.Members, cfg.Members
	return &Port{mux: m, peers: newPeers(m)}
}

// Serve starts the gRPC server, with the services that register adds, and the HTTP server. failed
// is called if one of them ends by itself.
func (p *Port) Serve(handler http.Handler, register func(grpc.ServiceRegistrar), failed func(error)) {
	p.servers = newServers(handler)
	register(p.servers.grpc)
	p.servers.start(p.mux, failed)
}

// Accept begins to accept connections.
func (p *Port) Accept() { p.mux.start() }

// Self returns the address at which others dial this node.
func (p *Port) Self() string { return p.mux.self }

// Bound returns the address that the port is bound to, or zero if it is no TCP port.
func (p *Port) Bound() netip.AddrPort {
	at, err := netip.ParseAddrPort(p.mux.listener.Addr().String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// Listener hands out the connections of one kind that others open.
func (p *Port) Listener(k handshake.Kind) net.Listener { return p.mux.sub(k) }

// Dial opens a connection of a kind to a node, and returns once that node has accepted it. target
// is the Raft id of the server that must answer, or "".
func (p *Port) Dial(ctx context.Context, addr string, k handshake.Kind, target string) (net.Conn, error) {
	return p.mux.dial(ctx, addr, k, target)
}

// GRPCConn returns this node's connection to the gRPC services at an rpc address, which connects on
// first use. It is shared and must not be closed. After Close, the error is [ErrClosed].
func (p *Port) GRPCConn(addr string) (*grpc.ClientConn, error) { return p.peers.grpcConn(addr) }

// RoundTripper sends HTTP requests to the node at an rpc address, whatever the host in their URL.
func (p *Port) RoundTripper(addr string) http.RoundTripper { return p.peers.roundTripper(addr) }

// Drop closes the gRPC connection to an address that no member has any more.
func (p *Port) Drop(addr string) { p.peers.drop(addr) }

// DropOthers closes the connections to members of other clusters.
func (p *Port) DropOthers(cluster string) { p.mux.dropOthers(cluster) }

// StopServing ends the servers' streams and requests, and waits a bounded time for their handlers.
// It reports whether all have ended.
func (p *Port) StopServing() (clean bool) { return p.servers == nil || p.servers.stop() }

// Close stops listening and closes every connection. It may be called again.
func (p *Port) Close() {
	p.mux.close()
	p.peers.close()
}
