package proxy

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// ownAddrsFor is how long the machine's addresses are taken to stay as they were.
const ownAddrsFor = time.Second

// Ports are the cluster's own listeners. No client is connected to them.
type Ports struct {
	// At are addresses of any node's.
	At []netip.AddrPort
	// Everywhere are those of this node that listen on all of the machine's addresses.
	Everywhere []uint16
}

// SetForbidden replaces the ports that no client is connected to, whatever the policy says. Connections to them
// that are kept for reuse are closed.
func (s *Server) SetForbidden(p Ports) {
	f := newForbidden(p)
	s.forbidden.Store(f)
	for _, kept := range s.idle.all() {
		if f.has(netip.AddrPortFrom(kept.addr, kept.target.Port)) {
			kept.retire()
		}
	}
}

// allows reports whether a client may be connected to addr.
func (s *Server) allows(p *Policy, addr netip.AddrPort) bool {
	return p.allowsDestination(addr.Addr()) && !s.forbidden.Load().has(addr)
}

// forbidden is what Ports say. Nil is none.
type forbidden struct {
	at         map[netip.AddrPort]struct{}
	everywhere []uint16
	addrs      func() ([]net.Addr, error) // the machine's

	mu    sync.Mutex
	own   map[netip.Addr]struct{}
	until time.Time // own is to be asked for again
}

func newForbidden(p Ports) *forbidden {
	if len(p.At)+len(p.Everywhere) == 0 {
		return nil
	}
	f := &forbidden{at: make(map[netip.AddrPort]struct{}, len(p.At)), everywhere: p.Everywhere, addrs: net.InterfaceAddrs}
	for _, addr := range p.At {
		f.at[plain(addr)] = struct{}{}
	}
	return f
}

// plain is the address without its zone, IPv4-mapped IPv6 as IPv4.
func plain(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())
}

func (f *forbidden) has(addr netip.AddrPort) bool {
	if f == nil {
		return false
	}
	addr = plain(addr)
	if _, ok := f.at[addr]; ok {
		return true
	}
	for _, port := range f.everywhere {
		if port == addr.Port() {
			return f.isOwn(addr.Addr(), time.Now())
		}
	}
	return false
}

// isOwn reports whether addr is one of the machine's. Where they can't be told, it may be.
func (f *forbidden) isOwn(addr netip.Addr, now time.Time) bool {
	if addr.IsLoopback() {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.After(f.until) {
		list, err := f.addrs()
		if err != nil {
			return true
		}
		f.own, f.until = make(map[netip.Addr]struct{}, len(list)), now.Add(ownAddrsFor)
		for _, a := range list {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					f.own[ip.Unmap()] = struct{}{}
				}
			}
		}
	}
	_, ok := f.own[addr]
	return ok
}
