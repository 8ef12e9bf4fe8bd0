package connlimit

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// rules are Limits made ready to look up.
type rules struct {
	Limits
	kind             string // what is counted, for errors
	v4Bits, v6Bits   int
	v4, v6           []level
	proxies          []netip.Prefix
	exempt           bool // proxies are under no PerClient
	seed0, seed1     uint64
	zones            maphash.Seed
	retryAfter       int64 // nanoseconds
	retryAfterBlocks bool
	hot              []*hot
}

// A level holds the networks of one length.
type level struct {
	bits     int
	networks map[netip.Prefix]*network
}

func compile(l Limits, c *Config, kind string) *rules {
	r := &rules{
		Limits: l, kind: kind, v4Bits: c.IPv4Prefix, v6Bits: c.IPv6Prefix, proxies: c.TrustedProxies,
		seed0: rand.Uint64(), seed1: rand.Uint64(), zones: maphash.MakeSeed(),
		retryAfter: int64(c.RetryAfter), retryAfterBlocks: c.RetryAfter > 0,
	}
	if r.retryAfter == 0 {
		r.retryAfter = int64(DefaultRetryAfter)
	}
	for _, n := range l.Networks {
		levels := &r.v6
		if n.Prefix.Addr().Is4() {
			levels = &r.v4
		}
		i := slices.IndexFunc(*levels, func(l level) bool { return l.bits == n.Prefix.Bits() })
		if i < 0 {
			i = len(*levels)
			*levels = append(*levels, level{n.Prefix.Bits(), map[netip.Prefix]*network{}})
		}
		(*levels)[i].networks[n.Prefix] = &network{Network: n}
	}
	longestFirst := func(a, b level) int { return b.bits - a.bits }
	slices.SortFunc(r.v4, longestFirst)
	slices.SortFunc(r.v6, longestFirst)
	return r
}

// A clientKey is what a client is counted under: the bits of its address that are counted, an IPv4
// address mapped into IPv6. The zero key is of those without an address.
type clientKey struct {
	hi, lo uint64
	zone   uint32 // a hash of its name; 0 for none
	bits   uint8
}

// prefix returns the addresses that the key stands for.
func (k clientKey) prefix() netip.Prefix {
	if k.bits == 0 {
		return netip.Prefix{}
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], k.hi)
	binary.BigEndian.PutUint64(b[8:], k.lo)
	addr, n := netip.AddrFrom16(b), int(k.bits)
	if addr.Is4In6() && n >= 96 {
		addr, n = addr.Unmap(), n-96
	}
	return netip.PrefixFrom(addr, n)
}

func (r *rules) hash(k clientKey) uint64 {
	hi, lo := bits.Mul64(k.hi^r.seed0, k.lo^r.seed1)
	return hi ^ lo ^ uint64(k.zone)
}

// A verdict is what holds for an address.
type verdict struct {
	key       clientKey
	hash      uint64
	perClient Limit
	network   *network // nil for none
	hot       *hot     // nil for most
}

// govern finds what holds for an address, which may be the zero Addr. It is already unmapped.
func (r *rules) govern(addr netip.Addr) verdict {
	if !addr.IsValid() {
		return r.heat(verdict{})
	}
	v := verdict{perClient: r.PerClient}
	levels, length := r.v6, r.v6Bits
	if addr.Is4() {
		levels, length = r.v4, r.v4Bits
	}
	for i := range levels {
		p, _ := addr.Prefix(levels[i].bits)
		if n := levels[i].networks[p]; n != nil {
			v.network, v.perClient = n, n.PerClient
			length = max(length, p.Bits())
			break
		}
	}
	if r.exempt && v.network == nil && contains(r.proxies, addr) {
		v.perClient = Limit{}
	}
	v.key = r.key(addr, length)
	v.hash = r.hash(v.key)
	return r.heat(v)
}

// inCluster returns the address that the client at addr has for the cluster: the first of those
// that are one client here. By its own, a host would be as many clients as it has addresses.
func (r *rules) inCluster(addr netip.Addr) netip.Addr {
	if r.exempt && contains(r.proxies, addr) {
		return netip.Addr{}
	}
	p := r.govern(addr).key.prefix()
	if p.IsSingleIP() {
		return addr // with its zone
	}
	return p.Addr()
}

// blocks returns the refusal where a limit on addr is 0, and nil otherwise.
func (r *rules) blocks(addr netip.Addr) error {
	v := r.govern(addr)
	switch {
	case v.perClient.reached(0):
		return r.refusal(ScopeClient, v)
	case v.network != nil && v.network.Total.reached(0):
		return r.refusal(ScopeNetwork, v)
	case r.Total.reached(0):
		return r.refusal(ScopeTotal, v)
	}
	return nil
}

func (r *rules) heat(v verdict) verdict {
	for _, h := range r.hot {
		if h.key == v.key {
			v.hot = h
		}
	}
	return v
}

func (r *rules) key(addr netip.Addr, length int) clientKey {
	b := addr.As16()
	k := clientKey{hi: binary.BigEndian.Uint64(b[:8]), lo: binary.BigEndian.Uint64(b[8:])}
	switch {
	case addr.Is4():
		length += 96
	case addr.IsLinkLocalUnicast():
		length, k.zone = 128, r.zone(addr.Zone())
	}
	if length < 64 {
		k.hi &= ^uint64(0) << (64 - length)
		k.lo = 0
	} else {
		k.lo &= ^uint64(0) << (128 - length)
	}
	k.bits = uint8(length)
	return k
}

func (r *rules) zone(name string) uint32 {
	if name == "" {
		return 0
	}
	return uint32(maphash.String(r.zones, name)) | 1
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	addr = addr.WithZone("")
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
