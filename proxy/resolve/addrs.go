package resolve

import (
	"net/netip"
	"time"
)

// maxAddrs bounds the addresses that are kept of one family of one name. Further ones are dropped.
const maxAddrs = 32

// Addrs are a name's addresses in the order in which to try them. The zero value has none. It is
// cheap to copy, and the addresses behind it never change.
type Addrs struct {
	groups *groups
	turn   uint32
	until  time.Time // zero: it does not expire
}

// InOrder makes Addrs that keep the order of the list and do not expire.
func InOrder(list ...netip.Addr) Addrs {
	return Addrs{groups: &groups{unrouted: list}}
}

// Until makes Addrs that expire.
func (a Addrs) Until(at time.Time) Addrs {
	a.until = at
	return a
}

// Len is the number of addresses.
func (a *Addrs) Len() int {
	if a.groups == nil {
		return 0
	}
	return a.groups.len()
}

// At is the i-th address to try.
func (a *Addrs) At(i int) netip.Addr { return a.groups.at(i, int(a.turn)) }

// Expired reports whether the answer is older than its TTL allows.
func (a *Addrs) Expired(now time.Time) bool { return !a.until.IsZero() && !now.Before(a.until) }

// The groups of addresses, in the order in which they are tried.
const (
	native   = iota // IPv6
	v4              // IPv4
	special         // IPv6 that RFC 6724 ranks below IPv4: 6to4, Teredo, unique local
	unrouted        // of any family, without a route from here
	groupCount
)

// groups are a name's addresses by how well they suit this machine. Native IPv6 and IPv4 take turns
// (RFC 8305, section 4), so that a family that is broken somewhere on the way costs one attempt and
// not all the time.
type groups [groupCount][]netip.Addr

// group sorts addresses into groups, each in the given order. routed reports whether there is a
// route to an address.
func group(list []netip.Addr, routed func(netip.Addr) bool) *groups {
	g := new(groups)
	for _, addr := range list {
		addr = addr.Unmap()
		at := rank(addr)
		if !routed(addr) {
			at = unrouted
		}
		g[at] = append(g[at], addr)
	}
	return g
}

// The prefixes that RFC 6724, section 2.1, ranks below IPv4.
var specialPrefixes = [...]netip.Prefix{
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("2001::/32"),
	netip.MustParsePrefix("fc00::/7"),
	netip.MustParsePrefix("fec0::/10"),
}

// rank is the group of an address that has a route.
func rank(addr netip.Addr) int {
	if addr.Is4() {
		return v4
	}
	for _, p := range specialPrefixes {
		if p.Contains(addr.WithZone("")) {
			return special
		}
	}
	return native
}

func (g *groups) len() (n int) {
	for _, list := range g {
		n += len(list)
	}
	return n
}

// at is the i-th address in turn's rotation: each group but the last begins with another address at
// each turn, as with a name server that rotates its answers.
func (g *groups) at(i, turn int) netip.Addr {
	six, four := g[native], g[v4]
	both, paired := len(six)+len(four), 2*min(len(six), len(four))
	switch {
	case i < paired && i%2 == 0:
		return rotated(six, i/2+turn)
	case i < paired:
		return rotated(four, i/2+turn)
	case i < both && len(six) > len(four):
		return rotated(six, i-paired/2+turn)
	case i < both:
		return rotated(four, i-paired/2+turn)
	case i < both+len(g[special]):
		return rotated(g[special], i-both+turn)
	}
	return g[unrouted][i-both-len(g[special])]
}

func rotated(list []netip.Addr, i int) netip.Addr { return list[uint(i)%uint(len(list))] }
