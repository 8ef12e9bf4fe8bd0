package proxy

import (
	"maps"
	"net/netip"
	"time"
)

// Listeners are ports by where they are reached.
type Listeners struct {
	// At are addresses of any node's.
	At []netip.AddrPort
	// Everywhere are those that listen on all addresses of this machine: every destination that the
	// kernel would deliver here is one of theirs.
	Everywhere []uint16
}

// Ports are the cluster's own listeners. No client is connected to them.
type Ports struct {
	// Nodes are dialled by nodes and operators: rpc, gossip, API.
	Nodes Listeners
	// Proxies are dialled by workers. A connection to one is a loop.
	Proxies Listeners
}

// SetForbidden replaces the ports that no client is connected to, whatever the policy says.
// Connections to them that are open are reset, those that are kept for reuse closed: a client may
// have come before the port was known. Setting the same ports again costs no more than comparing
// them.
func (s *Server) SetForbidden(p Ports) {
	f := newForbidden(p, func(addr netip.AddrPort) bool { return s.local.isLocal(addr, time.Now()) })
	if f.equal(s.forbidden.Load()) {
		return
	}
	s.forbidden.Store(f)
	for _, open := range s.flows.all() {
		open.avoid(f)
	}
}

// forbids returns why a client may not be connected to addr: errProhibited or errLoop. Nil lets it.
func (s *Server) forbids(p *Policy, addr netip.AddrPort) error {
	if !p.allowsDestination(addr.Addr()) {
		return errProhibited
	}
	return s.forbidden.Load().check(addr)
}

// forbidden is what Ports say. Nil is none.
type forbidden struct {
	at         map[netip.AddrPort]error
	everywhere map[uint16]error
	// isLocal reports whether the kernel delivers connections to an address to this machine. Where
	// it can't say, they may be.
	isLocal func(netip.AddrPort) bool
}

func newForbidden(p Ports, isLocal func(netip.AddrPort) bool) *forbidden {
	size := len(p.Nodes.At) + len(p.Proxies.At)
	if size+len(p.Nodes.Everywhere)+len(p.Proxies.Everywhere) == 0 {
		return nil
	}
	f := &forbidden{at: make(map[netip.AddrPort]error, size), everywhere: make(map[uint16]error), isLocal: isLocal}
	// What is both is a node's: that is the worse of the two.
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

// plain is the address without its zone, IPv4-mapped IPv6 as IPv4.
func plain(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())
}

// check returns why addr is forbidden, or nil.
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
