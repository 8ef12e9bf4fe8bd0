package proxy

import (
	"maps"
	"net/netip"
	"time"
)

// Listeners are listening ports of the cluster.
type Listeners struct {
	// At has the full addresses, of any node.
	At []netip.AddrPort
	// Everywhere has the ports that listen on all addresses of this machine: they include every
	// destination that the kernel would deliver here.
	Everywhere []uint16
}

// Ports are the cluster's own listeners. No client may be connected to them.
type Ports struct {
	// Nodes are dialled by nodes and operators only: rpc, gossip, API.
	Nodes Listeners
	// Proxies are dialled by workers. A connection from a proxy to one is a loop.
	Proxies Listeners
}

// SetForbidden replaces the ports to which no client may be connected, whatever the policy.
// Connections that were made before the ports were known are reset, and those kept for reuse are
// closed. Setting the same ports again costs only a comparison.
func (s *Server) SetForbidden(p Ports) {
	f := newForbidden(p, func(addr netip.AddrPort) bool { return s.local.IsLocal(addr, time.Now()) })
	if f.equal(s.forbidden.Load()) {
		return
	}
	s.forbidden.Store(f)
	for _, open := range s.flows.all() {
		open.avoid(f)
	}
}

// forbids returns the reason why a client may not be connected to addr, errProhibited or errLoop,
// or nil.
func (s *Server) forbids(p *Policy, addr netip.AddrPort) error {
	if !p.allowsDestination(addr.Addr()) {
		return errProhibited
	}
	return s.forbidden.Load().check(addr)
}

// forbidden is Ports as a look-up table. nil forbids nothing.
type forbidden struct {
	at         map[netip.AddrPort]error
	everywhere map[uint16]error
	// isLocal reports whether the kernel delivers connections to an address to this machine. If
	// unknown, it reports true.
	isLocal func(netip.AddrPort) bool
}

func newForbidden(p Ports, isLocal func(netip.AddrPort) bool) *forbidden {
	size := len(p.Nodes.At) + len(p.Proxies.At)
	if size+len(p.Nodes.Everywhere)+len(p.Proxies.Everywhere) == 0 {
		return nil
	}
	f := &forbidden{at: make(map[netip.AddrPort]error, size), everywhere: make(map[uint16]error), isLocal: isLocal}
	// A port in both counts as a node's, which is the worse one to reach.
	f.add(p.Proxies, errLoop)
	f.add(p.Nodes, errProhibited)
	return f
}

func (f *forbidden) add(l Listeners, why error) {
	for _, addr := range l.At {
		f.at[plain(addr)] = why
	}
	for _, port := range l.Everywhere {
		f.everywhere[port] = why
	}
}

func (f *forbidden) equal(g *forbidden) bool {
	if f == nil || g == nil {
		return f == g
	}
	return maps.Equal(f.at, g.at) && maps.Equal(f.everywhere, g.everywhere)
}

// plain returns the address without its zone, and IPv4-mapped IPv6 as IPv4.
func plain(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())
}

// check returns the reason why addr is forbidden, or nil.
func (f *forbidden) check(addr netip.AddrPort) error {
	if f == nil {
		return nil
	}
	if why := f.at[plain(addr)]; why != nil {
		return why
	}
	why := f.everywhere[addr.Port()]
	if why == nil || !f.isLocal(netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())) {
		return nil
	}
	return why
}
